"""Exploratory trajectories in PointMaze: no expert, no goal, no reward, only random forces."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from echelon.data.episodes import EpisodeWriter
from echelon.envs import layouts
from echelon.envs.point_maze import PointMaze, draw, draw_background
from echelon.progress import Progress
from echelon.types import EchelonError


@dataclass(frozen=True)
class CollectConfig:
    """Logged exploration of one generated layout."""

    episodes: int = 1200
    steps: int = 100
    """actions an episode"""
    maze_size: int = 6
    """junctions along a side; the grid has 2 x maze_size + 1 cells"""
    maze_loops: float = 0.0
    """share of the inner walls that are opened, 0 for a maze where one path joins any two cells"""
    maze_seed: int = 0
    image_size: int = 64
    action_repeat: int = 4
    """simulator steps (10 ms) that an action is held"""
    correlations: tuple[float, ...] = (0.7, 0.9, 0.97)
    """of the force from one step to the next; each episode draws one"""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.episodes < 2 or self.steps < 1:
            raise EchelonError("collect: at least two episodes of at least one step are needed")
        if self.image_size % 8 or self.image_size < 8:
            raise EchelonError("image-size: must be a multiple of 8")
        if self.action_repeat < 1:
            raise EchelonError("action-repeat: an action is held for at least 1 simulator step")
        if not 0 <= self.maze_loops <= 1:
            raise EchelonError("maze-loops: a share, between 0 and 1")
        if not self.correlations or not all(0 <= c < 1 for c in self.correlations):
            raise EchelonError("correlations: at least one, each at least 0 and below 1")

    @property
    def layout(self) -> layouts.Layout:
        return layouts.generate(self.maze_size, self.maze_seed, self.maze_loops)


def collect(config: CollectConfig, path: Path, progress: Progress) -> None:
    """Write the episodes of `config` to an HDF5 file, with the true state as a column of its own."""
    layout = config.layout
    env = PointMaze(layout, config.image_size, config.action_repeat)
    background = draw_background(layout, config.image_size)
    rng = np.random.default_rng(config.seed)
    meta = {
        "task": "point-maze",
        "layout": layout.tolist(),
        "image_size": config.image_size,
        "action_repeat": config.action_repeat,
    }
    with (
        EpisodeWriter(path, meta) as writer,
        progress.task("collect", config.episodes) as advance,
    ):
        for episode in range(config.episodes):
            env.reset(seed=config.seed * 1_000_003 + episode)
            correlation = rng.choice(config.correlations)
            force = rng.normal(size=2)
            states, actions = [env.state], []
            for _ in range(config.steps):
                fresh = np.sqrt(1 - correlation**2) * rng.normal(size=2)
                force = correlation * force + fresh
                actions.append(np.clip(force, -1, 1))
                states.append(env.advance(actions[-1]))
            state = np.array(states, np.float32)
            writer.add(
                {
                    "pixels": draw(background, state[:, :2], layout),
                    "action": np.array(actions, np.float32),
                    "state": state,
                }
            )
            advance(None)
    env.close()
