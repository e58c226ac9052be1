"""Planner settings that are known to work, and by what name the records call them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from echelon.config import ModelConfig, OptimizerConfig, PlannerConfig

CostKind: TypeAlias = Literal["latent", "upper", "learned", "graph"]
"""see :attr:`echelon.config.PlannerConfig.cost`"""


def planner_for(model: ModelConfig) -> tuple[PlannerConfig, ...]:
    """What an agent plans with when it is told nothing."""
    if model.encoder.kind == "things":
        return passing(model)
    if len(model.levels) == 1:
        long = FlatSetting(horizon=200, candidates=16, minimum=1.0)
        return (ALONG_PATHS if model.knows_floor else long).levels
    return patiently(eagerly(model), model)


NEAREST = PlannerConfig(
    30,
    1,
    OptimizerConfig("evolution", 16, 2, 2, correlation=0.9, warm_noise=0.25, proposal="recall"),
    minimum=1.0,
)
"""level 0 alone, where a goal is a moment that others follow"""
AHEAD = 60
"""environment steps that levels above look ahead there"""


def passing(model: ModelConfig) -> tuple[PlannerConfig, ...]:
    """Where a goal is a moment that others follow: searches at every level for a plan that comes as
    near to it as can be, and may go on. What levels above recall is tried as it is: varied, it leaves
    what they know; and level 0, which sees more exactly, makes for the goal itself where it can.
    """
    if model.recall:
        search = NEAREST.optimizer
        above = replace(search, iterations=1, residual=0.0)
    else:
        search = above = replace(NEAREST.optimizer, proposal="gaussian")
    fine = replace(NEAREST, optimizer=search)
    coarse = replace(NEAREST, replan=5, optimizer=above, hand_down="either")
    durations = model.durations[1:]
    return (fine, *(replace(coarse, horizon=max(1, AHEAD // each)) for each in durations))


def eagerly(model: ModelConfig) -> tuple[PlannerConfig, ...]:
    """A short search at every level of two or more, made anew every other step."""
    stride = model.levels[1].stride
    fine = PlannerConfig(
        horizon=stride,
        replan=min(2, stride),
        optimizer=OptimizerConfig(candidates=16, iterations=1, elites=2, correlation=0.9),
    )
    coarse = tuple(
        PlannerConfig(
            horizon=4,
            replan=2,
            optimizer=OptimizerConfig(candidates=32, iterations=2, elites=4, correlation=0.3),
            minimum=0.3,
        )
        for _ in model.levels[1:]
    )
    return (fine, *coarse)


def costs_of(model: ModelConfig) -> tuple[CostKind, ...]:
    """The distances that a model's levels can be told to descend."""
    found: list[CostKind] = ["latent"]
    upper = model.levels[1:]
    if upper and all(level.latent == "own" for level in upper):
        found.append("upper")
    if all(level.distance.kind != "latent" for level in model.levels):
        found.append("learned")
    if all(level.landmarks.count for level in model.levels):
        found.append("graph")
    return tuple(found)


def settings_for(model: ModelConfig) -> dict[str, tuple[PlannerConfig, ...]]:
    """By name, level 0 first, what a planner is chosen from where measurement decides: every cost that
    the model offers, on every number of its levels.
    """
    return {
        name: levels
        for cost in costs_of(model)
        for depth in range(1, len(model.levels) + 1)
        for name, levels in settings_of(model, cost, depth).items()
    }


def settings_of(
    model: ModelConfig, cost: CostKind, depth: int
) -> dict[str, tuple[PlannerConfig, ...]]:
    """By name, the searches on the lowest `depth` levels of which those above level 0, or it alone,
    descend a cost; none where a hierarchy has no such distance.

    Flat: long searches where the cost is deceptive far away, short ones where it is not. Above that,
    plans that are made anew at every turn, or followed until they are used up or fail (patient), also
    with shorter searches on level 0 (small); and where the cost is deceptive, those that look as far as
    flat ones do (long).
    """
    name = f"{cost}-{depth}"
    if depth == 1:
        if cost == "latent":
            long = (FlatSetting(150, 8, replan=20, minimum=1.0), FlatSetting(200, 16, minimum=1.0))
            return {f"{name}-{s.name}": with_cost(s.levels, cost) for s in long}
        short = [
            FlatSetting(20, 8, correlation=0.9, replan=replan, minimum=0.3) for replan in (2, 4)
        ]
        return {f"{name}-r{s.replan}": with_cost(s.levels, cost) for s in short}
    if cost == "latent" and any(level.latent == "own" for level in model.levels[1:depth]):
        return {}
    fine, *above = eagerly(model)[:depth]
    fine = replace(fine, cost="latent")
    eager = (fine, *with_cost(above, "latent" if cost == "upper" else cost))
    small, *patient = patiently(eager, model)
    found = {
        name: eager,
        f"{name}-patient": (fine, *patient),
        f"{name}-patient-small": (small, *patient),
    }
    if cost == "latent":
        *middle, top = patient
        once = replace(top.optimizer, candidates=32, iterations=2, elites=4)
        horizon = max(top.horizon, 200 // model.durations[depth - 1])
        far = replace(top, horizon=horizon, minimum=1.0, optimizer=once)
        found[f"{name}-long"] = (small, *middle, replace(far, watchdog=None, trust=0))
    return found


def patiently(levels: Sequence[PlannerConfig], model: ModelConfig) -> tuple[PlannerConfig, ...]:
    """The same levels, but plans above level 0 are followed until they are used up or fail, and
    searched for longer, which costs little where they are so few; and level 0's are short searches, as
    a subgoal is near: of few candidates and kept for longer, but where places are read off the image,
    since there an agent that searches so little is slow. Above level 1, where steps are long and least
    is known of them, the goal itself is handed down once a plan has failed.
    """
    fine, *above = levels
    brief = replace(fine, horizon=min(6, fine.horizon))
    if not model.knows_floor:
        few = replace(brief.optimizer, candidates=8, elites=1)
        brief = replace(brief, replan=min(4, brief.horizon), optimizer=few)
    longer = {"candidates": 64, "iterations": 3, "elites": 6, "correlation": 0.6}
    durations = model.durations[1 : len(levels)]
    followed = [
        replace(
            level,
            replan=4 * duration,
            watchdog=0.5,
            reached=0.6,
            trust=min(1, index),
            optimizer=replace(level.optimizer, **longer),
        )
        for index, (level, duration) in enumerate(zip(above, durations, strict=True))
    ]
    return (brief, *followed)


def with_cost(levels: Sequence[PlannerConfig], cost: CostKind) -> tuple[PlannerConfig, ...]:
    """The same searches, all of which descend a cost."""
    return tuple(replace(level, cost=cost) for level in levels)


@dataclass(frozen=True)
class FlatSetting:
    """One way to plan at level 0 alone, under the short name that its records carry."""

    horizon: int
    candidates: int
    iterations: int = 1
    correlation: float = 0.95
    replan: int = 5
    kind: Literal["cem", "mppi"] = "cem"
    minimum: float = 0.7

    @property
    def name(self) -> str:
        """Such as ``cem-h200-k16x1-c95-r5-m70``."""
        return (
            f"{self.kind}-h{self.horizon}-k{self.candidates}x{self.iterations}"
            f"-c{round(100 * self.correlation)}-r{self.replan}-m{round(100 * self.minimum)}"
        )

    @property
    def levels(self) -> tuple[PlannerConfig, ...]:
        optimizer = OptimizerConfig(
            kind=self.kind,
            candidates=self.candidates,
            iterations=self.iterations,
            elites=max(1, self.candidates // 8),
            correlation=self.correlation,
        )
        return (PlannerConfig(self.horizon, self.replan, optimizer, self.minimum),)


ALONG_PATHS = FlatSetting(20, 48, correlation=0.9, replan=4, minimum=0.3)
"""where shortest paths say the way, and a search is about the next steps"""
