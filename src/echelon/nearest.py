"""Which logged frame lies nearest to a latent: how a predicted state is shown."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from echelon.data.episodes import Episodes
from echelon.models.hierarchy import Hierarchy
from echelon.statistics import encode

FRAMES = 8192
"""frames that are looked through, evenly picked"""


@torch.no_grad()
def nearest_frames(
    model: Hierarchy, episodes: Episodes, latents: dict[int, Tensor]
) -> dict[int, NDArray[np.uint8]]:
    """By level, ``latents [N, D] -> frames [N, H, W, 3]``."""
    count = len(episodes.pixels)
    rows = np.arange(0, count, max(1, count // FRAMES))
    place = {"z": encode(model, episodes, rows)}
    found: dict[int, NDArray[np.uint8]] = {}
    for index, level in enumerate(model.levels):
        place = level.place(place) if index else place
        if index in latents:
            best = torch.cdist(latents[index].to(place["z"]), place["z"]).argmin(1)
            found[index] = episodes.pixels[rows[best.cpu().numpy()]]
    return found
