"""From images to latents: a strided convolution over patches, cheap enough for two cores."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ImageEncoder(nn.Module):
    """One frame ``[..., H, W, 3] uint8 -> [..., D]``; the frames of a clip are encoded one by one."""

    mean: Tensor
    std: Tensor

    def __init__(self, latent_dim: int, image_size: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((3,), 127.5))
        self.register_buffer("std", torch.full((3,), 127.5))
        self.convolutions = nn.Sequential(
            nn.Conv2d(3, channels // 2, kernel_size=4, stride=4),
            nn.ReLU(),
            nn.Conv2d(channels // 2, channels, kernel_size=3, stride=2, padding=1),
            nn.ReLU(),
        )
        cells = (image_size // 4 + 1) // 2
        self.readout = nn.Linear(channels * cells * cells, latent_dim)

    def forward(self, frames: Tensor) -> Tensor:
        leading = frames.shape[:-3]
        x = (frames.reshape(-1, *frames.shape[-3:]).float() - self.mean) / self.std
        x = self.convolutions(x.permute(0, 3, 1, 2))
        return self.readout(x.flatten(1)).reshape(*leading, -1)
