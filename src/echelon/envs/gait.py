"""A gait for OGBench's ant, of a few numbers: a central pattern generator (a review: doi
10.1016/j.neunet.2008.03.014), by which each joint is drawn to a sine.

An ant looks the same after a quarter turn, so one gait walks in four directions, and those in between
are steered to. `echelon bench gait` is the search that its numbers come from.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np

from echelon.envs.ant_maze import KNEES
from echelon.envs.ant_views import DOWN, JOINTS, TURN
from echelon.envs.task import Array

SWING = np.deg2rad([30.0, 20.0])
"""that hips and ankles can turn from their middle, either way"""
SPEEDS = np.arange(21, 29)
"""of a state: how fast each joint turns"""
MOTORS = (3, 0, 1, 2)
"""the leg that each pair of motors turns"""
KEPT = np.deg2rad(60.0)
"""off its way, up to which it goes on with the side that is in front"""

Pair = tuple[float, float]
"""of a hip and an ankle"""
Side = tuple[Pair, Pair]
"""of the front left leg, then of the hind left one"""


@dataclass(frozen=True)
class Gait:
    """What the legs of the left side do; those of the right do the same in a mirror, half a period
    later. Angles of joints are in `SWING` from their middle.
    """

    period: float
    """steps"""
    stiff: float
    """torque for each `SWING` that a joint is from where it is drawn to"""
    damped: float
    """torque against each `SWING` that a joint moves a second"""
    amplitude: Side
    phase: Side
    """radians"""
    offset: Side
    to_left: Side
    """what is added to offsets where it turns left"""
    more_left: Side
    """by what share amplitudes are larger there"""

    @property
    def numbers(self) -> Array:
        """``[23]``, all of it."""
        return np.concatenate([np.ravel(part) for part in astuple(self)])

    @staticmethod
    def of(numbers: Array) -> Gait:
        """The gait of such numbers."""
        period, stiff, damped, *sides = numbers.tolist()
        pairs = list(zip(sides[::2], sides[1::2], strict=True))
        return Gait(period, stiff, damped, *zip(pairs[::2], pairs[1::2], strict=True))


GAIT = Gait(
    period=8.641,
    stiff=0.911,
    damped=0.066,
    amplitude=((1.071, 1.167), (1.099, 1.173)),
    phase=((-0.75, -1.107), (2.498, -2.473)),
    offset=((0.219, -0.112), (0.061, -0.24)),
    to_left=((-0.161, 0.156), (-0.286, -0.09)),
    more_left=((-1.296, 0.233), (-0.186, 0.068)),
)
"""results/gait.json"""


class Walker:
    """Walks in any direction, whichever way it faces. It is told the true state, as no planner is."""

    def __init__(self, step: int = 0, gait: Gait = GAIT) -> None:
        """step: of the gait's period, that it begins with"""
        self._step, self._front, self._gait = step, 0, gait
        sides = gait.amplitude, gait.phase, gait.offset, gait.to_left, gait.more_left
        self._sides = np.array(sides)

    def torques(self, state: Array, direction: float) -> Array:
        """``[29] -> [8]``, an action that walks in a direction, in radians from x towards y."""
        off = direction - heading(state)
        if abs(_around(off - self._front * np.pi / 2)) > KEPT:
            self._front = round(off / (np.pi / 2)) % 4
        left = np.clip(_around(off - self._front * np.pi / 2), -1, 1)
        wanted = np.roll(self._joints(left), self._front, 0)
        joints = (state[JOINTS].reshape(4, 2) - _middle()) / SWING
        moves = state[SPEEDS].reshape(4, 2) / SWING
        joints[:, 1] *= DOWN
        moves[:, 1] *= DOWN
        self._step += 1
        stiff, damped = self._gait.stiff, self._gait.damped
        torque = np.clip(stiff * (wanted - joints) - damped * moves, -1, 1)
        torque[:, 1] *= DOWN
        return torque[list(MOTORS)].ravel()

    def _joints(self, left: float) -> Array:
        """``[4, 2]`` of what hips and ankles are drawn to, in `SWING` from their middle, and down."""
        amplitude, phase, offset, to_left, more_left = self._sides
        angle = 2 * np.pi * self._step / self._gait.period + phase
        one = offset + left * to_left + amplitude * (1 + left * more_left) * np.sin(angle)
        other = offset - left * to_left - amplitude * (1 - left * more_left) * np.sin(angle)
        other[:, 0] *= -1  # the right side is the left one in a mirror, half a period later
        return np.stack([one[0], one[1], other[1], other[0]])


def heading(state: Array) -> float:
    """Which way an ant ``[29]`` faces, in radians from x towards y."""
    w, x, y, z = state[TURN]
    return float(np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)))


def upright(states: Array) -> Array:
    """``[..., 29] -> [...]``: 1 where the ant is as it stands, -1 where it lies on its back."""
    return 1 - 2 * (states[..., TURN][..., 1:3] ** 2).sum(-1)


def _around(angle: float) -> float:
    return (angle + np.pi) % (2 * np.pi) - np.pi


def _middle() -> Array:
    """``[4, 2]`` angles of hips and ankles in the middle of what they can do."""
    return np.stack([np.zeros(4), KNEES * DOWN], 1)
