"""Experience with OGBench's ant: it walks about the maze, by a gait of a few numbers, with noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from echelon.data.episodes import EpisodeWriter
from echelon.envs import layouts
from echelon.envs.ant_maze import (
    PROPRIO,
    AntMaze,
    AntMazeTask,
    advance,
    layout,
    random_place,
    simulation,
    standing,
)
from echelon.envs.ant_views import PLACE, cells, draw
from echelon.envs.gait import Walker
from echelon.envs.noise import correlated
from echelon.envs.task import Array, check_collection
from echelon.progress import Progress
from echelon.types import EchelonError

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
        check_collection(self.episodes, self.steps, self.image_size, self.correlations, self.noise)
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
    for noise in islice(correlated(rng, correlation, (8,)), config.steps):
        action = walker.torques(states[-1], way(states[-1])) + spread * noise
        actions.append(np.clip(action, -1, 1).astype(np.float32))
        states.append(advance(world, states[-1], actions[-1]))
    return np.array(states), np.array(actions)
