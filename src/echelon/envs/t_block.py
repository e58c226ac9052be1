"""Push-T's table, block and agent, as shapes: what touches what, and what is seen from above.

Lengths are px of the table, of which a side has 512; x is right, y is down, and angles are radians,
clockwise as seen. States are those of :class:`echelon.envs.push_t.PushT`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from echelon.envs.task import Array, Image

SIDE = 512
LOW, HIGH = 7.0, 504.0
"""the walls' inner faces"""
RADIUS = 15.0
"""of the agent"""
BOXES = ((0.0, 15.0, 60.0, 15.0), (0.0, 60.0, 15.0, 60.0))
"""the block's bar and its stem, which overlap: centre x and y, half width and half height; beside the
block's place, the middle of its flat edge"""
MIDDLE = 45.0
"""y of the block's centre of gravity"""
PRESSED = 5.0
"""px that the agent can be pressed into the block; it may be so much when it pushes fast"""
OVER = 2.0
"""px that a corner of the block can be beyond a wall's face"""
ROUNDED = 1e-3
"""px that a logged state may be off"""

FLOOR, STONE, BLOCK, AGENT = (236, 236, 230), (62, 68, 84), (52, 120, 200), (214, 58, 44)


def gap(state: Array) -> tuple[float, float, float]:
    """From the agent to the block: px between their outlines, below 0 where they overlap, and x and y
    of the direction, of length 1, that leads the agent away.
    """
    x, y, block_x, block_y, angle = (float(number) for number in state[:5])
    return gap_between(x - block_x, y - block_y, math.cos(angle), math.sin(angle))


def gap_between(dx: float, dy: float, cos: float, sin: float) -> tuple[float, float, float]:
    """The same, from where the agent is beside the block's place, and how that is turned."""
    x, y = cos * dx + sin * dy, cos * dy - sin * dx
    best = (math.inf, 0.0, 0.0)
    for middle_x, middle_y, half_x, half_y in BOXES:
        out_x, out_y = abs(x - middle_x) - half_x, abs(y - middle_y) - half_y
        if out_x > 0 and out_y > 0:
            away = math.hypot(out_x, out_y)
            found = (away, out_x / away, out_y / away)
        else:
            found = (out_x, 1.0, 0.0) if out_x > out_y else (out_y, 0.0, 1.0)
        if found[0] < best[0]:
            best = (
                found[0],
                math.copysign(found[1], x - middle_x),
                math.copysign(found[2], y - middle_y),
            )
    away, x, y = best
    return away - RADIUS, cos * x - sin * y, sin * x + cos * y


def corners(block: Array) -> Array:
    """``[..., 8, 2]`` of the bar and of the stem, of poses ``[..., 3]`` (x, y, angle)."""
    signs = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    local = np.concatenate([np.array(b[:2]) + signs * np.array(b[2:]) for b in BOXES])
    cos, sin = np.cos(block[..., 2:]), np.sin(block[..., 2:])
    x = block[..., :1] + cos * local[:, 0] - sin * local[:, 1]
    y = block[..., 1:2] + sin * local[:, 0] + cos * local[:, 1]
    return np.stack([x, y], -1)


def draw(states: Array, size: int) -> Image:
    """Images ``[N, size, size, 3]`` of states ``[N, 7]``. A pixel at an edge has of each colour as much
    as lies in it, so that motion by a part of a pixel shows.
    """
    scale = size / SIDE
    edge = (np.arange(size) + 0.5) / scale
    inside = np.clip(0.5 + scale * np.minimum(edge - LOW, HIGH - edge), 0, 1)
    cover = np.minimum(inside[:, None], inside[None])[..., None]
    table = (np.array(STONE) + cover * (np.array(FLOOR) - np.array(STONE))).round().astype(np.uint8)
    images = np.broadcast_to(table, (len(states), *table.shape)).copy()
    x, y, angle = states[:, 2], states[:, 3], states[:, 4]
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]

    def block(dx: Array, dy: Array) -> Array:
        u, v = cos * dx + sin * dy, cos * dy - sin * dx + MIDDLE
        return np.minimum(
            *(_outside(np.abs(u - b[0]) - b[2], np.abs(v - b[1]) - b[3]) for b in BOXES)
        )

    middle = np.stack([x - np.sin(angle) * MIDDLE, y + np.cos(angle) * MIDDLE], 1)
    _stamp(images, middle, 77.0, block, BLOCK)
    _stamp(images, states[:, :2], RADIUS, lambda dx, dy: np.hypot(dx, dy) - RADIUS, AGENT)
    return images


def _outside(x: Array, y: Array) -> Array:
    """Signed distance to a box, from how far beyond its sides a place is."""
    return np.hypot(np.maximum(x, 0), np.maximum(y, 0)) + np.minimum(np.maximum(x, y), 0)


def _stamp(
    images: Image,
    centre: Array,
    reach: float,
    distance: Callable[[Array, Array], Array],
    colour: tuple[int, ...],
) -> None:
    """Draw one shape into each image: `distance` to its outline, px, from x and y beside `centre`."""
    size = images.shape[1]
    scale = size / SIDE
    some = int(np.ceil(reach * scale)) + 1
    pixels = np.floor(centre * scale).astype(int)[..., None] + np.arange(-some, some + 1)
    beside = (pixels + 0.5) / scale - centre[..., None]
    away = distance(beside[:, 0, None, :], beside[:, 1, :, None])
    inside = (pixels >= 0) & (pixels < size)
    cover = np.clip(0.5 - scale * away, 0, 1) * (inside[:, 0, None, :] & inside[:, 1, :, None])
    columns, rows = pixels[:, 0, None, :].clip(0, size - 1), pixels[:, 1, :, None].clip(0, size - 1)
    which, row, column = np.nonzero(cover)
    where = which, rows[which, row, 0], columns[which, 0, column]
    under = images[where]
    over = cover[which, row, column, None] * (np.array(colour) - under.astype(np.float64))
    images[where] = (under + over).round().astype(np.uint8)


def fits(state: Array) -> bool:
    """Whether agent and block are on the table and no further in each other than they can get."""
    agent, block = state[:2], corners(state[2:5])
    over = np.maximum(LOW - block, block - HIGH).max()
    beyond = np.maximum(LOW + RADIUS - agent, agent - HIGH + RADIUS).max()
    apart = (
        gap(state)[0] > -2 * PRESSED
    )  # in the corner by the stem, out of one box is into another
    return bool(over <= OVER + ROUNDED and beyond <= ROUNDED and apart)
