"""From images to latents: patches, then a readout over all of them, cheap enough for two cores."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from echelon.models.linear import Linear


class PatchEncoder(nn.Module):
    """One frame ``[..., H, W, 3] uint8 -> [..., D]``; the frames of a clip are encoded one by one.

    Non-overlapping patches make the first layer one matrix product; with fine detail in 8 x 8 pixels
    and the readout seeing every patch, a small ball is located to a fraction of a pixel.
    """

    PATCH = 8
    HIDDEN = 128

    frames = 1
    """frames that one latent spans"""
    mean: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int, image_size: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((image_size, image_size, 3), 127.5))
        self.register_buffer("scale", torch.tensor(1 / 127.5))
        self.patches = Linear(3 * self.PATCH**2, channels)
        cells = (image_size // self.PATCH) ** 2
        self.readout = nn.Sequential(
            nn.ReLU(),
            nn.Flatten(),
            Linear(channels * cells, self.HIDDEN),
            nn.ReLU(),
            Linear(self.HIDDEN, latent_dim),
        )

    def forward(self, frames: Tensor) -> Tensor:
        seen = self._cut(frames.reshape(-1, *frames.shape[-3:]))
        x = (seen - self._cut(self.mean[None])).mul_(self.scale)
        latent = self.readout(self.patches(x))
        return latent.reshape(*frames.shape[:-3], -1)

    def _cut(self, images: Tensor) -> Tensor:
        """``[N, H, W, 3] -> [N, patches, pixels]``, copied while they are bytes."""
        rows = images.unflatten(1, (-1, self.PATCH)).unflatten(3, (-1, self.PATCH))
        return rows.transpose(2, 3).flatten(3).flatten(1, 2)
