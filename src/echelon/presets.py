"""Settings that are known to work, and by what name the records call them.

`planner_for` is what an agent uses when it is told nothing; the rest is the demo's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from echelon.config import (
    LevelConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    PlannerConfig,
    StageConfig,
    TrainConfig,
)


def planner_for(model: ModelConfig) -> tuple[PlannerConfig, ...]:
    """A planner for every level of a model: short coarse search above, short fine search below."""
    if len(model.levels) == 1:
        return FlatSetting(horizon=200, candidates=64).levels
    fine = PlannerConfig(
        horizon=model.levels[1].stride,
        replan=2,
        optimizer=OptimizerConfig(candidates=32, iterations=2, elites=4, correlation=0.9),
    )
    coarse = tuple(
        PlannerConfig(
            horizon=4,
            replan=2,
            optimizer=OptimizerConfig(candidates=64, iterations=2, elites=8, correlation=0.3),
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


DEMO_MODEL = ModelConfig(
    levels=(
        LevelConfig(loss=LossConfig(smoothness=6.0, correlation=0.0005)),
        LevelConfig(
            latent_dim=12,
            stride=10,
            action_dim=4,
            width=192,
            rollout=6,
            difference_scale=10.0,
            loss=LossConfig(smoothness=10.0, correlation=0.03, inverse_dynamics=0.0),
        ),
    )
)
DEMO_TRAIN = TrainConfig(
    stages=(
        StageConfig(levels=(0,), steps=1500, batch_size=48, train_encoder=True),
        StageConfig(levels=(0, 1), steps=2500, batch_size=256),
    )
)
