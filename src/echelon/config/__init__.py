"""Every option of Echelon, one frozen dataclass per component.

The command line is generated from these classes, checkpoints and run folders store them as JSON,
and reading them back refuses unknown fields. A check that needs only the options lives here.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from echelon.config.model import (
    DistanceConfig,
    EncoderConfig,
    LandmarkConfig,
    LevelConfig,
    LossConfig,
    ModelConfig,
)
from echelon.config.planning import OptimizerConfig, PlannerConfig, Precision, faster
from echelon.config.training import MaskConfig, MaskedConfig, StageConfig, TrainConfig

__all__ = [
    "DistanceConfig",
    "EncoderConfig",
    "LandmarkConfig",
    "LevelConfig",
    "LossConfig",
    "MaskConfig",
    "MaskedConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PlannerConfig",
    "Precision",
    "StageConfig",
    "TrainConfig",
    "faster",
    "to_dict",
]


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON types."""
    return json.loads(
        json.dumps(dataclasses.asdict(config))
    )  # tuples as the lists they come back as
