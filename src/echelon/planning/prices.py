"""What planning takes, for one environment: of all that a planner does, and of a whole call ahead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from echelon.planning.ledger import Meter
from echelon.planning.subgoals import either, known, lower, offers, promise
from echelon.types import Plan, Spent, State, tree_map

if TYPE_CHECKING:
    from echelon.planning.planner import Planner


class Prices:
    """Multiply-accumulates of what one planner does, each counted on a single environment when it is
    first asked for. What is done once and kept, such as its step's distance, is in none of them.
    """

    def __init__(self, planner: Planner) -> None:
        self._planner, self._meter = planner, Meter()

    def search(self, state: State, goal: State, actions: Tensor, rounds: Sequence[int]) -> int:
        """Of `rounds` of so many candidates, then a rollout of the ``actions [B, M, H, A]`` found, and
        how far that goes. Linear in candidates, so two are counted.
        """
        planner, (kept, horizon) = self._planner, actions.shape[1:3]
        here, there, one = tree_map(lambda x: x[:1], (state, goal, actions[:, :1]))
        what = "evaluate either" if offers(goal) else "evaluate"
        first, second = (
            self._meter(f"{what} {k}", planner.evaluate, here, there, one.expand(-1, k, -1, -1))
            for k in (1, 2)
        )
        fixed, each = 2 * first - second, second - first
        macs = len(rounds) * fixed + sum(rounds) * each
        macs += kept * self.way(state, actions)
        if planner.below is None:
            return macs
        return macs + self.gap(state) + self.along(state, goal, horizon)

    def recall(self, states: tuple[State, ...], goals: tuple[State, ...]) -> int:
        """Of finding what was once done, for as many candidates as are asked for."""
        planner, config = self._planner, self._planner.config
        if config.optimizer.proposal != "recall":
            return 0
        here, there = tree_map(lambda x: x[:1], (states, goals))
        count = config.optimizer.candidates
        what = "recall either" if offers(goals[0]) else "recall"
        return self._meter(what, planner.recall, here, there, count, config.horizon)

    def way(self, state: State, actions: Tensor) -> int:
        """Of one rollout."""
        here, one = tree_map(lambda x: x[:1], (state, actions[:, :1]))
        return self._meter("roll out", self._planner.roll_out, here, one)

    def gap(self, state: State) -> int:
        """Of one place from another, as they are predicted: a goal may say more, and take less."""
        here = tree_map(lambda x: x[:1], state)
        return self._meter("gap", self._planner.cost.distance, here, here)

    def distance(self, state: State, goal: State) -> int:
        """Of one place from its goal."""
        here, there = tree_map(lambda x: x[:1], (state, goal))
        return self._meter("distance", self._planner.cost.distance, here, there)

    def along(self, state: State, goal: State, horizon: int) -> int:
        """Of all places on a way from its goal."""
        way = tree_map(lambda x: x[:1, None].expand(-1, horizon, *x.shape[1:]), state)
        there = tree_map(lambda x: x[:1, None], goal)
        return self._meter("along", self._planner.cost.distance, way, there)

    def lower(self, subgoal: State, states: tuple[State, ...]) -> int:
        """To hand a state down, through all levels below."""
        one, here = tree_map(lambda x: x[:1], (subgoal, states))
        return self._meter("lower", lower, self._planner, one, here)

    def promise(self, state: State, goals: tuple[State, ...]) -> int:
        """To see how near a plan comes, where the level below may make for the goal instead."""
        planner = self._planner
        if planner.config.hand_down != "either":
            return 0
        horizon = planner.config.horizon
        way = tree_map(lambda x: x[:1, None].expand(-1, horizon, *x.shape[1:]), state)
        return self._meter("promise", promise, planner, way, tree_map(lambda x: x[:1], goals))

    def watch(self, state: State) -> int:
        """To see how a plan is followed."""
        planner = self._planner
        watched = planner.below is not None and planner.config.watched
        return 2 * self.gap(state) if watched else 0

    def attempt(self, states: tuple[State, ...], goal: State, subgoal: State) -> int:
        """To see how far the level below gets from `states` to `goal`, which stands for a subgoal here;
        its search apart.
        """
        below = self._planner.below
        assert below is not None
        far = below.prices.along(states[-1], goal, below.config.horizon)
        return self.lower(subgoal, states) + far + below.prices.distance(states[-1], goal)

    def call(self, states: tuple[State, ...], goals: tuple[State, ...], effort: float) -> int:
        """Of a whole call, at most: every level looks and searches."""
        planner, config = self._planner, self._planner.config
        macs = self._whole_search(states, goals, effort, config.options)
        below = planner.below
        if below is None:
            return macs
        asked = known(planner, goals)
        macs += self.watch(states[-1]) + self.lower(states[-1], states[:-1])
        macs += self.promise(states[-1], goals)
        if config.enter or config.trust:
            macs += self.distance(states[-1], goals[-1])
        if config.options > 1:
            once = below.prices._whole_search(states[:-1], asked, effort, 1)
            macs += config.options * (once + self.attempt(states[:-1], asked[-1], states[-1]))
        if config.hand_down == "either":
            asked, _ = either(asked, asked, asked[-1]["z"].new_zeros(len(asked[-1]["z"])))
        return macs + below.prices.call(states[:-1], asked, effort)

    def _whole_search(
        self, states: tuple[State, ...], goals: tuple[State, ...], effort: float, options: int
    ) -> int:
        """Of one search, as its configuration has it, in rounds of as few candidates as can be: what it
        takes beyond its candidates, such as to look at the goal, it takes again in each.
        """
        planner = self._planner
        actions = planner.level.prior.mean.expand(1, options, planner.config.horizon, -1)
        evaluations = planner.optimizer.scaled(effort).evaluations
        searched = self.search(states[-1], goals[-1], actions, [1] * evaluations)
        return searched + self.recall(states, goals)


def charged(plan: Plan, macs: Tensor | int) -> Plan:
    """A plan that took so much more, each environment ``[B]`` or all."""
    return replace(plan, spent=replace(plan.spent, macs=plan.spent.macs + macs))


def spent_on(batch: int, calls: int, macs: int, device: torch.device) -> Spent:
    """As much for each environment."""
    one = torch.ones(batch, dtype=torch.int64, device=device)
    return Spent(calls * one, macs * one)
