"""Exploratory trajectories in PointMaze: no expert, no goal, no reward, only random forces."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from echelon.data.episodes import EpisodeWriter
from echelon.envs import layouts
from echelon.envs.mazes import MazeTask
from echelon.envs.noise import correlated
from echelon.envs.point_maze import PointMaze, draw, draw_background
from echelon.envs.task import check_collection
from echelon.progress import Progress
from echelon.types import EchelonError


@dataclass(frozen=True)
class CollectConfig:
    """Logged exploration of generated layouts."""

    episodes: int = 1200
    """in all layouts together"""
    steps: int = 100
    """actions an episode"""
    kind: layouts.Kind = "tree"
    """tree: corridors; open: rooms and pillars, walls at random"""
    maze_size: int = 6
    """of a tree, junctions along a side: the grid has 2 x maze_size + 1 cells; of an open one, cells
    within its outer walls"""
    maze_loops: float = 0.0
    """share of a tree's inner walls that are opened, 0 for a maze where one path joins any two cells"""
    maze_seed: int = 0
    mazes: int = 1
    """layouts, of maze_seed and the seeds after it"""
    image_size: int = 64
    action_repeat: int = 4
    """simulator steps (10 ms) that an action is held"""
    correlations: tuple[float, ...] = (0.7, 0.9, 0.97)
    """of the force from one step to the next; each episode draws one"""
    speed: float = 0.0
    """cells a second at most that an episode begins with, in any direction"""
    seed: int = 0

    def __post_init__(self) -> None:
        check_collection(self.episodes, self.steps, self.image_size, self.correlations)
        if self.action_repeat < 1:
            raise EchelonError("action-repeat: an action is held for at least 1 simulator step")
        if not 0 <= self.maze_loops <= 1:
            raise EchelonError("maze-loops: a share, between 0 and 1")
        if not 1 <= self.mazes <= self.episodes:
            raise EchelonError(
                "mazes: at least 1 layout is needed, and an episode, one in each maze"
            )
        if self.speed < 0:
            raise EchelonError("speed: must not be below 0")

    @property
    def layout(self) -> layouts.Layout:
        """The first one."""
        return self.layout_of(self.maze_seed)

    @property
    def layouts(self) -> list[layouts.Layout]:
        return [self.layout_of(self.maze_seed + number) for number in range(self.mazes)]

    def layout_of(self, seed: int) -> layouts.Layout:
        """One of this kind and size."""
        if self.kind == "open":
            return layouts.scatter(self.maze_size, seed)
        return layouts.generate(self.maze_size, seed, self.maze_loops)

    @property
    def task(self) -> MazeTask:
        """What episodes are collected in."""
        return MazeTask(action_repeat=self.action_repeat)


def collect(config: CollectConfig, path: Path, progress: Progress) -> None:
    """Write the episodes of `config` to an HDF5 file, with the true state as a column of its own.

    One episode is in one layout, and the next in the next one.
    """
    some, rng = config.layouts, np.random.default_rng(config.seed)
    envs = [PointMaze(layout, config.image_size, config.action_repeat) for layout in some]
    backgrounds = [draw_background(layout, config.image_size) for layout in some]
    with (
        EpisodeWriter(path, config.task.meta(some)) as writer,
        progress.task("collect", config.episodes) as advance,
    ):
        for episode in range(config.episodes):
            which = episode % len(some)
            states, actions = _explore(config, envs[which], episode, rng)
            columns: dict[str, NDArray[Any]] = {
                "pixels": draw(backgrounds[which], states[:, :2], some[which]),
                "action": actions,
                "state": states,
            }
            if len(some) > 1:
                columns["layout"] = np.full(len(states), which, np.int64)
            writer.add(columns)
            advance(None)
    for env in envs:
        env.close()


def _explore(
    config: CollectConfig, env: PointMaze, episode: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """States [T + 1, 4] and actions [T, 2] of one episode."""
    options: dict[str, Any] = {}
    if config.speed:
        angle = rng.uniform(0, 2 * np.pi)
        options["velocity"] = rng.uniform(0, config.speed) * np.array(
            [np.sin(angle), np.cos(angle)]
        )
    env.reset(seed=config.seed * 1_000_003 + episode, options=options)
    correlation = rng.choice(config.correlations)
    forces = correlated(rng, correlation, (2,))
    states, actions = [env.state], list[NDArray[np.float64]]()
    for force in islice(forces, config.steps):
        actions.append(np.clip(force, -1, 1))
        states.append(env.advance(actions[-1]))
    return np.array(states, np.float32), np.array(actions, np.float32)
