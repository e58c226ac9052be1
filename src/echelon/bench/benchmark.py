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
from typing import Any, ClassVar, Literal, TypeAlias

from echelon import checkpoint
from echelon.bench.jobs import Jobs, side_by_side
from echelon.bench.larger import larger
from echelon.bench.manifests import keep_to
from echelon.config import ModelConfig, TrainConfig
from echelon.data.episodes import Episodes
from echelon.demo import device
from echelon.envs.task import Task, Trial
from echelon.evaluation import Method, Outcome
from echelon.experiment import Results, outcomes_of, pairs, tested
from echelon.files import alone, read_json, write_json
from echelon.progress import Progress
from echelon.records import Record, load, save
from echelon.report import Page
from echelon.report.published import Published, published_picture, published_table
from echelon.trainer import Trainer
from echelon.truth import MazeTruth
from echelon.types import EchelonError

Preset: TypeAlias = Literal["cpu", "gpu"]
SECONDS = "seconds.json"
PARTS = ("collect", "train", "judge")
SAME = "control:flat-same-cost"


Methods: TypeAlias = Callable[[ModelConfig], Sequence[Method]]
"""what is judged with a model"""


@dataclass(frozen=True)
class Trained:
    """A model of a task, how it is trained, and what is judged with it."""

    name: str
    model: ModelConfig
    train: TrainConfig
    methods: Methods
    start: str | None = None
    """the model whose encoder and levels it goes on from"""


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
    """options of `collect`, a frozen dataclass with `seed` and `episodes`"""
    collect: Callable[[Any, Path, Progress], None]
    """writes a file of episodes"""
    model: ModelConfig
    train: TrainConfig
    trials: Callable[[Benchmark, Episodes, int, int], Sequence[Trial]]
    """of all splits, from the seed's episodes, how many a split, and the seed"""
    methods: Methods
    """what is compared, on every split; the hierarchy that stands for the task is called "default" """
    others: tuple[Trained, ...] = ()
    """other models, whose methods are judged beside"""
    start: str | None = None
    """the one of them that the task's own goes on from"""

    @property
    def models(self) -> tuple[Trained, ...]:
        """All models, the task's own first."""
        return (Trained("base", self.model, self.train, self.methods, self.start), *self.others)

    @property
    def in_turn(self) -> list[Trained]:
        """The models as they are trained: those that others go on from first, so that no core waits."""
        return sorted(self.models, key=lambda made: len(self.below(made)))

    def below(self, made: Trained) -> list[Trained]:
        """The models that one goes on from, the next one first."""
        starts = [other for other in self.models if other.name == made.start]
        return [*starts, *(before for start in starts for before in self.below(start))]


@dataclass(frozen=True)
class Run:
    """A benchmark's command. Stopped at any moment, it goes on where it was."""

    benchmark: ClassVar[Benchmark]

    seeds: tuple[int, ...] = (0, 1, 2)
    trials: int = 100
    """of each split"""
    jobs: Jobs = 1
    """seeds, and then methods, at a time"""
    preset: Preset = "cpu"
    """sizes for two cores, or for a GPU; see `larger`"""
    runs: Path = Path("runs/bench")
    """a folder for each benchmark, and in it one for each seed"""
    out: Path = Path("results")
    """a folder for each benchmark, and `manifests`, which hold the trials that must be the ones used;
    they are written where there are none"""
    docs: Path = Path("docs")
    """the benchmark's page there is brought up to date"""

    def __call__(self) -> None:
        if self.preset == "gpu" and device() == "cpu":
            raise EchelonError(
                "preset: 'gpu' takes days without one, and PyTorch sees none here; use --preset cpu"
            )
        run(self.task, self, Progress())

    @property
    def task(self) -> Benchmark:
        """The benchmark at its preset's size."""
        return larger(self.benchmark) if self.preset == "gpu" else self.benchmark

    @property
    def shows(self) -> Page:
        """The benchmark's page, on which each preset has a section."""
        mine, name = self.task, self.task.name

        def table(out: Path) -> str:
            return _table(mine, out)

        def picture(out: Path, path: Path) -> None:
            if (out / "records.json").exists():
                records, splits = load(out / "records.json"), tuple(mine.budgets)
                published_picture(records, mine.published, splits, mine.unit, path)

        page, drawn = self.docs / f"{self.benchmark.name}.md", self.preset == "cpu"
        return Page(page, self.out / name, {name: table}, picture if drawn else None)


def run(mine: Benchmark, asked: Run, progress: Progress) -> None:
    """Collect, train and judge; records and the page at the end."""
    if asked.trials < 1:
        raise EchelonError(f"trials: {asked.trials} measure nothing; use at least 1")
    asked.shows.check()  # a page that cannot be written is told now
    begun = list(product(mine.in_turn, asked.seeds))
    far_first = tuple(mine.budgets)[::-1]  # so that the last pieces, with idle cores, are short
    pieces = [
        (seed, split, made, method)
        for seed, split, made in product(asked.seeds, far_first, mine.models)
        for method in made.methods(made.model)
    ]
    whole = asked.runs / mine.name / SECONDS
    with clocked(whole, "all"):
        side_by_side(partial(_train, mine, asked), begun, asked.jobs, "train", progress)
        side_by_side(partial(_judge, mine, asked), pieces, asked.jobs, "judge", progress)
    everything, seconds = Results(), list[Mapping[str, float]]()
    for seed in asked.seeds:
        for split in mine.budgets:
            everything.add(judged(mine, asked, seed, split, progress))
        seconds.append({"seed": seed, **read_json(_folder(mine, asked, seed) / SECONDS)})
    out = asked.out / mine.name
    save(out / "records.json", everything.records)
    write_json(out / "paired.json", tested(everything.pairs))
    write_json(out / SECONDS, {"seeds": seconds, "jobs": asked.jobs, **read_json(whole)})
    asked.shows.write()


def _folder(mine: Benchmark, asked: Run, seed: int) -> Path:
    return asked.runs / mine.name / f"seed-{seed}"


def _train(mine: Benchmark, asked: Run, piece: tuple[Trained, int], progress: Progress) -> None:
    train(mine, asked, *piece, progress)


def train(mine: Benchmark, asked: Run, made: Trained, seed: int, progress: Progress) -> Path:
    """A seed's episodes and one model, where they are not there yet; its trials are frozen in between.
    The model's checkpoint.
    """
    folder, start = _folder(mine, asked, seed), None
    for before in mine.below(made)[:1]:
        start = str(train(mine, asked, before, seed, progress))
    with alone(folder):
        episodes = _collected(mine, asked, seed, progress)
    own = folder / made.name
    with alone(own), clocked(folder / SECONDS, "train"):
        options, truth = replace(made.train, seed=seed, start_from=start), MazeTruth.of(episodes)
        trainer = Trainer(episodes, made.model, options, own, truth)
        trainer.run(progress)
    return trainer.checkpoint


def _collected(mine: Benchmark, asked: Run, seed: int, progress: Progress) -> Episodes:
    folder = _folder(mine, asked, seed)
    data = folder / "episodes.h5"
    with clocked(folder / SECONDS, "collect"):
        if not data.exists():
            mine.collect(replace(mine.collection, seed=seed), data, progress)
    episodes, trials = _opened(mine, asked, seed)
    with alone(folder.parent):
        keep_to(asked.out / "manifests" / f"{mine.name}.json", seed, trials)
    return episodes


_KEPT: dict[tuple[Path, int], tuple[Episodes, Sequence[Trial]]] = {}
"""the last file opened, and its trials: the next piece of a process is mostly about the same ones"""


def _opened(mine: Benchmark, asked: Run, seed: int) -> tuple[Episodes, Sequence[Trial]]:
    """A seed's episodes, and trials of all splits."""
    key = _folder(mine, asked, seed) / "episodes.h5", asked.trials
    if key not in _KEPT:
        _KEPT.clear()  # first, as two may not fit in memory
        episodes = Episodes.open(key[0])
        _KEPT[key] = episodes, mine.trials(mine, episodes, asked.trials, seed)
    return _KEPT[key]


def _judge(
    mine: Benchmark, asked: Run, piece: tuple[int, str, Trained, Method], progress: Progress
) -> None:
    """What one method of one of a seed's models reaches on one split."""
    seed, split, made, method = piece
    _judged(mine, asked, seed, split, made, [method], progress)


def judged(mine: Benchmark, asked: Run, seed: int, split: str, progress: Progress) -> Results:
    """What all methods of all models reach on one split, run where that is not known yet."""
    found, everything = Results(), dict[Method, Outcome]()
    for made in mine.models:
        methods = made.methods(made.model)
        outcomes, records = _judged(mine, asked, seed, split, made, methods, progress)
        everything |= outcomes
        found.records += records
    found.pairs = pairs(_trials(mine, asked, seed, split), everything)
    return found


def _trials(mine: Benchmark, asked: Run, seed: int, split: str) -> list[Trial]:
    return [trial for trial in _opened(mine, asked, seed)[1] if trial.split == split]


def _judged(
    mine: Benchmark,
    asked: Run,
    seed: int,
    split: str,
    made: Trained,
    methods: Sequence[Method],
    progress: Progress,
) -> tuple[dict[Method, Outcome], list[Record]]:
    folder = _folder(mine, asked, seed)
    path = folder / made.name / "checkpoint.safetensors"
    with clocked(folder / SECONDS, "judge"):
        return outcomes_of(
            folder / "outcomes" / split,
            checkpoint.load_model(path, device()),
            methods,
            _trials(mine, asked, seed, split),
            mine.budgets[split],
            mine.task,
            seed,
            checkpoint.describe(path)["about"]["data"],
            progress,
            located=False,
        )


def times(count: int) -> str:
    """What is added to a setting's name where it has so many times the candidates."""
    return "" if count == 1 else f"-{count}x"


@contextmanager
def clocked(path: Path, part: str) -> Generator[None]:
    """Adds the seconds that a part takes to those that it took before, or takes in other processes."""
    start = time.monotonic()
    try:
        yield
    finally:
        took = time.monotonic() - start
        with alone(path.parent / f".{path.stem}"):
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
