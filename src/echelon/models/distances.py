"""How far apart two latents are: by themselves, and heads that say it in time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from echelon.config import DistanceConfig
from echelon.models.predictors import mlp

UNITS = 8.0
"""units of a head's output in the horizon, so that networks and losses see numbers near 1"""


def root_mean_square(z: Tensor, goal: Tensor) -> Tensor:
    """``z [..., D], goal [..., D] -> [...]``, of the difference of the latents."""
    return torch.linalg.vector_norm(z - goal, dim=-1) * z.shape[-1] ** -0.5


class Quasimetric(nn.Module):
    """Interval quasimetric embedding (IQE, arXiv 2211.15120), with its maxmean reduction.

    Whatever its weights, the distance is 0 from a latent to itself, never negative, and never
    longer than a detour; the way back may take longer than the way there.
    """

    def __init__(self, latent_dim: int, config: DistanceConfig) -> None:
        super().__init__()
        self.shape = (config.components, config.component_size)
        self.network = mlp(
            latent_dim, config.width, config.depth, config.components * config.component_size
        )
        self.unit = config.horizon / UNITS
        self.mix = nn.Parameter(torch.zeros(()))

    def embed(self, z: Tensor) -> Tensor:
        """``z [..., D] -> point [..., components * component_size]``"""
        return self.network(z)

    def between(self, point: Tensor, goal: Tensor) -> Tensor:
        """``points [..., E], [..., E] -> [...]`` steps from one to the other."""
        start, order = point.unflatten(-1, self.shape).sort(-1)
        goal = goal.unflatten(-1, self.shape)
        shape = torch.broadcast_shapes(start.shape, goal.shape)
        end = torch.maximum(start, goal.expand(shape).gather(-1, order.expand(shape)))
        start = start.expand(shape)
        # Length of a union of intervals [start, end]: each adds what lies beyond those before it.
        covered = torch.cat([start[..., :1], end.cummax(-1).values[..., :-1]], -1)
        length = torch.relu(end - torch.maximum(start, covered)).sum(-1)
        share = self.mix.sigmoid()
        return self.unit * (share * length.amax(-1) + (1 - share) * length.mean(-1))

    def forward(self, z: Tensor, goal: Tensor) -> Tensor:
        """``z [..., D], goal [..., D] -> [...]`` steps, leading dimensions broadcast."""
        return self.between(self.embed(z), self.embed(goal))


class TemporalHead(nn.Module):
    """An unconstrained network of both latents, whose distance may be anything.

    Its output is linear: one that is kept positive is flat near 0, where distances that lean towards
    short then stay for good.
    """

    def __init__(self, latent_dim: int, config: DistanceConfig) -> None:
        super().__init__()
        self.network = mlp(2 * latent_dim, config.width, config.depth, 1)
        self.unit = config.horizon / UNITS

    def embed(self, z: Tensor) -> Tensor:
        """The latent itself: only a pair says something here."""
        return z

    def between(self, point: Tensor, goal: Tensor) -> Tensor:
        """``z [..., D], goal [..., D] -> [...]`` steps."""
        both = torch.cat(torch.broadcast_tensors(point, goal), -1)
        return self.unit * self.network(both).squeeze(-1)

    def forward(self, z: Tensor, goal: Tensor) -> Tensor:
        """``z [..., D], goal [..., D] -> [...]`` steps, leading dimensions broadcast."""
        return self.between(z, goal)


def head_for(config: DistanceConfig, latent_dim: int) -> Quasimetric | TemporalHead | None:
    """The head that `config` asks for; None where nothing is learned of pairs of latents."""
    if config.kind in ("latent", "paths"):
        return None
    return (TemporalHead if config.kind == "expectile" else Quasimetric)(latent_dim, config)
