"""HWM's Diverse Maze: goals in layouts that no episode was logged in."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from echelon.bench.manifests import keep_to
from echelon.collect import CollectConfig
from echelon.config import (
    DistanceConfig,
    EncoderConfig,
    LevelConfig,
    LossConfig,
    ModelConfig,
    StageConfig,
    TrainConfig,
)
from echelon.demo import collected, device
from echelon.envs import layouts
from echelon.envs.layouts import Layout
from echelon.envs.mazes import MazeTask, spread_trials
from echelon.envs.task import Trial
from echelon.evaluation import Method
from echelon.experiment import Results, compare, tested
from echelon.files import alone, read_json, write_json
from echelon.presets import ALONG_PATHS, patiently, planner_for, with_cost
from echelon.progress import Progress
from echelon.records import load, save
from echelon.report import Page
from echelon.report.published import published_picture, published_table
from echelon.trainer import Trainer
from echelon.truth import MazeTruth
from echelon.types import EchelonError

BUDGETS = {"5-8": 365, "9-12": 365, "13-16": 485}
"""environment steps a trial, by cells from start to goal"""
HELD_OUT_SEED = 3001
"""maze seed of the first layout to be judged in; those from 1001 on were looked at beforehand"""
SECONDS = "seconds.json"
PARTS = ("collect", "train", "judge")
RADIUS = 0.5
"""cells from the goal within which a trial succeeds"""
PUBLISHED = {
    "HWM, flat": (100, 63, 44),
    "HWM, hierarchical": (100, 95, 83),
}
"""success in % (arXiv 2604.03208, 2 trials a layout): a model trained on 5 million transitions"""

_LOSS = LossConfig(variance=0.0, correlation=0.0, smoothness=0.0, inverse_dynamics=0.0)
_FINE = LevelConfig(
    latent_dim=2,
    lift_width=32,
    predictor="local",
    spacing=3.2,
    width=128,
    difference_scale=10.0,
    loss=_LOSS,
    distance=DistanceConfig(kind="paths"),
)


@dataclass(frozen=True)
class Setup:
    """What is collected and trained."""

    collect: CollectConfig
    model: ModelConfig
    train: TrainConfig


CPU = Setup(
    CollectConfig(
        episodes=1500,
        kind="open",
        maze_size=8,
        mazes=25,
        correlations=(0.5, 0.9, 0.97),
        speed=5.0,
    ),
    ModelConfig(
        levels=(
            _FINE,
            replace(
                _FINE,
                latent="shared",
                stride=10,
                action_dim=8,
                width=192,
                glimpse=9,
                spacing=4.8,
                rollout=3,
            ),
        ),
        encoder=EncoderConfig(kind="keypoints", grid=16),
    ),
    TrainConfig(
        stages=(
            StageConfig((), 200, 64, train_encoder=True, learning_rate=4e-3),
            StageConfig((0,), 1500, 128, learning_rate=3e-3),
            StageConfig((1,), 1000, 128, learning_rate=3e-3),
        ),
        ema=0.0,
        num_threads=1,
    ),
)
"""for two processor cores"""


@dataclass(frozen=True)
class DiverseMaze:
    """HWM's protocol: 25 layouts to train on, 20 others to be judged in, goals at three distances.

    Stopped at any moment, it goes on where it was. The call without --part writes the results.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    trials: int = 100
    """at each distance, in all held-out layouts together"""
    held_out: int = 20
    """layouts to be judged in"""
    part: int = 0
    parts: int = 1
    runs: Path = Path("runs/bench/diverse-maze")
    out: Path = Path("results/diverse-maze")
    page: Path = Path("docs/diverse-maze.md")
    manifest: Path = Path("results/manifests/diverse-maze.json")
    """layouts and trials that must be the ones used; written where there is none"""

    def __call__(self) -> None:
        run(self, CPU, Progress())

    @property
    def shows(self) -> Page:
        return Page(self.page, self.out, {"diverse-maze": table}, picture)


def run(asked: DiverseMaze, setup: Setup, progress: Progress) -> None:
    """Collect, train and judge, a seed after the other; records and the page at the end."""
    asked.shows.check()  # a page that cannot be written is told now
    others = held_out_layouts(setup.collect, asked.held_out)
    trials = {seed: trials_of(others, asked.trials, seed) for seed in asked.seeds}
    with alone(asked.runs):
        keep_to(asked.manifest, others, trials)
    everything, seconds = Results(), list[Mapping[str, float]]()
    for seed in asked.seeds[asked.part :: asked.parts]:
        everything.add(judged(asked, setup, seed, trials[seed], progress))
        seconds.append({"seed": seed, **read_json(asked.runs / f"seed-{seed}" / SECONDS)})
    if asked.parts > 1:
        return
    save(asked.out / "records.json", everything.records)
    write_json(asked.out / "paired.json", tested(everything.pairs))
    write_json(asked.out / SECONDS, seconds)
    asked.shows.write()


def held_out_layouts(config: CollectConfig, count: int) -> list[Layout]:
    """Layouts that have goals at all distances, none of which is trained on."""
    known = {layout.tobytes() for layout in config.layouts}
    found: list[Layout] = []
    for number in range(20 * count):
        layout = config.layout_of(HELD_OUT_SEED + number)
        if layouts.between(layout).max() >= 16 and layout.tobytes() not in known:
            found.append(layout)
        if len(found) == count:
            return found
    raise EchelonError(
        f"held-out: fewer than {count} layouts of this size have goals 13 to 16 cells away; use "
        "larger mazes, or fewer"
    )


def trials_of(others: Sequence[Layout], count: int, seed: int) -> list[Trial]:
    """The trials of a seed, `count` at each distance."""
    splits = [spread_trials(others, count, seed, "test", (split,)) for split in BUDGETS]
    return [trial for trials in splits for trial in trials]


def judged(
    asked: DiverseMaze, setup: Setup, seed: int, trials: Sequence[Trial], progress: Progress
) -> Results:
    """What every method of a seed's model reaches in the held-out layouts."""
    folder = asked.runs / f"seed-{seed}"
    with alone(folder):
        with clocked(folder / SECONDS, "collect"):
            episodes = collected(replace(setup.collect, seed=seed), folder, progress)
        with clocked(folder / SECONDS, "train"):
            train = replace(setup.train, seed=seed)
            trainer = Trainer(episodes, setup.model, train, folder, MazeTruth.of(episodes))
            model = trainer.run(progress).to(device())
        task = MazeTask(action_repeat=setup.collect.action_repeat, radius=RADIUS)
        found = Results()
        for split, budget in BUDGETS.items():
            here = [trial for trial in trials if trial.split == split]
            where, known = folder / "outcomes" / split, (task, seed, trainer.identity, progress)
            with clocked(folder / SECONDS, "judge"):
                found.add(compare(where, model, methods(setup.model), here, budget, *known))
    return found


@contextmanager
def clocked(path: Path, part: str) -> Generator[None]:
    """Adds the seconds that a part takes to those it has taken before it was stopped."""
    start, known = time.monotonic(), dict[str, float](read_json(path) if path.exists() else {})
    try:
        yield
    finally:
        known[part] = round(known.get(part, 0) + time.monotonic() - start, 1)
        write_json(path, known)


def methods(model: ModelConfig) -> list[Method]:
    """Both levels, level 0 alone with the same cost at two budgets, and controls."""
    more = replace(ALONG_PATHS, candidates=4 * ALONG_PATHS.candidates)
    return [
        Method.of("paths", patiently(planner_for(model), model)),
        Method.of("paths", with_cost(ALONG_PATHS.levels, "learned")),
        Method.of("paths-more", with_cost(more.levels, "learned")),
        Method("control:flat-straight", "straight", with_cost(ALONG_PATHS.levels, "latent")),
        Method("control:random", "uniform"),
    ]


def table(out: Path) -> str:
    """The page's table, beside what was published, and how long it took; empty without records."""
    if not (out / "records.json").exists():
        return ""
    seconds: list[Mapping[str, float]] = read_json(out / SECONDS)
    parts = [f"{part} {max(s[part] for s in seconds) / 60:.0f}" for part in PARTS]
    return (
        published_table(load(out / "records.json"), PUBLISHED, tuple(BUDGETS))
        + f"\n\nMinutes a seed took from nothing, the longest of {len(seconds)}: {', '.join(parts)}."
    )


def picture(out: Path, path: Path) -> None:
    """The page's picture, from the records alone."""
    if (out / "records.json").exists():
        published_picture(load(out / "records.json"), PUBLISHED, tuple(BUDGETS), path)
