"""OGBench's table with one cube and a gripper, as two views: what is seen of a state.

The upper half of an image is the view from the front, the lower one the view from above. Lengths are
metres in OGBench's axes: x away from the arm's base, y to its left, z up; y is right in both views,
and x down in the lower one. States are those of :class:`echelon.envs.cube.Cube`.
"""

from __future__ import annotations

import numpy as np

from echelon.envs.drawing import covered, paint, rotation
from echelon.envs.task import Array, Image

WIDE = 0.88
"""that an image shows, along y; each view is half as high"""
NEAREST, LEFTMOST, LOWEST = 0.205, -0.44, -0.01
"""least x, y and z in view; with WIDE they hold all that the arm reaches"""
SIDE = 0.04
"""of the cube"""
FINGER = 0.018
"""radius of a finger from above"""
OUTSIDE = 0.014
"""from a pad's place to its finger's middle, so that a finger is beside what it holds"""
PALM, WRIST = 0.038, 0.072
"""of palm and wrist from the front: their middles above the pinch"""
BAR = (0.033, 0.0135)
"""of both: half width, half height"""
THROUGH = 0.5
"""how much of a finger is seen where it is above the cube; OGBench's pixels do so too"""
ROWS = 128
"""images drawn at a time, which caches then hold"""

PINCH, APART, PLACE, TURN = slice(0, 3), slice(3, 5), slice(20, 23), slice(23, 27)
"""of a state: the middle between the pads, from the right to the left pad along x and y, the cube's
place, and its rotation as a quaternion (w, x, y, z)"""

TABLE, CUBE, LEFT, RIGHT = (236, 236, 230), (52, 120, 200), (214, 58, 44), (30, 150, 60)
"""palm and wrist have the left and the right finger's: each view shows both"""


def draw(states: Array, size: int) -> Image:
    """Images ``[N, size, size, 3]`` of states ``[N, 47]``. A pixel at an edge has of each colour as
    much as lies in it, so that motion by a part of a pixel shows.
    """
    found = [_draw(states[i : i + ROWS], size) for i in range(0, len(states), ROWS)]
    return np.concatenate(found)


def _draw(states: Array, size: int) -> Image:
    pixel = WIDE / size
    across = LEFTMOST + (np.arange(size, dtype=np.float32) + 0.5) * pixel
    down = (np.arange(size // 2, dtype=np.float32) + 0.5) * pixel
    heights, ways = LOWEST + WIDE / 2 - down, NEAREST + down
    images = np.empty((len(states), size, size, 3), np.float32)
    images[:] = TABLE
    front, above = images[:, : size // 2], images[:, size // 2 :]
    some = states.astype(np.float32)
    pinch, apart, place = some[:, PINCH], some[:, APART], some[:, PLACE]
    edges = rotation(some[:, TURN]) * (SIDE / 2)  # half of them, as columns

    def cover(outside: Array) -> Array:
        return covered(outside, pixel)

    def stands(vertical: int, rows: Array) -> Array:
        """How much of the cube is in each pixel of a view, whose rows are x (0) or z (2)."""
        beside = across - place[:, 1, None], rows - place[:, vertical, None]
        return cover(_silhouette(*beside, edges[:, [1, vertical]]))

    aside = np.abs(across - pinch[:, 1, None])[:, None] - BAR[0]
    for middle, colour in ((PALM, LEFT), (WRIST, RIGHT)):
        off = np.abs(heights - pinch[:, 2, None] - middle)[:, :, None] - BAR[1]
        paint(front, cover(np.maximum(aside, off)), colour)
    paint(front, stands(2, heights), CUBE)
    cube = stands(0, ways)
    paint(above, cube, CUBE)
    length = np.linalg.norm(apart, axis=1, keepdims=True)
    reach = apart * (0.5 + OUTSIDE / np.maximum(length, 1e-6))
    for sign, colour in ((1, LEFT), (-1, RIGHT)):
        x, y = (pinch[:, :2] + sign * reach).T
        away = np.hypot((across - y[:, None])[:, None], (ways - x[:, None])[:, :, None])
        paint(above, cover(away - FINGER) * (1 - (1 - THROUGH) * cube), colour)
    return images.round().astype(np.uint8)


def _silhouette(right: Array, down: Array, edges: Array) -> Array:
    """How far outside of a box's outline pixels are, ``[N, H, W]``: from where columns ``[N, W]`` and
    rows ``[N, H]`` are beside its middle, and half its edges as they are seen ``[N, 2, 3]``.

    What is seen of a box lies between lines along each of its edges.
    """
    outside = np.full((len(edges), down.shape[1], right.shape[1]), -np.inf, np.float32)
    for k in range(3):
        along = edges[:, :, k]
        length = np.linalg.norm(along, axis=1)
        seen = length > SIDE / 200  # not one that points at who looks
        normal = np.stack([-along[:, 1], along[:, 0]], 1) / np.maximum(length, 1e-9)[:, None]
        half = np.abs(np.einsum("nc,nck->nk", normal, edges)).sum(1)
        off = normal[:, 0, None, None] * right[:, None] + normal[:, 1, None, None] * down[..., None]
        beyond = np.where(seen[:, None, None], np.abs(off) - half[:, None, None], -np.inf)
        outside = np.maximum(outside, beyond)
    return outside
