"""Where latents lie in a layout: frames drawn at known places, encoded.

For judging and for pictures alone. Models are trained and plans are made without it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from echelon.envs import layouts
from echelon.envs.layouts import Layout
from echelon.envs.point_maze import draw, draw_background
from echelon.models.hierarchy import Hierarchy

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Atlas:
    """Known places of one layout as each level of one model sees them."""

    layout: Layout
    places: Array
    """[P, 2] (row, column) in cells"""
    latents: tuple[Tensor, ...]
    """[P, D] a level"""

    @staticmethod
    @torch.no_grad()
    def of(model: Hierarchy, layout: Layout, spacing: float = 0.25) -> Atlas:
        """Places every `spacing` cells, at least 0.1 cells (the ball's radius) from every wall."""
        size = model.config.image_size
        steps = np.arange(0.1, 1.0, spacing) + (0.9 - np.arange(0.1, 1.0, spacing)[-1]) / 2
        offsets = np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)
        cells = layouts.free_cells(layout).astype(np.float64)
        places = (cells[:, None] + offsets[None]).reshape(-1, 2)
        device = next(model.parameters()).device
        frames = torch.from_numpy(draw(draw_background(layout, size), places, layout)).to(device)
        states = model.lift(model.encode(frames[:, None].expand(-1, model.context, -1, -1, -1)))
        return Atlas(layout, places, tuple(state["z"].cpu() for state in states))

    def locate(self, level: int, z: Tensor) -> Array:
        """The place whose latent at `level` is nearest, ``[N, D] -> [N, 2]``."""
        exact = "donot_use_mm_for_euclid_dist"  # the other way confuses places that lie close
        distance = torch.cdist(z.cpu(), self.latents[level], compute_mode=exact)
        return self.places[distance.argmin(-1).numpy()]

    def path_lengths(self) -> NDArray[np.int64]:
        """``[P]`` shortest path in cells from the first free cell to the cell of each place."""
        first = layouts.free_cells(self.layout)[0]
        grid = layouts.distances(self.layout, (int(first[0]), int(first[1])))
        return grid[tuple(np.floor(self.places).astype(int).T)]
