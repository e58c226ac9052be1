"""The recursion: a hierarchy is a list of levels, and every level is the same thing.

A level sees the level below through two maps, `lift` for its states and `encode_action` for
segments of its actions, and predicts its own steps. Level 0 is no exception: what lies below it are
the environment's images and actions. Nothing here says how many levels there are, and nothing knows
of losses or of search.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from echelon.config import LevelConfig, ModelConfig
from echelon.models.encoders import PatchEncoder
from echelon.models.macro_actions import PrimitiveAction, SegmentMLP
from echelon.models.predictors import ResidualMLP, mlp
from echelon.types import ActionPrior, tree_map

LatentState = dict[str, Tensor]
"""``z [..., D]``, where things are, and ``dz [..., D]``, its scaled change since the frame before:
how they move. Goals are judged by ``z`` alone, so that one image is enough to say one."""


class ImageLift(nn.Module):
    """Level 0: frames to states."""

    def __init__(self, config: LevelConfig, image_size: int) -> None:
        super().__init__()
        self.encoder = PatchEncoder(config.latent_dim, image_size, config.lift_width)
        self.scale = config.difference_scale

    def forward(self, frames: Tensor) -> LatentState:
        """``[..., T + 1, H, W, 3] uint8 -> states [..., T, D]``, one for each frame but the first."""
        return self.states(self.encoder(frames))

    def states(self, latents: Tensor) -> LatentState:
        """``[..., T + 1, D] -> states [..., T, D]``; for latents that are known already."""
        now, before = latents[..., 1:, :], latents[..., :-1, :]
        return {"z": now, "dz": self.scale * (now - before)}


class LatentLift(nn.Module):
    """Level 1 and up: states of the level below to states here, in a latent space of their own."""

    def __init__(self, config: LevelConfig, below: LevelConfig) -> None:
        super().__init__()
        self.network = mlp(below.latent_dim, config.lift_width, 2, config.latent_dim)
        self.scale = config.difference_scale
        self.scale_below = below.difference_scale

    def forward(self, state: LatentState) -> LatentState:
        """``state below [..., D_below] -> state [..., D]``"""
        z = self.network(state["z"])
        before = self.network(state["z"] - state["dz"] / self.scale_below)
        return {"z": z, "dz": self.scale * (z - before)}

    def place(self, state: LatentState) -> LatentState:
        """Where a state is, without how it moves: half the work."""
        return {"z": self.network(state["z"])}


class Level(nn.Module):
    """One timescale: a predictor of its own steps, and its two maps from the level below."""

    action_mean: Tensor
    action_std: Tensor
    action_low: Tensor
    action_high: Tensor
    bank: Tensor
    bank_below: Tensor

    def __init__(
        self, config: LevelConfig, below: LevelConfig | None, action_below: int, model: ModelConfig
    ) -> None:
        super().__init__()
        self.config = config
        self.stride = config.stride
        if below is None:
            self.lift: nn.Module = ImageLift(config, model.image_size)
        else:
            self.lift = LatentLift(config, below)
        if config.action_dim is None:
            self.action_dim = action_below
            self.encode_action: nn.Module = PrimitiveAction()
        else:
            self.action_dim = config.action_dim
            self.encode_action = SegmentMLP(
                config.stride, action_below, config.action_dim, config.macro_noise
            )
        self.predictor = ResidualMLP(
            2 * config.latent_dim, self.action_dim, config.width, config.depth
        )
        self.inverse = mlp(4 * config.latent_dim, 64, 1, self.action_dim)
        for name, value in (("mean", 0.0), ("std", 1.0), ("low", -1.0), ("high", 1.0)):
            self.register_buffer(f"action_{name}", torch.full((self.action_dim,), value))
        if below is not None:
            self.register_buffer("bank", torch.zeros(model.bank_size, config.latent_dim))
            self.register_buffer("bank_below", torch.zeros(model.bank_size, below.latent_dim))

    def predict(self, state: LatentState, action: Tensor) -> LatentState:
        """``state [..., D], action [..., A] -> state [..., D]`` one step of this level later."""
        action = (action - self.action_mean) / self.action_std
        x = self.predictor(torch.cat([state["z"], state["dz"]], -1), action)
        z, dz = x.chunk(2, -1)
        return {"z": z, "dz": dz}

    def lower(self, state: LatentState) -> LatentState:
        """The known state of the level below that lies nearest to `state` here, at rest.

        A predicted subgoal may lie off the data; what the level below is asked for never does.
        """
        nearest = torch.cdist(state["z"], self.bank).argmin(-1)
        z = self.bank_below[nearest]
        return {"z": z, "dz": torch.zeros_like(z)}

    @property
    def prior(self) -> ActionPrior:
        """What this level's actions look like in the training data."""
        return ActionPrior(self.action_mean, self.action_std, self.action_low, self.action_high)


class Hierarchy(nn.Module):
    """Levels, the primitive one first. By itself it is the flat world model of its level 0."""

    def __init__(self, config: ModelConfig, action_dim: int) -> None:
        super().__init__()
        self.config = config
        self.action_dim = action_dim
        levels: list[Level] = []
        for index, level in enumerate(config.levels):
            below = config.levels[index - 1] if index else None
            action_below = levels[-1].action_dim if levels else action_dim
            levels.append(Level(level, below, action_below, config))
        self._levels = nn.ModuleList(levels)

    @property
    def levels(self) -> Sequence[Level]:
        return [level for level in self._levels if isinstance(level, Level)]

    def encode(self, observation: Tensor) -> LatentState:
        """``[B, 2, H, W, 3] uint8``, the last frame and the one before ``-> state [B, D]``."""
        return tree_map(lambda x: x.squeeze(-2), self.levels[0].lift(observation))

    def predict(self, state: LatentState, action: Tensor) -> LatentState:
        """One step of level 0."""
        return self.levels[0].predict(state, action)

    def lift(self, state: LatentState) -> list[LatentState]:
        """The same moment as each level sees it, level 0 first."""
        states = [state]
        for level in self.levels[1:]:
            states.append(level.lift(states[-1]))
        return states
