"""How levels search."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from echelon.types import EchelonError


@dataclass(frozen=True)
class OptimizerConfig:
    """A search over action sequences."""

    kind: Literal["cem", "mppi"] = "cem"
    candidates: int = 64
    """K, a round"""
    iterations: int = 2
    """rounds"""
    elites: int = 8
    """candidates that the next round is fitted to (cem)"""
    correlation: float = 0.9
    """of the sampled noise from one step of the horizon to the next; 0 is white noise"""
    noise: float = 1.0
    """standard deviation of the first round, in deviations of the level's action prior"""
    warm_noise: float = 0.5
    """the same, where the search starts from the last plan"""
    temperature: float = 0.1
    """of the weights (mppi), in deviations of the candidates' costs"""

    def __post_init__(self) -> None:
        if self.candidates < 1 or self.iterations < 1:
            raise EchelonError("candidates and iterations must be at least 1")
        if not 1 <= self.elites <= self.candidates:
            raise EchelonError(
                f"elites: {self.elites} must be between 1 and candidates ({self.candidates})"
            )
        if not 0 <= self.correlation < 1:
            raise EchelonError("correlation: must be at least 0 and below 1")


@dataclass(frozen=True)
class PlannerConfig:
    """How one level plans."""

    horizon: int
    """H, in steps of this level"""
    replan: int
    """environment steps that a plan of this level is kept"""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    minimum: float = 0.7
    """share of the smallest distance along the plan in its cost; the mean has the rest"""

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise EchelonError(f"horizon: {self.horizon} plans nothing; use at least 1")
        if self.replan < 1:
            raise EchelonError(f"replan: {self.replan} is not a number of steps; use at least 1")
        if not 0 <= self.minimum <= 1:
            raise EchelonError("minimum: a share, between 0 and 1")
