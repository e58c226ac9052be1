"""A published task from nothing to a page: collect, train and judge, for every seed.

A new one is one file: a :class:`Benchmark`, and a command that names it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

from echelon import checkpoint
from echelon.bench.jobs import side_by_side
from echelon.bench.manifests import keep_to
from echelon.config import ModelConfig, TrainConfig
from echelon.data.episodes import Episodes
from echelon.demo import device
from echelon.envs.task import Task, Trial
from echelon.evaluation import Method
from echelon.experiment import Results, compare, tested
from echelon.files import alone, read_json, write_json
from echelon.progress import Progress
from echelon.records import load, save
from echelon.report import Page
from echelon.report.published import Published, published_picture, published_table
from echelon.trainer import Trainer
from echelon.truth import MazeTruth
from echelon.types import EchelonError

SECONDS = "seconds.json"
PARTS = ("collect", "train", "judge")


@dataclass(frozen=True)
class Benchmark:
    """A task as it is published, and what is collected and trained for it here."""

    name: str
    title: str
    """what people call it"""
    task: Task
    budgets: Mapping[str, int]
    """environment steps a trial, by split, from near to far"""
    unit: str
    """what splits tell apart"""
    published: Published
    collection: Any
    """options of `collect`, a frozen dataclass with a `seed`"""
    collect: Callable[[Any, Path, Progress], None]
    """writes a file of episodes"""
    model: ModelConfig
    train: TrainConfig
    trials: Callable[[Benchmark, Episodes, int, int], Sequence[Trial]]
    """of all splits, from the seed's episodes, how many a split, and the seed"""
    methods: Callable[[ModelConfig], Sequence[Method]]
    """what is compared, on every split"""


@dataclass(frozen=True)
class Run:
    """A benchmark's command. Stopped at any moment, it goes on where it was."""

    benchmark: ClassVar[Benchmark]

    seeds: tuple[int, ...] = (0, 1, 2)
    trials: int = 100
    """of each split"""
    jobs: int = 1
    """seeds, and then methods, at a time"""
    runs: Path = Path("runs/bench")
    """a folder for each benchmark, and in it one for each seed"""
    out: Path = Path("results")
    """a folder for each benchmark, and `manifests`, which hold the trials that must be the ones used;
    they are written where there are none"""
    docs: Path = Path("docs")
    """the benchmark's page there is brought up to date"""

    def __call__(self) -> None:
        run(self.benchmark, self, Progress())

    @property
    def shows(self) -> Page:
        """The benchmark's page."""
        mine, name = self.benchmark, self.benchmark.name

        def table(out: Path) -> str:
            return _table(mine, out)

        def picture(out: Path, path: Path) -> None:
            if (out / "records.json").exists():
                records, splits = load(out / "records.json"), tuple(mine.budgets)
                published_picture(records, mine.published, splits, mine.unit, path)

        return Page(self.docs / f"{name}.md", self.out / name, {name: table}, picture)


def run(mine: Benchmark, asked: Run, progress: Progress) -> None:
    """Collect, train and judge; records and the page at the end."""
    if asked.trials < 1:
        raise EchelonError(f"trials: {asked.trials} measure nothing; use at least 1")
    asked.shows.check()  # a page that cannot be written is told now
    pieces = list(product(asked.seeds, mine.budgets, mine.methods(mine.model)))
    whole = asked.runs / mine.name / SECONDS
    with clocked(whole, "all"):
        side_by_side(partial(train, mine, asked), asked.seeds, asked.jobs, "train", progress)
        side_by_side(partial(judge, mine, asked), pieces, asked.jobs, "judge", progress)
    everything, seconds = Results(), list[Mapping[str, float]]()
    for seed in asked.seeds:
        for split in mine.budgets:
            everything.add(judged(mine, asked, seed, split, mine.methods(mine.model), progress))
        seconds.append({"seed": seed, **read_json(_folder(mine, asked, seed) / SECONDS)})
    out = asked.out / mine.name
    save(out / "records.json", everything.records)
    write_json(out / "paired.json", tested(everything.pairs))
    write_json(out / SECONDS, {"seeds": seconds, "jobs": asked.jobs, **read_json(whole)})
    asked.shows.write()


def _folder(mine: Benchmark, asked: Run, seed: int) -> Path:
    return asked.runs / mine.name / f"seed-{seed}"


def train(mine: Benchmark, asked: Run, seed: int, progress: Progress) -> None:
    """A seed's episodes and model, where they are not there yet; its trials are frozen in between."""
    folder = _folder(mine, asked, seed)
    data = folder / "episodes.h5"
    with alone(folder):
        with clocked(folder / SECONDS, "collect"):
            if not data.exists():
                mine.collect(replace(mine.collection, seed=seed), data, progress)
            episodes = Episodes.open(data)
        trials = mine.trials(mine, episodes, asked.trials, seed)
        with alone(folder.parent):
            keep_to(asked.out / "manifests" / f"{mine.name}.json", seed, trials)
        with clocked(folder / SECONDS, "train"):
            options, truth = replace(mine.train, seed=seed), MazeTruth.of(episodes)
            Trainer(episodes, mine.model, options, folder, truth).run(progress)


def judge(mine: Benchmark, asked: Run, piece: tuple[int, str, Method], progress: Progress) -> None:
    """What one method of a seed's model reaches on one split."""
    seed, split, method = piece
    judged(mine, asked, seed, split, [method], progress)


def judged(
    mine: Benchmark,
    asked: Run,
    seed: int,
    split: str,
    methods: Sequence[Method],
    progress: Progress,
) -> Results:
    """What methods reach on one split, run where that is not known yet."""
    folder = _folder(mine, asked, seed)
    path, episodes = folder / "checkpoint.safetensors", Episodes.open(folder / "episodes.h5")
    trials = mine.trials(mine, episodes, asked.trials, seed)
    model = checkpoint.load_model(path, device())
    identity = checkpoint.describe(path)["about"]["data"]
    with clocked(folder / SECONDS, "judge"):
        return compare(
            folder / "outcomes" / split,
            model,
            methods,
            [trial for trial in trials if trial.split == split],
            mine.budgets[split],
            mine.task,
            seed,
            identity,
            progress,
            located=False,
        )


@contextmanager
def clocked(path: Path, part: str) -> Generator[None]:
    """Adds the seconds that a part takes to those that it took before, or takes in other processes."""
    start = time.monotonic()
    try:
        yield
    finally:
        took = time.monotonic() - start
        with alone(path.with_suffix("")):
            known = dict[str, float](read_json(path) if path.exists() else {})
            write_json(path, known | {part: round(known.get(part, 0) + took, 1)})


def _table(mine: Benchmark, out: Path) -> str:
    """The page's table, beside what was published, and how long it took; empty without records."""
    if not (out / "records.json").exists():
        return ""
    took = read_json(out / SECONDS)
    seeds: list[Mapping[str, float]] = took["seeds"]
    parts = [f"{part} {max(s[part] for s in seeds) / 60:.0f}" for part in PARTS]
    words = f"Minutes a seed took from nothing, the longest of {len(seeds)}: {', '.join(parts)}."
    if "all" in took:
        words += f" All of them, with `--jobs {took['jobs']}`: {took['all'] / 60:.0f}."
    table = published_table(load(out / "records.json"), mine.published, tuple(mine.budgets))
    return f"{table}\n\n{words}"
