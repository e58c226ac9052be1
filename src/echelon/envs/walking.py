"""Experience with OGBench's ant: it walks about the maze, by a gait of a few numbers, with noise.

A gait is a central pattern generator (a review: doi 10.1016/j.neunet.2008.03.014): each joint is drawn
to a sine. An ant looks the same after a quarter turn, so one gait walks in four directions, and those
in between are steered to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from echelon.data.episodes import EpisodeWriter
from echelon.envs import layouts
from echelon.envs.ant_maze import (
    KNEES,
    PROPRIO,
    AntMaze,
    AntMazeTask,
    advance,
    layout,
    random_place,
    simulation,
    standing,
)
from echelon.envs.ant_views import DOWN, JOINTS, PLACE, TURN, cells, draw
from echelon.envs.task import Array, check_collection
from echelon.progress import Progress
from echelon.types import EchelonError

SWING = np.deg2rad([30.0, 20.0])
"""that hips and ankles can turn from their middle, either way"""
SPEEDS = np.arange(21, 29)
"""of a state: how fast each joint turns"""
MOTORS = (3, 0, 1, 2)
"""the leg that each pair of motors turns"""

PERIOD = 7.13
"""steps"""
STIFF, DAMPED = 1.10, 0.116
"""torque for each `SWING` that a joint is from where it is drawn to, and for each that it moves a
second"""
AMPLITUDE = np.array([[0.69, 1.42], [2.05, 1.18]])
"""in `SWING`: hip and ankle of the front left leg, then of the hind left one"""
PHASE = np.array([[1.48, 1.08], [-2.01, -0.03]])
OFFSET = np.array([[0.77, 0.42], [0.04, -0.14]])
TO_LEFT = np.array([[0.25, 0.12], [-0.49, 0.21]])
"""what is added to offsets where it turns left, and as a share to amplitudes"""
MORE_LEFT = np.array([[-0.68, -0.38], [-0.65, 0.18]])
KEPT = np.deg2rad(60.0)
"""off its way, up to which it goes on with the side that is in front"""


class Walker:
    """Walks in any direction, whichever way it faces. It is told the true state, as no planner is."""

    def __init__(self, step: int = 0) -> None:
        """step: of the gait's period, that it begins with"""
        self._step, self._front = step, 0

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
        torque = np.clip(STIFF * (wanted - joints) - DAMPED * moves, -1, 1)
        torque[:, 1] *= DOWN
        return torque[list(MOTORS)].ravel()

    def _joints(self, left: float) -> Array:
        """``[4, 2]`` of what hips and ankles are drawn to, in `SWING` from their middle, and down."""
        angle = 2 * np.pi * self._step / PERIOD + PHASE
        one = OFFSET + left * TO_LEFT + AMPLITUDE * (1 + left * MORE_LEFT) * np.sin(angle)
        other = OFFSET - left * TO_LEFT - AMPLITUDE * (1 - left * MORE_LEFT) * np.sin(angle)
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


# ------------------------------------------------------------------ where it walks

Way: TypeAlias = Callable[[Array], float]
"""the direction to walk in, from a state"""


class Exploring:
    """A direction drawn anew every few steps, as H-JEPA explores."""

    def __init__(self, every: int, rng: np.random.Generator) -> None:
        self._every, self._rng, self._left, self._direction = every, rng, 0, 0.0

    def __call__(self, state: Array) -> float:
        if not self._left:
            self._left, self._direction = self._every, self._rng.uniform(-np.pi, np.pi)
        self._left -= 1
        return self._direction


class Errands:
    """By the shortest way to a place, and then to another."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng, self._goal = rng, random_place(layout(), rng)

    def __call__(self, state: Array) -> float:
        here = cells(state[PLACE])
        if np.linalg.norm(self._goal - here) < 0.25:
            self._goal = random_place(layout(), self._rng)
        down, right = layouts.ahead(layout(), here, self._goal, 1) - here
        return float(np.arctan2(down, right))


@dataclass(frozen=True)
class AntMazeCollect:
    """Logged walking: half by the shortest way from place to place, half anywhere."""

    episodes: int = 1000
    steps: int = 400
    """actions an episode, each a tenth of a second; H-JEPA's are as long"""
    exploring: float = 0.5
    """share of episodes in which a direction is drawn anew every `every` steps; in the others it walks
    from place to place"""
    every: int = 10
    """steps in one direction, where it explores; H-JEPA's are as many"""
    noise: tuple[float, float] = (0.0, 0.4)
    """least and most standard deviation of noise on actions; each episode draws one"""
    correlations: tuple[float, ...] = (0.0, 0.5, 0.9)
    """of the noise, from one step to the next; each episode draws one"""
    image_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        check_collection(self.episodes, self.steps, self.image_size, self.correlations)
        if not 0 <= self.noise[0] <= self.noise[1]:
            raise EchelonError("noise: the least and the most, at least 0")
        if not 0 <= self.exploring <= 1:
            raise EchelonError("exploring: a share, from 0 to 1")
        if self.every < 1:
            raise EchelonError("every: a direction is kept for at least 1 step")


def collect(config: AntMazeCollect, path: Path, progress: Progress) -> None:
    """Write the episodes of `config` to an HDF5 file, with the true state as a column of its own.

    Columns "action", "state" and "proprio" are what :class:`AntMaze` says of them, "state" in double
    precision, so that a walk can be repeated from it.
    """
    meta = {"task": AntMazeTask().name, "env": AntMaze.__name__}
    with (
        EpisodeWriter(path, meta) as writer,
        progress.task("collect", config.episodes) as done,
    ):
        for episode in range(config.episodes):
            states, actions = walk(config, np.random.default_rng((config.seed, episode)))
            columns = {"action": actions, "state": states, "proprio": states[:, PROPRIO]}
            writer.add({"pixels": draw(states, layout(), config.image_size), **columns})
            done(None)


def walk(config: AntMazeCollect, rng: np.random.Generator) -> tuple[Array, NDArray[np.float32]]:
    """States [T + 1, 29] and actions [T, 8] of one episode."""
    world: Any = simulation()
    states, actions = [standing(random_place(layout(), rng))], list[NDArray[np.float32]]()
    explores = bool(rng.random() < config.exploring)
    way: Way = Exploring(config.every, rng) if explores else Errands(rng)
    walker = Walker(int(rng.integers(100)))
    spread, correlation = rng.uniform(*config.noise), rng.choice(config.correlations)
    noise = rng.normal(size=8)
    for _ in range(config.steps):
        noise = correlation * noise + np.sqrt(1 - correlation**2) * rng.normal(size=8)
        action = walker.torques(states[-1], way(states[-1])) + spread * noise
        actions.append(np.clip(action, -1, 1).astype(np.float32))
        states.append(advance(world, states[-1], actions[-1]))
    return np.array(states), np.array(actions)
