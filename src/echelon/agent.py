"""Driving an environment: encode, plan, act, and keep the plan until its clock runs out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from echelon.checkpoint import load_model
from echelon.config import PlannerConfig, Precision, faster
from echelon.growth import Growth, own_graphs
from echelon.limits import warn_of_goals, warn_of_horizons
from echelon.models.hierarchy import Hierarchy, Observation
from echelon.models.precision import in_precision
from echelon.planning.explain import explain
from echelon.planning.ledger import Budget, Meter, Pace, deadline, effort_within
from echelon.planning.planner import Planner, build
from echelon.presets import planner_for
from echelon.types import (
    Cost,
    EchelonError,
    LevelModel,
    Plan,
    Spent,
    State,
    never,
    tree_leading,
    tree_map,
)


def load(
    path: Path | str,
    planner: Sequence[PlannerConfig] = (),
    device: torch.device | str = "cpu",
    seed: int = 0,
    budget: Budget | None = None,
    precision: Precision | None = None,
    compile: bool = False,
) -> Agent:
    """An agent with the model of a checkpoint.

    budget: of each call that plans; searches are scaled to it.
    planner: settings for the levels that plan, level 0 first; by default those the model is known
        to work with. One alone plans flat.
    precision, compile: of all levels, in place of what the settings say; see
        :class:`echelon.config.PlannerConfig`.
    """
    model = load_model(path, device)
    levels = faster(planner or planner_for(model.config), precision, compile)
    return Agent.of(model, levels, seed, budget=budget)


@dataclass
class Agent:
    """Plans for a batch of environments at once, from images to actions.

    ``agent.reset(goal)`` then ``agent.act(observation)`` each step; with or without a leading batch
    dimension. Each environment is looked at when one of its own clocks has run out, and where landmark
    graphs grow (:mod:`echelon.growth`), all of them each time that those are shown the way.
    """

    model: Hierarchy
    planner: Planner
    seed: int = 0
    budget: Budget | None = None
    """of each call that plans; None plans as configured"""
    growth: Growth = field(default_factory=Growth)
    """what takes in the ways that environments go, where a level's landmark graph has spare slots"""

    def __post_init__(self) -> None:
        self.device = next(self.model.parameters()).device
        self.model.eval()
        self._meter = Meter()
        self._pace: Pace | None = None
        self.goals: tuple[State, ...] = ()
        self.plan: Plan | None = None
        self.spent = Spent.nothing(0, self.device)

    @staticmethod
    def of(
        model: Hierarchy,
        configs: Sequence[PlannerConfig],
        seed: int = 0,
        costs: Sequence[Cost] = (),
        budget: Budget | None = None,
    ) -> Agent:
        """An agent that plans at as many levels as there are `configs`, level 0 first. Warns where
        one looks farther ahead than it was measured to predict.
        """
        if len(configs) > len(model.levels):
            raise EchelonError(
                f"planner: {len(configs)} levels to plan at, but the model has {len(model.levels)}"
            )
        own, growth = own_graphs(model.levels, configs)
        levels: list[LevelModel] = [*own]
        for index, config in enumerate(configs):
            levels[index] = in_precision(own[index], config.precision)
        agent = Agent(model, build(levels, configs, costs), seed, budget, growth)
        warn_of_horizons(model, configs)
        return agent

    @torch.no_grad()
    def reset(self, goal: NDArray[np.uint8]) -> None:
        """Begin an episode towards a goal image ``[H, W, 3]``, or one a batch ``[B, H, W, 3]``. Warns
        of goals that are far from all that was seen in training.
        """
        self._batched = goal.ndim == 4
        frames = self._frames(goal)
        self.generator = torch.Generator(self.device).manual_seed(self.seed)
        seen = self._see({"pixels": self._clip(None, frames)})
        warn_of_goals(self.model, seen[0]["z"])
        self.goals = self.planner.aim(seen)
        self._moved = torch.zeros(len(frames), dtype=torch.bool, device=self.device)
        self.plan, self.spent = None, Spent.nothing(len(frames), self.device)
        self.now = 0
        self._seen: Tensor | None = None
        self.growth.begin()

    @torch.no_grad()
    def aim(self, goal: NDArray[np.uint8], index: NDArray[np.int64]) -> None:
        """Other goals ``[N, H, W, 3]`` for the environments `index` [N] of a batch on its way: their
        plans are made anew when they act next.
        """
        self._ready()
        if len(index) != len(goal):
            raise EchelonError(
                f"agent: {len(goal)} goals for {len(index)} environments; give one each"
            )
        rows = torch.as_tensor(index, device=self.device)
        aimed = self.planner.aim(self._see({"pixels": self._clip(None, self._frames(goal))}))
        self.goals = tree_map(lambda x, new: x.index_copy(0, rows, new), self.goals, aimed)
        self._moved[rows] = True

    @torch.no_grad()
    def act(
        self, observation: NDArray[np.uint8], proprio: NDArray[Any] | None = None
    ) -> NDArray[np.float32]:
        """The action ``[A]`` or actions ``[B, A]`` for the next step; `spent` says what it took.

        observation: ``[H, W, 3]``, or ``[B, H, W, 3]`` as many as there are goals.
        proprio: ``[P]`` or ``[B, P]``, where the model was trained with it.
        """
        self._ready()
        frames = self._frames(observation)
        (count,) = tree_leading(self.goals[0])
        if len(frames) != count:
            raise EchelonError(
                f"agent: {len(frames)} observations for {count} goals; give one each, or keep() the "
                "environments that go on"
            )
        self._seen = self._clip(self._seen, frames)
        self._observed = observed = {"pixels": self._seen} | self._proprio(proprio, count)
        self.spent = Spent.nothing(count, self.device)
        if self.growth.due(self.now):
            self._grow(observed)
        if self.plan is None:
            self.plan = self._look(observed, torch.arange(count, device=self.device), None)
        else:
            due = self.planner.due(self.plan, self.now) | self._moved
            rows = due.nonzero().squeeze(1)
            if len(rows) == count:
                self.plan = self._look(observed, rows, self.plan)
            elif len(rows):
                fresh = self._look(observed, rows, self.plan.select(rows))
                self.plan = self.plan.put(rows, fresh)
        lowest = self.plan.lowest
        step = (self.now - lowest.made)[:, None, None]
        action = lowest.actions.take_along_dim(step, 1)[:, 0].cpu().numpy()
        if not np.isfinite(action).all():
            raise EchelonError(
                "agent: the plan's actions are not finite; neither is the model's action prior"
            )
        self.now += 1
        return action if self._batched else action[0]

    def _ready(self) -> None:
        if not self.goals:
            raise EchelonError("agent: has no goal yet; call reset(goal) first")

    def _look(self, observed: Observation, rows: Tensor, previous: Plan | None) -> Plan:
        """Encode what the environments `rows` [B'] show, and plan from there; `spent` says so."""
        began = time.perf_counter()
        here = observed if previous is None else tree_map(lambda x: x[rows], observed)
        encoding = self._meter("see", self._see, tree_map(lambda x: x[:1], here))
        states = self._see(here)
        goals = tree_map(lambda x: x[rows], self.goals)
        effort, stop = self._afford(states, goals, encoding, began)
        planning = time.perf_counter()
        moved = self._moved[rows]
        plan = self.planner.plan(
            states, goals, self.now, self.generator, previous, moved, effort, stop
        )
        self._moved[rows] = False
        total = plan.total
        if self._pace is not None:
            spent = int(total.macs.sum()) + encoding * len(rows)
            self._pace.learn(spent, time.perf_counter() - planning)
        self.spent = Spent(
            self.spent.calls.index_add(0, rows, total.calls),
            self.spent.macs.index_add(0, rows, total.macs + encoding),
            self.spent.seconds + time.perf_counter() - began,
        )
        return plan

    def _grow(self, observed: Observation) -> None:
        """Show the graphs that grow where all environments are; encoding that is spent, too."""
        began = time.perf_counter()
        encoding = self._meter("see", self._see, tree_map(lambda x: x[:1], observed))
        self.growth.add(self._see(observed), self.now)
        seconds = time.perf_counter() - began
        self.spent = Spent(self.spent.calls, self.spent.macs + encoding, seconds)

    def _afford(
        self, states: tuple[State, ...], goals: tuple[State, ...], encoding: int, began: float
    ) -> tuple[float, Callable[[], bool]]:
        """The effort that the budget allows, and when to stop all the same."""
        budget, (count,) = self.budget, tree_leading(states[0])
        if budget is None or budget == Budget():
            return 1.0, never

        def macs(effort: float) -> int:
            return encoding + self.planner.prices.call(states, goals, effort)

        least, allowed, stop = macs(0), math.inf, never
        if budget.tflops is not None:
            allowed = budget.tflops * 1e12 / 2
            if least > allowed:
                raise EchelonError(
                    f"budget-tflops: {budget.tflops:g} is too small for one round of every level; the "
                    f"least that works is {2e-12 * least:.3g}"
                )
        if budget.ms is not None:
            if self._pace is None:
                self._pace = self._paced(states, goals, macs, count)
                if self._pace.least > budget.ms / 1e3:
                    raise EchelonError(
                        f"budget-ms: {budget.ms:g} is too short for one round of every level; the "
                        f"least that works here is about {1e3 * self._pace.least:.3g}"
                    )
                began = time.perf_counter()
            left = budget.ms / 1e3 - (time.perf_counter() - began)
            allowed = min(allowed, self._pace.affords(left) / count)
            stop = deadline(left)
        return effort_within(macs, allowed), stop

    def _paced(
        self,
        states: tuple[State, ...],
        goals: tuple[State, ...],
        macs: Callable[[float], int],
        count: int,
    ) -> Pace:
        """How fast this machine plans: by the least plan there is, and by one of four times as much,
        after some that warm up, of a single environment too: code is compiled for that apart.
        """

        def seconds(effort: float, rows: int = count) -> float:
            began = time.perf_counter()
            generator = torch.Generator(self.device).manual_seed(0)
            here, there = tree_map(lambda x: x[:rows], (states, goals))
            self.planner.plan(here, there, self.now, generator, effort=effort)
            return time.perf_counter() - began

        more = effort_within(macs, 4 * macs(0.0))
        for rows in (1, count):
            seconds(0.0, rows)
        seconds(more)
        pace = Pace(count * macs(0.0), seconds(0.0))
        pace.learn(count * macs(more), seconds(more), 1.0)
        return pace

    def keep(self, index: NDArray[np.int64]) -> None:
        """Go on with the environments `index` of the batch alone."""
        chosen = torch.as_tensor(index, device=self.device)
        self.goals = tuple({k: v[chosen] for k, v in goal.items()} for goal in self.goals)
        self.plan = self.plan.select(chosen) if self.plan is not None else None
        self._seen = self._seen[chosen] if self._seen is not None else None
        self._moved = self._moved[chosen]
        self.growth.keep(chosen)

    @torch.no_grad()
    def explain(self) -> dict[str, Any]:
        """The plan in force for the first environment, as plain types; see
        :func:`echelon.planning.explain.explain`.
        """
        if self.plan is None or self._seen is None:
            return {"levels": []}
        states = self._see(tree_map(lambda x: x[:1], self._observed))
        generator = torch.Generator(self.device).manual_seed(self.seed)
        return {"levels": explain(self.planner, self.plan, states, generator)}

    def _see(self, observed: Observation) -> tuple[State, ...]:
        states = self.model.lift(self.model.encode(observed))
        return tuple(states[: self.planner.depth])

    def _clip(self, seen: Tensor | None, frames: Tensor) -> Tensor:
        """``[B, context, H, W, 3]``: the frames and those before; the first stands for what was not."""
        before = (
            frames[:, None].expand(-1, self.model.context, -1, -1, -1) if seen is None else seen
        )
        return torch.cat([before[:, 1:], frames[:, None]], 1)

    def _proprio(self, given: NDArray[Any] | None, batch: int) -> dict[str, Tensor]:
        size = self.model.proprio_dim
        if given is None and size == 0:
            return {}
        if given is None or given.reshape(batch, -1).shape[1] != size:
            found = "nothing" if given is None else f"shape {given.shape}"
            raise EchelonError(
                f"proprio: the model was trained with {size} values beside each image "
                f"('{self.model.config.proprio}'); act was given {found}"
            )
        values = torch.as_tensor(given.reshape(batch, 1, size), dtype=torch.float32)
        return {"proprio": values.to(self.device)}

    def _frames(self, images: NDArray[np.uint8]) -> Tensor:
        size = self.model.config.image_size
        batch = images if images.ndim == 4 else images[None]
        if batch.shape[1:] != (size, size, 3) or batch.dtype != np.uint8:
            raise EchelonError(
                f"image: got {batch.dtype} {tuple(images.shape)}, the model was trained on uint8 "
                f"({size}, {size}, 3); resize it"
            )
        return torch.from_numpy(np.ascontiguousarray(batch)).to(self.device)
