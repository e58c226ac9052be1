"""Planner settings that are known to work, and by what name the records call them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from echelon.config import ModelConfig, OptimizerConfig, PlannerConfig


def planner_for(model: ModelConfig) -> tuple[PlannerConfig, ...]:
    """What an agent plans with when it is told nothing: a short search at every level."""
    if len(model.levels) == 1:
        return FlatSetting(horizon=200, candidates=16, minimum=1.0).levels
    fine = PlannerConfig(
        horizon=model.levels[1].stride,
        replan=2,
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


def settings_for(model: ModelConfig) -> dict[str, tuple[PlannerConfig, ...]]:
    """By name, level 0 first, what a planner is chosen from where measurement decides: flat ones, and
    at each depth searches of several sizes, at every turn or only when the last plan is used up.
    """
    flat = (FlatSetting(150, 8, replan=20, minimum=1.0), FlatSetting(200, 16, minimum=1.0))
    found = {setting.name: setting.levels for setting in flat}
    if len(model.levels) == 1:
        return found
    near = FlatSetting(20, 8, correlation=0.9, replan=2, minimum=0.3)
    found["flat-upper"] = tuple(replace(level, cost="upper") for level in near.levels)
    fine, *above = planner_for(model)
    small = replace(fine, optimizer=replace(fine.optimizer, candidates=8, elites=1))
    patient = [
        replace(level, replan=4 * duration, watchdog=0.5, reached=0.4)
        for level, duration in zip(above, model.durations[1:], strict=True)
    ]
    for depth in range(2, len(model.levels) + 1):
        for name, lowest in (("", fine), ("-small", small)):
            found[f"levels-{depth}{name}"] = (lowest, *above[: depth - 1])
            found[f"levels-{depth}{name}-patient"] = (lowest, *patient[: depth - 1])
            entered = [replace(level, enter=1.0) for level in patient[: depth - 1]]
            found[f"levels-{depth}{name}-enter"] = (lowest, *entered)
    return found


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
