"""Planner settings that are known to work, and by what name the records call them."""

from __future__ import annotations

from dataclasses import dataclass
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
