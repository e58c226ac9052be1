"""What pictures of several worlds are drawn with."""

from __future__ import annotations

import numpy as np

from echelon.envs.task import Array


def covered(outside: Array, pixel: float) -> Array:
    """``[...]``: how much of each pixel lies in a shape, by how far outside of it its middle is."""
    return np.clip(0.5 - outside / pixel, 0, 1)


def paint(view: Array, cover: Array, colour: tuple[int, ...]) -> None:
    """Colour so much ``[...]`` of each pixel of ``[..., 3]``."""
    view += cover[..., None] * (np.array(colour, np.float32) - view)


def rotation(turn: Array) -> Array:
    """``[N, 4] -> [N, 3, 3]`` of quaternions (w, x, y, z)."""
    w, x, y, z = (turn / np.linalg.norm(turn, axis=1, keepdims=True)).T
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return np.stack([np.stack(row, -1) for row in rows], 1)
