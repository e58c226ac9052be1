"""Which optimizer a configuration asks for."""

from __future__ import annotations

from echelon.config import OptimizerConfig
from echelon.planning.cem import CEM
from echelon.planning.evolution import Evolution
from echelon.planning.gradient import Gradient, Refine
from echelon.planning.mppi import MPPI
from echelon.types import Optimizer


def optimizer_of(config: OptimizerConfig) -> Optimizer:
    """The search of `config.kind`."""
    match config.kind:
        case "cem" | "icem":
            return CEM(config)
        case "evolution":
            return Evolution(config)
        case "mppi":
            return MPPI(config)
        case "gradient":
            return Gradient(config)
        case "refine":
            return Refine(config)
