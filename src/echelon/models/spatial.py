"""Latents that are maps: an encoder that keeps where things are, and local dynamics on the map.

A map of C channels on a G x G grid travels as one vector of C G G numbers, channel by channel, so
that whatever handles latents need not know. A model of the layout then learns one local rule for
all places, instead of one for each.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from echelon.types import EchelonError


def map_channels(latent_dim: int, grid: int) -> int:
    """Channels of a latent on its map; EchelonError where they do not come out whole."""
    if grid < 1 or latent_dim % grid**2:
        raise EchelonError(
            f"latent_dim {latent_dim} is no map of {grid} x {grid} cells: "
            f"use a multiple of grid^2 = {grid**2}"
        )
    return latent_dim // grid**2


class ConvEncoder(nn.Module):
    """One frame ``[..., H, W, 3] uint8 -> [..., D]``, D a map of D / grid^2 channels.

    Non-overlapping patches make the first layer one matrix product and leave little for the 3 x 3
    convolution to do. Each cell of the map sees its own pixels and one patch around them.
    """

    PATCH = 8
    frames = 1

    mean: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int, image_size: int, channels: int, grid: int) -> None:
        super().__init__()
        out = map_channels(latent_dim, grid)
        patch = min(self.PATCH, image_size // grid)
        if patch < 1 or image_size % (patch * grid):
            raise EchelonError(
                f"grid {grid} does not fit an image of {image_size} pixels: use a grid that "
                f"divides the image into cells of whole {self.PATCH} x {self.PATCH} patches"
            )
        pool = image_size // (patch * grid)
        self.register_buffer("mean", torch.full((image_size, image_size, 3), 127.5))
        self.register_buffer("scale", torch.tensor(1 / 127.5))
        self.network = nn.Sequential(
            nn.Conv2d(3, channels, patch, stride=patch),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, out, pool, stride=pool),
        )

    def forward(self, frames: Tensor) -> Tensor:
        x = (frames.reshape(-1, *frames.shape[-3:]) - self.mean).mul_(self.scale)
        latent = self.network(x.permute(0, 3, 1, 2))
        return latent.reshape(*frames.shape[:-3], -1)


class ConvPredictor(nn.Module):
    """``x, a -> x + W x + conv(x; a)`` on maps; the linear path carries momentum exactly.

    A residual block is one 3 x 3 convolution. The action enters each of them by FiLM (arXiv
    1709.07871, eq. 2), a scale and a shift for every channel, the same at all places.

    latent_dim: of one part of the state, a map on `grid` x `grid` cells.
    parts: how many such maps the state is made of.
    """

    def __init__(
        self, latent_dim: int, grid: int, action_dim: int, width: int, depth: int, parts: int = 2
    ) -> None:
        super().__init__()
        self.shape = (parts * map_channels(latent_dim, grid), grid, grid)
        channels = self.shape[0]
        self.linear = nn.Conv2d(channels, channels, 1, bias=False)
        nn.init.zeros_(self.linear.weight)
        self.inward = nn.Conv2d(channels, width, 3, padding=1)
        self.films = nn.ModuleList(nn.Linear(action_dim, 2 * width) for _ in range(depth))
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
        self.outward = nn.Conv2d(width, channels, 1)

    def forward(self, x: Tensor, action: Tensor) -> Tensor:
        """``x [..., parts * latent_dim], action [..., A] -> [..., parts * latent_dim]``"""
        maps, action = x.reshape(-1, *self.shape), action.reshape(-1, action.shape[-1])
        maps = maps.contiguous(memory_format=torch.channels_last)  # up to twice as fast on a CPU
        hidden = self.inward(maps)
        for film, block in zip(self.films, self.blocks, strict=True):
            scale, shift = film(action)[..., None, None].chunk(2, 1)
            hidden = hidden + block(silu(hidden * (1 + scale) + shift))
        change = self.linear(maps) + self.outward(silu(hidden))
        return x + change.reshape(x.shape)
