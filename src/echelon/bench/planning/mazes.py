"""The two mazes that planning is measured in, the trials in each, and the models trained for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from echelon.bench.ablation import train_variant
from echelon.bench.variants import THREE_LEVELS, Variant, configured
from echelon.collect import CollectConfig
from echelon.data.episodes import Episodes
from echelon.demo import HELD_OUT_SEED, DemoConfig, collected, seeded
from echelon.envs.layouts import Layout
from echelon.envs.mazes import BINS, HELD_OUT_LAYOUTS, MazeTask, make_trials
from echelon.envs.task import Trial
from echelon.files import alone
from echelon.models.hierarchy import Hierarchy
from echelon.progress import Progress

LANDMARKS = 400
"""of each level's graph"""
MEMBERS = 4
"""predictors of the coarse level that can doubt"""


@dataclass(frozen=True)
class Maze:
    """A demo in a layout of some size, and the trials there."""

    name: str
    config: DemoConfig
    splits: tuple[str, ...]
    """by distance in cells; the last is the far one"""
    longest: float
    """environment steps that a learned distance tells apart"""
    ladder: tuple[str, ...] = ()
    """splits, each twice as far as the one before; none in a maze too small for them"""

    @property
    def task(self) -> MazeTask:
        """What trials are held in, under the name that records carry."""
        return replace(self.config.collect.task, name=f"point-maze-planning-{self.name}")

    @property
    def far(self) -> str:
        """The split of the longest ways."""
        return self.splits[-1]

    @property
    def layout(self) -> Layout:
        """What models are trained in."""
        return self.config.collect.layout

    def elsewhere(self, number: int) -> Layout:
        """A layout of the same size that no model was trained in."""
        return self.config.collect.layout_of(HELD_OUT_SEED + number)

    def trials(self, seed: int, count: int, split: str) -> list[Trial]:
        """Test trials of one split; in held-out layouts, half of them in each of two."""
        if split != HELD_OUT_LAYOUTS:
            return make_trials(self.layout, count, seed, "test", (split,))
        return [
            trial
            for number in range(2)
            for trial in make_trials(self.elsewhere(number), count // 2, seed, "test", (split,))
        ]


MAZES = (
    Maze("demo", DemoConfig(), BINS, 256.0),
    Maze(
        "large",
        DemoConfig(collect=CollectConfig(episodes=2400, maze_size=9), budget=1500),
        ("1-4", "5-8", "9-19", "20+"),
        512.0,
        ("4-4", "8-8", "15-17", "30-34"),
    ),
)


def variants(maze: Maze) -> tuple[Variant, Variant, Variant]:
    """Three levels with latents of their own, and with level 0's latent at every level; and two levels
    of which the upper one has several predictors.
    """
    own: dict[str, Any] = dict(THREE_LEVELS)
    shared: dict[str, Any] = dict(THREE_LEVELS)
    durations = configured(Variant("plain", "", "", THREE_LEVELS), maze.config)[0].durations
    for level, duration in enumerate(durations):
        where = f"model.levels.{level}"
        own[f"{where}.distance.kind"] = "quasimetric"
        own[f"{where}.distance.horizon"] = maze.longest / duration
        own[f"{where}.landmarks.count"] = LANDMARKS
        if level:
            own[f"{where}.distance.gaps"] = [1, 2, 3]
            shared[f"{where}.latent"] = "shared"
    return (
        Variant("own", "planning", "three levels, each with a distance and a graph", own),
        Variant("shared", "planning", "three levels in one latent space", shared),
        Variant("ensemble", "planning", "several predictors", {"model.levels.1.ensemble": MEMBERS}),
    )


@dataclass(frozen=True)
class Models:
    """What was trained in one maze from one seed."""

    own: Hierarchy
    shared: Hierarchy
    ensemble: Hierarchy
    episodes: Episodes
    identity: Mapping[str, Any]
    """of the episodes, for records"""


def train(maze: Maze, seed: int, runs: Path, progress: Progress) -> Models:
    """Collect and train what is not there yet."""
    config, folder = seeded(maze.config, seed), runs / maze.name / f"seed-{seed}"
    with alone(folder):
        episodes = collected(config.collect, folder, progress)
    found = [train_variant(v, config, episodes, folder, progress) for v in variants(maze)]
    (trainer, own), (_, shared), (_, ensemble) = found
    return Models(own.eval(), shared.eval(), ensemble.eval(), episodes, trainer.identity)
