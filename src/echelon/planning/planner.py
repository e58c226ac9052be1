"""Planning top-down, at any number of levels.

A `Planner` searches at its own level for actions that bring it to its goal. Without a planner below
it, those are the actions to execute: that is flat planning. With one, the first state it predicts
becomes the goal of the planner below. Each level keeps its plan on a clock of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from echelon.config import PlannerConfig
from echelon.planning.cem import CEM
from echelon.planning.costs import DistanceCost
from echelon.planning.ledger import macs_of
from echelon.planning.mppi import MPPI
from echelon.types import (
    Cost,
    EchelonError,
    LevelModel,
    Optimizer,
    Plan,
    Spent,
    State,
    tree_map,
    tree_stack,
)


def rollout(level: LevelModel, state: State, actions: Tensor) -> State:
    """Predicted states ``[B, K, H, ...]`` from ``state [B, ...]`` under ``actions [B, K, H, A]``.

    The one place where models and search meet. All B x K rows advance together.
    """
    batch, candidates, horizon, size = actions.shape
    state = tree_map(lambda x: x.repeat_interleave(candidates, 0), state)
    rows = actions.reshape(batch * candidates, horizon, size)
    states: list[State] = []
    for t in range(horizon):
        state = level.predict(state, rows[:, t])
        states.append(state)
    return tree_map(lambda x: x.unflatten(0, (batch, candidates)), tree_stack(states, 1))


@dataclass
class Planner:
    """One level's search, and the planner of the level below."""

    level: LevelModel
    optimizer: Optimizer
    cost: Cost
    horizon: int
    """H, steps of this level"""
    replan: int
    """environment steps that a plan is kept"""
    below: Planner | None = None
    _macs: int | None = field(default=None, init=False, repr=False)

    @property
    def depth(self) -> int:
        """Levels that plan, this one included."""
        return 1 + (self.below.depth if self.below else 0)

    @property
    def duration(self) -> int:
        """Environment steps per step of this level."""
        return self.level.stride * (self.below.duration if self.below else 1)

    def plan(
        self,
        states: tuple[State, ...],
        goals: tuple[State, ...],
        now: int,
        generator: torch.Generator,
        previous: Plan | None = None,
        force: bool = False,
    ) -> Plan:
        """Plan from `states` to `goals`, each given as levels 0 to this one see it ``[B, ...]``.

        now: environment steps since the episode began.
        previous: the plan returned last; kept until it is `replan` steps old, then the start of the
            next search. `force` makes a new one all the same: the goal has changed.
        """
        kept = previous is not None and not force and now - previous.time < self.replan
        if previous is not None and kept:
            plan = replace(previous, spent=Spent())
        else:
            plan = self._search(states, goals, now, generator, previous)
        if self.below is None:
            return plan
        last = previous.below if previous is not None else None
        subgoals = last.goals if last is not None and kept else self._hand_down(states, plan)
        below = self.below.plan(states[:-1], subgoals, now, generator, last, force=not kept)
        return replace(plan, below=below, spent=plan.spent + below.spent)

    def _search(
        self,
        states: tuple[State, ...],
        goals: tuple[State, ...],
        now: int,
        generator: torch.Generator,
        previous: Plan | None,
    ) -> Plan:
        state, goal, prior = states[-1], goals[-1], self.level.prior
        batch = tree_leading(state)
        start = prior.mean.expand(batch, self.horizon, -1)
        warm = torch.zeros(batch, dtype=torch.bool, device=start.device)
        if previous is not None:
            done = min((now - previous.time) // self.duration, self.horizon)
            start = torch.cat([previous.actions[:, done:], start[:, :done]], 1)
            warm = ~warm

        def objective(actions: Tensor) -> Tensor:
            return self.cost(rollout(self.level, state, actions), goal)

        actions, cost = self.optimizer.minimize(objective, start, warm, prior, generator)
        predicted = tree_map(lambda x: x[:, 0], rollout(self.level, state, actions[:, None]))
        return Plan(actions, predicted, cost, goals, now, self._spent(state, goal, actions))

    def _spent(self, state: State, goal: State, actions: Tensor) -> Spent:
        """What a search takes for one environment; the multiply-accumulates are counted once."""
        search = self.optimizer
        if self._macs is None:
            one_state, one_goal = tree_map(lambda x: x[:1], (state, goal))
            one = actions[:1, None]

            def evaluate(plans: Tensor) -> Tensor:
                return self.cost(rollout(self.level, one_state, plans), one_goal)

            round_ = macs_of(evaluate, one.expand(-1, search.candidates, -1, -1))
            self._macs = search.iterations * round_ + macs_of(rollout, self.level, one_state, one)
        evaluated = search.iterations * search.candidates + 1
        return Spent(evaluated * self.horizon, self._macs)

    def _hand_down(self, states: tuple[State, ...], plan: Plan) -> tuple[State, ...]:
        """What the level below is to reach: the first predicted state, or the goal itself if near.

        Near means that no later step of the plan is nearer to the goal than the first.
        """
        goal = plan.goals[-1]
        distance = self.level.distance(plan.states, tree_map(lambda x: x[:, None], goal))
        near = distance.argmin(-1) == 0

        def choose(known: Tensor, new: Tensor) -> Tensor:
            return torch.where(near.reshape(-1, *[1] * (new.ndim - 1)), known, new)

        subgoals: list[State] = []
        subgoal, planner = tree_map(lambda x: x[:, 0], plan.states), self
        while planner.below is not None:
            subgoal = planner.level.lower(subgoal)
            subgoals.insert(0, subgoal)
            planner = planner.below
        return tuple(
            tree_map(choose, known, new)
            for known, new in zip(plan.goals[:-1], subgoals, strict=True)
        )


def tree_leading(state: State) -> int:
    """Size of the leading dimension that all leaves share."""
    sizes: list[int] = []
    tree_map(lambda x: sizes.append(x.shape[0]), state)
    return sizes[0]


def build(
    levels: Sequence[LevelModel], configs: Sequence[PlannerConfig], costs: Sequence[Cost] = ()
) -> Planner:
    """The planner of the highest level configured; level 0 first. One configuration plans flat.

    costs: one a level instead of the distance of its own.
    """
    planner: Planner | None = None
    kinds = {"cem": CEM, "mppi": MPPI}
    for index, (level, config) in enumerate(zip(levels, configs, strict=False)):
        optimizer = kinds[config.optimizer.kind](config.optimizer)
        cost = costs[index] if costs else DistanceCost(level.distance, config.minimum)
        planner = Planner(level, optimizer, cost, config.horizon, config.replan, planner)
        if index == 0 and config.replan > config.horizon:
            raise EchelonError(
                f"replan: {config.replan} steps, but a plan of level 0 has only {config.horizon}"
            )
    if planner is None:
        raise EchelonError("planner: configure at least one level to plan at")
    return planner
