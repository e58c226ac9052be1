"""A published task from nothing to a page: collect, train and judge, a seed after the other.

A new one is one file: a :class:`Benchmark`, and a command that names it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

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
    """A benchmark's command. Stopped at any moment, it goes on where it was; the call without --part
    writes the results.
    """

    benchmark: ClassVar[Benchmark]

    seeds: tuple[int, ...] = (0, 1, 2)
    trials: int = 100
    """of each split"""
    part: int = 0
    """of the seeds, from 0"""
    parts: int = 1
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
    everything, seconds = Results(), list[Mapping[str, float]]()
    for seed in asked.seeds[asked.part :: asked.parts]:
        folder = asked.runs / mine.name / f"seed-{seed}"
        everything.add(judged(mine, asked, seed, folder, progress))
        seconds.append({"seed": seed, **read_json(folder / SECONDS)})
    if asked.parts > 1:
        return
    out = asked.out / mine.name
    save(out / "records.json", everything.records)
    write_json(out / "paired.json", tested(everything.pairs))
    write_json(out / SECONDS, seconds)
    asked.shows.write()


def judged(mine: Benchmark, asked: Run, seed: int, folder: Path, progress: Progress) -> Results:
    """What every method of a seed's model reaches."""
    with alone(folder):
        data = folder / "episodes.h5"
        with clocked(folder / SECONDS, "collect"):
            if not data.exists():
                mine.collect(replace(mine.collection, seed=seed), data, progress)
            episodes = Episodes.open(data)
        trials = mine.trials(mine, episodes, asked.trials, seed)
        with alone(folder.parent):
            keep_to(asked.out / "manifests" / f"{mine.name}.json", seed, trials)
        with clocked(folder / SECONDS, "train"):
            train, truth = replace(mine.train, seed=seed), MazeTruth.of(episodes)
            trainer = Trainer(episodes, mine.model, train, folder, truth)
            model = trainer.run(progress).to(device())
        methods, found = mine.methods(mine.model), Results()
        for split, budget in mine.budgets.items():
            here = [trial for trial in trials if trial.split == split]
            where, known = folder / "outcomes" / split, (mine.task, seed, trainer.identity)
            with clocked(folder / SECONDS, "judge"):
                found.add(
                    compare(where, model, methods, here, budget, *known, progress, located=False)
                )
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


def _table(mine: Benchmark, out: Path) -> str:
    """The page's table, beside what was published, and how long it took; empty without records."""
    if not (out / "records.json").exists():
        return ""
    seconds: list[Mapping[str, float]] = read_json(out / SECONDS)
    parts = [f"{part} {max(s[part] for s in seconds) / 60:.0f}" for part in PARTS]
    return (
        published_table(load(out / "records.json"), mine.published, tuple(mine.budgets))
        + f"\n\nMinutes a seed took from nothing, the longest of {len(seconds)}: {', '.join(parts)}."
    )
