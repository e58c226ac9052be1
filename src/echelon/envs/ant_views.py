"""OGBench's ant in a maze from above: what is seen of a state.

Lengths are metres in OGBench's axes: x is right in an image and y is down, as in OGBench's maps, which
swaps left and right. States are those of :class:`echelon.envs.ant_maze.AntMaze`.
"""

from __future__ import annotations

import math

import numpy as np

from echelon.envs.drawing import covered, paint, rotation
from echelon.envs.layouts import Layout
from echelon.envs.task import Array, Image

UNIT = 4.0
"""metres that a cell of a layout is wide"""
CORNER = -6.0
"""x and y of a layout's corner"""
TORSO = 0.5
"""radius that the torso is drawn with, twice its own: in 64 pixels it would be smaller than one"""
LEG = 0.12
"""half the width that legs are drawn with; their own is 0.08"""
THIGH, SHIN = 0.2 * math.sqrt(2), 0.4 * math.sqrt(2)
"""of a leg: from the torso's middle to the hip, and from there to the knee; from there to the foot"""
REACH = 1.4
"""that no foot goes beyond, from the torso's middle"""
ROWS = 512
"""images drawn at a time, which caches then hold"""

PLACE, TURN, JOINTS = slice(0, 2), slice(3, 7), slice(7, 15)
"""of a state: the torso's x and y, its rotation as a quaternion (w, x, y, z), and the angles of hip and
ankle of each leg, counter-clockwise from the front left one"""
DOWN = np.array([1.0, -1.0, -1.0, 1.0])
"""sign of each ankle's angle where its foot is below its knee"""

FLOOR, WALL, BODY, FRONT = (236, 236, 230), (70, 74, 84), (214, 58, 44), (40, 96, 200)
HIND = tuple((one + other) // 2 for one, other in zip(FRONT, FLOOR, strict=True))
"""of the hind legs: of the front ones' colour half as much, so that no further colour is needed"""


def cells(xy: Array) -> Array:
    """Rows and columns ``[..., 2]`` in cells of places x, y ``[..., 2]`` in metres."""
    return (xy[..., ::-1] - CORNER) / UNIT


def metres(place: Array) -> Array:
    """The other way round."""
    return place[..., ::-1] * UNIT + CORNER


def draw(states: Array, layout: Layout, size: int) -> Image:
    """Images ``[N, size, size, 3]`` of states ``[N, 29]``. A pixel at an edge has of each colour as
    much as lies in it, so that motion by a part of a pixel shows.
    """
    found = [_draw(states[i : i + ROWS], layout, size) for i in range(0, len(states), ROWS)]
    return np.concatenate(found)


def _draw(states: Array, layout: Layout, size: int) -> Image:
    pixel = len(layout) * UNIT / size
    images = np.empty((len(states), size, size, 3), np.uint8)
    images[:] = _maze(layout, size)
    some = states.astype(np.float32)
    middle = some[:, PLACE]
    wide = 2 * math.ceil(REACH / pixel) + 1
    first = np.clip((middle - CORNER) // pixel - wide // 2, 0, size - wide).astype(np.int64)
    columns, rows = (first[:, k, None] + np.arange(wide) for k in (0, 1))
    here = np.arange(len(states))[:, None, None], rows[:, :, None], columns[:, None]
    patch = images[here].astype(np.float32)
    x = (columns + 0.5) * pixel + CORNER - middle[:, 0, None]
    y = (rows + 0.5) * pixel + CORNER - middle[:, 1, None]
    hips, knees, feet = (part[..., :2] for part in legs(some))
    for leg, colour in enumerate((FRONT, HIND, HIND, FRONT)):
        thigh = _beside(x, y, hips[:, leg], knees[:, leg])
        shin = _beside(x, y, knees[:, leg], feet[:, leg])
        paint(patch, covered(np.minimum(thigh, shin) - LEG, pixel), colour)
    paint(patch, covered(np.hypot(x[:, None], y[:, :, None]) - TORSO, pixel), BODY)
    images[here] = patch.round()
    return images


def _maze(layout: Layout, size: int) -> Image:
    index = ((np.arange(size) + 0.5) * len(layout) / size).astype(np.int64)
    wall = layout[index[:, None], index] == 1
    return np.where(wall[..., None], WALL, FLOOR).astype(np.uint8)


def legs(states: Array) -> tuple[Array, Array, Array]:
    """``[N, 29] -> [N, 4, 3]`` of hips, knees and feet, from the torso's middle in the world's axes."""
    hip, ankle = np.moveaxis(states[:, JOINTS].reshape(-1, 4, 2), -1, 0)
    corner = np.pi / 4 + np.pi / 2 * np.arange(4)
    out = _flat(np.broadcast_to(corner, hip.shape))
    along, below = _flat(corner + hip), ankle * DOWN
    hips = THIGH * out
    knees = hips + THIGH * along
    down = np.array([0.0, 0.0, 1.0])
    feet = knees + SHIN * (np.cos(below)[..., None] * along - np.sin(below)[..., None] * down)
    turn = rotation(states[:, TURN])
    hips, knees, feet = (np.einsum("nij,nkj->nki", turn, part) for part in (hips, knees, feet))
    return hips, knees, feet


def _flat(angle: Array) -> Array:
    return np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], -1)


def _beside(x: Array, y: Array, start: Array, end: Array) -> Array:
    """``[N, H, W]``: how far columns ``[N, W]`` and rows ``[N, H]`` are from a line ``[N, 2]`` to
    ``[N, 2]``.
    """
    along = end - start
    square = np.maximum((along**2).sum(1), 1e-9)[:, None, None]
    right, down = x[:, None] - start[:, 0, None, None], y[:, :, None] - start[:, 1, None, None]
    a, b = along[:, 0, None, None], along[:, 1, None, None]
    share = np.clip((right * a + down * b) / square, 0, 1)
    return np.hypot(right - share * a, down - share * b)
