"""Which tubelets of a clip masked video hides: V-JEPA's multi-block masks."""

from __future__ import annotations

import torch
from torch import Tensor

from echelon.config import MaskConfig
from echelon.types import EchelonError

PLACES, SIZES = 20, 20
"""draws of the blocks' places for one size, and of that size, before a mask is given up"""


def draw_masks(
    config: MaskConfig, batch: int, time: int, grid: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Indices of the visible tubelets [B, V] and of the hidden ones [B, M], rising, neither empty.

    V-JEPA (arXiv 2404.08471, section 3.2): the union of the blocks is hidden at all `time`
    positions of a clip whose frames are `grid` x `grid` tubelets. Tubelets are numbered in the order
    of time, height, width. For the batch to be rectangular, both sets are cut to their smallest
    count in it. Deviations: what the cut drops is drawn at random, whole columns of time, where
    V-JEPA drops the end of the clip; and on small grids, where its two blocks of 70 % often hide
    nearly all, a mask that leaves too little visible is drawn again.

    generator: on the CPU, where the indices are made.

    Raises EchelonError where the blocks never leave enough visible.
    """
    hidden = block_masks(config, batch, grid, generator).flatten(1)
    order = torch.rand(hidden.shape, generator=generator)
    kept: list[Tensor] = []
    for chosen in (~hidden, hidden):
        count = int(chosen.sum(1).min())
        cells = torch.where(chosen, order, 2.0).argsort(1)[:, :count].sort(1).values
        moments = torch.arange(time)[:, None] * grid**2
        kept.append((moments + cells[:, None]).flatten(1))
    return kept[0], kept[1]


def block_masks(config: MaskConfig, batch: int, grid: int, generator: torch.Generator) -> Tensor:
    """Masks [B, grid, grid] of one frame, True where a block hides it.

    All blocks of a batch are of one size, as in V-JEPA: aspect drawn uniformly, area as configured,
    height and width rounded to tubelets. Their places are drawn for each clip.
    """
    least = max(1.0, config.visible * grid**2)
    for _ in range(SIZES):
        height, width = _block_size(config, grid, generator)
        masks = torch.zeros(batch, grid, grid, dtype=torch.bool)
        again = torch.ones(batch, dtype=torch.bool)
        for _ in range(PLACES):
            masks[again] = _place(config.blocks, height, width, int(again.sum()), grid, generator)
            again = (~masks).flatten(1).sum(1) < least
            if not again.any():
                return masks
    raise EchelonError(
        f"masks: {config.blocks} blocks of {config.area:.0%} leave less than {config.visible:.0%} "
        f"of a frame of {grid} x {grid} tubelets visible; use fewer or smaller blocks, or a smaller "
        "patch"
    )


def _block_size(config: MaskConfig, grid: int, generator: torch.Generator) -> tuple[int, int]:
    """Height and width of a block in tubelets, at least 1 and at most the frame."""
    low, high = config.aspect
    aspect = low + (high - low) * float(torch.rand((), generator=generator))
    area = config.area * grid**2
    sides = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
    height, width = (min(max(side, 1), grid) for side in sides)
    return height, width


def _place(
    blocks: int, height: int, width: int, batch: int, grid: int, generator: torch.Generator
) -> Tensor:
    """The union [B, grid, grid] of blocks that lie anywhere in the frame."""

    def inside(side: int) -> Tensor:
        first = torch.randint(grid - side + 1, (batch, blocks, 1), generator=generator)
        cells = torch.arange(grid)
        return (cells >= first) & (cells < first + side)

    return (inside(height)[..., :, None] & inside(width)[..., None, :]).any(1)
