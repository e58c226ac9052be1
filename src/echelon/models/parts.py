"""The parts of a level, of the kinds that a configuration asks for."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

from torch import nn

from echelon.config import LevelConfig, ModelConfig
from echelon.models.encoders import PatchEncoder
from echelon.models.ensemble import Ensemble
from echelon.models.foreign import ForeignEncoder, ForeignModel
from echelon.models.macro_actions import (
    ConcatenatedActions,
    PrimitiveAction,
    SegmentMLP,
    SegmentTransformer,
)
from echelon.models.predictors import ResidualMLP
from echelon.models.scene import Glimpse, KeypointEncoder, LocalPredictor
from echelon.models.spatial import ConvEncoder, ConvPredictor
from echelon.models.things import PairsPredictor, RelativePredictor, ThingsEncoder
from echelon.models.transformer import CausalTransformer
from echelon.models.vit import TubeletEncoder
from echelon.types import EchelonError

Encoder: TypeAlias = (
    PatchEncoder | ConvEncoder | KeypointEncoder | ThingsEncoder | TubeletEncoder | ForeignEncoder
)


def encoder_of(model: ModelConfig, foreign: ForeignModel | None = None) -> Encoder:
    """The encoder that a configuration asks for."""
    size, config, level = model.image_size, model.encoder, model.levels[0]
    if config.kind == "foreign":
        if foreign is None:
            raise EchelonError(
                "encoder.kind: level 0 is somebody's own model, which is not at hand here; use "
                "echelon.on_top_of(model, episodes) or echelon.load_on_top_of(path, model)"
            )
        return ForeignEncoder(foreign, level.latent_dim)
    if config.kind == "conv":
        return ConvEncoder(level.latent_dim, size, level.lift_width, config.grid)
    if config.kind == "keypoints":
        points = level.latent_dim // 2
        return KeypointEncoder(points, size, level.lift_width, config.grid)
    if config.kind == "things":
        return ThingsEncoder(level.latent_dim, size, config.things, config.colours, config.views)
    if config.kind == "vit":
        return TubeletEncoder(
            level.latent_dim,
            size,
            config.frames,
            config.patch,
            level.lift_width,
            config.depth,
            config.heads,
        )
    return PatchEncoder(level.latent_dim, size, level.lift_width)


def macro_encoder_of(config: LevelConfig, action_below: int) -> tuple[nn.Module, int]:
    """What turns a segment of the actions below into one action here, and that action's size."""
    if config.macro == "concat":
        concatenated = ConcatenatedActions(config.stride, action_below)
        return concatenated, concatenated.macro_dim
    if config.action_dim is None:
        return PrimitiveAction(), action_below
    if config.macro == "transformer":
        longer = SegmentTransformer(
            config.stride, action_below, config.action_dim, config.macro_noise
        )
        return longer, config.action_dim + 1
    fixed = SegmentMLP(config.stride, action_below, config.action_dim, config.macro_noise)
    return fixed, config.action_dim


def predictor_of(
    config: LevelConfig, state_dim: int, action_dim: int, model: ModelConfig
) -> nn.Module:
    """The predictor that a configuration asks for; see `Level.predict`."""
    if config.ensemble > 1:
        alone = replace(config, ensemble=1)
        members = [
            predictor_of(alone, state_dim, action_dim, model) for _ in range(config.ensemble)
        ]
        return Ensemble(members, config.latent_dim)
    if config.predictor == "conv":
        return ConvPredictor(
            config.latent_dim, model.encoder.grid, action_dim, config.width, config.depth
        )
    if config.predictor == "local":
        return LocalPredictor(
            config.latent_dim,
            state_dim,
            action_dim,
            config.width,
            config.depth,
            model.encoder.channels,
            Glimpse(config.glimpse, config.spacing, model.image_size),
        )
    if config.predictor == "relative":
        return RelativePredictor(
            config.latent_dim,
            state_dim,
            action_dim,
            config.width,
            config.depth,
            model.encoder.things,
        )
    if config.predictor == "pairs":
        return PairsPredictor(
            config.latent_dim,
            state_dim,
            action_dim,
            config.width,
            config.depth,
            model.encoder.views,
        )
    if config.predictor == "transformer":
        return CausalTransformer(
            state_dim, action_dim, config.width, config.depth, config.heads, config.history
        )
    return ResidualMLP(state_dim, action_dim, config.width, config.depth)
