"""Planning top-down, at any number of levels.

A `Planner` searches at its own level for actions that bring it to its goal. Without a planner below
it, those are the actions to execute: that is flat planning. With one, the states it predicts become
the goals of the planner below, one after the other.

Every environment has clocks of its own. A level searches anew when its plan is old, when all its
subgoals have been pursued, or when the world does not follow it; otherwise it goes on to the next
subgoal when the present one is reached or its time is up. Where a level's subgoal changes, the levels
below it search too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from echelon.config import PlannerConfig
from echelon.planning.clocks import tick
from echelon.planning.compiled import LONGEST, Compiled
from echelon.planning.costs import cost_of
from echelon.planning.optimizers import optimizer_of
from echelon.planning.prices import Prices, charged, spent_on
from echelon.planning.reach import Search, choose
from echelon.planning.subgoals import hand_down, judged, near, offers
from echelon.planning.support import Support
from echelon.types import (
    ActionPrior,
    Cost,
    DistanceKind,
    EchelonError,
    LevelModel,
    Optimizer,
    Plan,
    State,
    never,
    tree_at,
    tree_leading,
    tree_map,
    tree_rows,
    tree_stack,
)

ROWS = 800
"""candidates that a thread of a processor rolls out at a time, whose caches hold what is between"""


def rollout(level: LevelModel, state: State, actions: Tensor) -> State:
    """Predicted states ``[B, K, H, ...]`` from ``state [B, ...]`` under ``actions [B, K, H, A]``.

    The one place where models and search meet. All B x K rows advance together; what is the same for
    the candidates of an environment is not copied for each.
    """
    candidates, horizon = actions.shape[1:3]
    state = tree_map(lambda x: x[:, None].expand(-1, candidates, *x.shape[1:]), state)
    states: list[State] = []
    for t in range(horizon):
        state = level.predict(state, actions[:, :, t])
        states.append(state)
    return tree_stack(states, 2)


def _together(actions: Tensor) -> int:
    """How many of the candidates ``actions [B, K, H, A]`` best advance together."""
    batch, candidates = actions.shape[:2]
    if torch.compiler.is_compiling() or actions.requires_grad or actions.device.type != "cpu":
        return candidates
    return max(1, ROWS * torch.get_num_threads() // batch)


@dataclass
class Planner:
    """One level's search, and the planner of the level below."""

    level: LevelModel
    optimizer: Optimizer
    cost: Cost
    config: PlannerConfig
    below: Planner | None = None
    prices: Prices = field(init=False, repr=False)
    _support: Support | None = field(default=None, init=False, repr=False)
    compiled: Compiled | None = field(default=None, init=False, repr=False)
    _step: Tensor | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.prices = Prices(self)
        if self.config.support:
            self._support = Support.of(self.level.prior)
        if self.config.compile and self.config.horizon <= LONGEST:
            self.compiled = Compiled(self.evaluate)

    @property
    def depth(self) -> int:
        """Levels that plan, this one included."""
        return 1 + (self.below.depth if self.below else 0)

    @property
    def duration(self) -> int:
        """Environment steps per step of this level."""
        return self.level.stride * (self.below.duration if self.below else 1)

    def due(self, plan: Plan, now: int) -> Tensor:
        """``[B]`` bool: whose plan is too old, at any level, to be followed without another look."""
        old = now - plan.made >= self.config.replan
        if self.below is None or plan.below is None:
            return old
        return old | self.below.due(plan.below, now)

    def plan(
        self,
        states: tuple[State, ...],
        goals: tuple[State, ...],
        now: int,
        generator: torch.Generator,
        previous: Plan | None = None,
        force: Tensor | None = None,
        effort: float = 1.0,
        stop: Callable[[], bool] = never,
    ) -> Plan:
        """Plan from `states` to `goals`, each given as levels 0 to this one see it ``[B, ...]``.

        now: environment steps since the episodes began.
        previous: the plans returned last, kept while their clocks allow it, then the start of the
            next search.
        force: [B] bool, whose goal has changed, so that its plan is of no use but as a start.
        effort: of every search, as a multiple of the usual; see :meth:`Optimizer.scaled`.
        stop: asked between the rounds of a search.
        """
        search = Search(now, generator, effort, stop)
        if previous is None:
            plan = self._search(states, goals, None, search)
            changed, looks = torch.ones_like(plan.direct), 0
        else:
            looks = self.prices.watch(states[-1])
            plan, changed, due = tick(
                previous.at_rest(), states[-1], now, self.config, self.duration, self.cost.distance
            )
            rows = (due if force is None else due | force).nonzero().squeeze(1)
            if len(rows):
                old = plan.select(rows)
                fresh = self._search(tree_rows(states, rows), tree_rows(goals, rows), old, search)
                plan = fresh if len(rows) == len(changed) else plan.put(rows, fresh)
                changed = changed.index_fill(0, rows, True)
        if self.below is None:
            return plan
        subgoals = self._subgoals(plan, states[:-1], changed)
        handed = self.prices.lower(states[-1], states[:-1])
        handed += self.prices.promise(states[-1], goals)
        plan = charged(plan, looks + changed * handed)
        below = self.below.plan(
            states[:-1], subgoals, now, generator, plan.below, changed, effort, stop
        )
        return replace(plan, below=below)

    # ------------------------------------------------------------------ search

    def _search(
        self,
        states: tuple[State, ...],
        goals: tuple[State, ...],
        old: Plan | None,
        search: Search,
    ) -> Plan:
        """New plans; where the goal is near, or plans have failed, it is handed down unsearched."""
        if self.below is None or not (self.config.enter or self.config.trust):
            return self.find(states, goals, old, search, self.config.options)
        away = self.cost.distance(states[-1], goals[-1])
        near = away <= self.config.enter * self.step_distance
        if self.config.trust and old is not None:
            near = near | (old.lost >= self.config.trust)
        far = (~near).nonzero().squeeze(1)
        if len(far) == len(away):
            plan = self.find(states, goals, old, search, self.config.options)
        else:
            plan = self._straight(states, goals, away, old, search)
        if 0 < len(far) < len(away):
            states, goals, old = (
                tree_rows(states, far),
                tree_rows(goals, far),
                old and old.select(far),
            )
            plan = plan.put(far, self.find(states, goals, old, search, self.config.options))
        return charged(plan, self.prices.distance(states[-1], goals[-1]))

    @property
    def step_distance(self) -> Tensor:
        """``[]`` within which nine in ten known states are of where they were a step before."""
        if self._step is None:
            self._step = self.cost.distance(*self.level.neighbours).quantile(0.9)
        return self._step

    def _straight(
        self,
        states: tuple[State, ...],
        goals: tuple[State, ...],
        away: Tensor,
        old: Plan | None,
        search: Search,
    ) -> Plan:
        """Plans that hand down the goal, and would else go on as before."""
        state, (batch,) = states[-1], tree_leading(states[-1])
        start, _ = self._start(batch, old, search.now)
        ahead = tree_map(lambda x: x[:, 0], self.roll_out(state, start[:, None]))
        time = torch.full_like(away, search.now, dtype=torch.int64)
        direct = torch.ones_like(away, dtype=torch.bool)
        macs = self.prices.way(state, start[:, None])
        spent = spent_on(batch, self.config.horizon, macs, away.device)
        below = None if old is None else old.below
        aim = torch.zeros_like(time)
        lost = aim if old is None else old.lost.clamp_max(max(0, self.config.trust - 1))
        return Plan(start, ahead, away, goals, time, aim, time, away, direct, lost, spent, below)

    def find(
        self,
        states: tuple[State, ...],
        goals: tuple[State, ...],
        old: Plan | None,
        search: Search,
        options: int,
    ) -> Plan:
        """Search; of the `options` best plans, the cheapest whose first subgoal can be reached."""
        began = time.perf_counter()
        state, goal = states[-1], goals[-1]
        (batch,) = tree_leading(state)
        start, warm = self._start(batch, old, search.now)
        rounds: list[int] = []

        def objective(actions: Tensor) -> Tensor:
            rounds.append(actions.shape[1] * (3 if actions.requires_grad else 1))
            compiled = None if actions.requires_grad else self.compiled
            return (compiled or self.evaluate)(state, goal, actions)

        optimizer = self.optimizer if search.effort == 1 else self.optimizer.scaled(search.effort)
        actions, cost = optimizer.minimize(
            objective,
            start,
            warm,
            self._prior(states, goals),
            search.generator,
            options,
            search.stop,
        )
        predicted = self.roll_out(state, actions)
        calls = (sum(rounds) + options) * self.config.horizon
        macs = self.prices.search(state, goal, actions, rounds) + self.prices.recall(states, goals)
        spent = spent_on(batch, calls, macs, start.device)
        below = None if old is None else old.below
        best = torch.zeros(batch, dtype=torch.int64, device=start.device)
        if options > 1:
            best, below, took = choose(self, states[:-1], predicted, below, search)
            spent = spent + took
        actions, predicted, cost = (tree_at(x, best) for x in (actions, predicted, cost))
        direct, gap = torch.zeros_like(best, dtype=torch.bool), torch.zeros_like(cost)
        if self.below is not None:
            first = tree_map(lambda x: x[:, 0], predicted)
            gap = self.cost.distance(state, first)
            away = self.cost.distance(predicted, tree_map(lambda x: x[:, None], goal))
            direct = away.argmin(-1) == 0
        made = torch.full_like(best, search.now)
        spent = replace(spent, seconds=time.perf_counter() - began)
        aim = torch.zeros_like(best)
        lost = aim if old is None else old.lost
        return Plan(
            actions, predicted, cost, goals, made, aim, made, gap, direct, lost, spent, below
        )

    def _prior(self, states: tuple[State, ...], goals: tuple[State, ...]) -> ActionPrior:
        """What the level's actions are like, with what led to such goals before where that is asked."""
        if (asked := self.config.optimizer).proposal != "recall":
            return self.level.prior
        found = self.recall(states, goals, asked.candidates, self.config.horizon)
        return replace(self.level.prior, recalled=found)

    def recall(
        self, states: tuple[State, ...], goals: tuple[State, ...], count: int, horizon: int
    ) -> Tensor:
        """``[B, count, horizon, A]`` actions of this level, as it sees what level 0 once did."""
        if self.below is None:
            goal = goals[0]
            wanted = [goal, goal["instead"]] if offers(goal) else [goal]
            found = self.level.recall(states[0], wanted, -(-count // len(wanted)), horizon)
            return found.transpose(1, 2).flatten(1, 2)[:, :count]
        done = self.below.recall(states[:-1], goals[:-1], count, horizon * self.level.stride)
        return self.level.encode_action(done.unflatten(2, (horizon, self.level.stride)))

    def roll_out(self, state: State, actions: Tensor) -> State:
        """``state [B, ...], actions [B, K, H, A] -> states [B, K, H, ...]``"""
        return rollout(self.level, state, actions)

    def evaluate(self, state: State, goal: State, actions: Tensor) -> Tensor:
        """``state [B, ...], goal [B, ...], actions [B, K, H, A] -> [B, K]``: what is minimised."""
        costs = [
            judged(self.cost, self.roll_out(state, some), goal)
            for some in actions.split(_together(actions), 1)
        ]
        cost = torch.cat(costs, 1)
        if self._support is not None:
            cost = cost + self.config.support * self._support(actions)
        return cost

    def _start(self, batch: int, old: Plan | None, now: int) -> tuple[Tensor, Tensor]:
        """``[B, H, A]`` the old plan without what was executed of it, filled up with the prior's
        mean; ``[B]`` bool, whether there was one.
        """
        prior = self.level.prior
        mean = prior.mean.expand(batch, self.config.horizon, -1)
        if old is None:
            return mean, torch.zeros(batch, dtype=torch.bool, device=mean.device)
        done = (now - old.made) // self.duration if self.below is None else old.aim
        step = torch.arange(self.config.horizon, device=mean.device) + done[:, None]
        kept = step < self.config.horizon
        shifted = old.actions.take_along_dim(step.clamp_max(self.config.horizon - 1)[..., None], 1)
        return torch.where(kept[..., None], shifted, mean), torch.ones_like(done, dtype=torch.bool)

    # ------------------------------------------------------------------ goals and handing down

    def aim(self, states: tuple[State, ...]) -> tuple[State, ...]:
        """The states ``[B, ...]`` as goals, level 0 first."""
        goals = [self.level.aim(self.kind, states[-1], states[-1])]
        planner = self.below
        for state in reversed(states[:-1]):
            assert planner is not None
            goals.insert(0, near(planner, state, state))
            planner = planner.below
        return tuple(goals)

    @property
    def kind(self) -> DistanceKind:
        """How this level measures how far a goal is, by itself."""
        return "latent" if self.config.cost == "upper" else self.config.cost

    def _subgoals(
        self, plan: Plan, states: tuple[State, ...], changed: Tensor
    ) -> tuple[State, ...]:
        """What the level below is to reach, as levels 0 to it see that; lowered where it changed."""
        if plan.below is None or changed.all():
            return hand_down(self, plan, states)
        rows = changed.nonzero().squeeze(1)
        if not len(rows):
            return plan.below.goals
        fresh = hand_down(self, plan.select(rows), tree_rows(states, rows))
        return tree_map(lambda x, new: x.index_copy(0, rows, new), plan.below.goals, fresh)


def build(
    levels: Sequence[LevelModel], configs: Sequence[PlannerConfig], costs: Sequence[Cost] = ()
) -> Planner:
    """The planner of the highest level configured; level 0 first. One configuration plans flat.

    costs: one a level, in place of what the configuration says.
    """
    planner: Planner | None = None
    for index, (level, config) in enumerate(zip(levels, configs, strict=False)):
        cost = costs[index] if costs else cost_of(levels, configs, index)
        planner = Planner(level, optimizer_of(config.optimizer), cost, config, planner)
        if index == 0 and config.replan > config.horizon:
            raise EchelonError(
                f"replan: {config.replan} steps, but a plan of level 0 has only {config.horizon}"
            )
    if planner is None:
        raise EchelonError("planner: configure at least one level to plan at")
    return planner
