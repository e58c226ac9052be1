"""Planning, measured: costs and levels, compute, clocks, reach and search, in two mazes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from echelon.bench.jobs import Jobs, side_by_side
from echelon.bench.planning.mazes import MAZES, Maze, train
from echelon.bench.planning.studies import STUDIES, Bed
from echelon.evaluation import command, commit
from echelon.files import alone, read_json, write_rows
from echelon.progress import Progress
from echelon.records import Record, load, save
from echelon.report import Page
from echelon.report.planning import TABLES, beside_flat, picture
from echelon.types import EchelonError


@dataclass(frozen=True)
class Planning:
    """Costs on one to three levels, in two mazes, and what each part of planning is worth.

    Each study adds its records and figures to the results as it ends; stopped at any moment, it goes
    on where it was. Calls for other mazes, seeds or studies may run side by side.
    """

    mazes: tuple[str, ...] = tuple(maze.name for maze in MAZES)
    seeds: tuple[int, ...] = (0, 1, 2)
    studies: tuple[str, ...] = tuple(STUDIES)
    trials: int = 100
    """of each split"""
    jobs: Jobs = 1
    """models, and then studies, at a time"""
    runs: Path = Path("runs/bench/planning")
    out: Path = Path("results/planning")
    page: Path = Path("docs/planning.md")
    """its tables, and the picture beside it, are brought up to date"""

    def __call__(self) -> None:
        progress = Progress()
        for option, asked, known in (
            ("mazes", self.mazes, [maze.name for maze in MAZES]),
            ("studies", self.studies, list(STUDIES)),
        ):
            if unknown := sorted(set(asked) - set(known)):
                raise EchelonError(f"{option}: there is no {unknown[0]}; use {', '.join(known)}")
        self.shows.check()  # a page that cannot be written is told now
        if self.trials < 2:
            raise EchelonError(f"trials: {self.trials} are too few for the held-out layouts; use 2")
        beds = [(maze, seed) for seed in self.seeds for maze in MAZES if maze.name in self.mazes]
        side_by_side(self._train, beds, self.jobs, "train", progress)
        side_by_side(self._study, list(product(beds, self.studies)), self.jobs, "study", progress)

    def _train(self, bed: tuple[Maze, int], progress: Progress) -> None:
        train(*bed, self.runs, progress)

    def _study(self, piece: tuple[tuple[Maze, int], str], progress: Progress) -> None:
        (maze, seed), name = piece
        progress.say(f"{maze.name}, seed {seed}: {name}")
        models = train(maze, seed, self.runs, progress)
        bed = Bed(maze, seed, models, self.runs / maze.name / f"seed-{seed}", self.trials, progress)
        STUDIES[name](bed)
        with alone(self.runs):
            add(self.out, name, bed)
            self.shows.write()

    @property
    def shows(self) -> Page:
        sections = {f"planning-{name}": partial(shown, study=name) for name in STUDIES}
        return Page(self.page, self.out, sections, drawn)


def add(out: Path, study: str, bed: Bed) -> None:
    """Put what a study found into its files, in place of what they hold of the same maze and seed."""
    path, mine = out / f"{study}.json", (bed.maze.task.name, bed.seed)
    save(path, [r for r in _records(out, study) if (r.task, r.seed) != mine] + bed.records)
    if bed.figures:
        found = {"maze": bed.maze.name, "seed": bed.seed, "commit": commit(), "command": command()}
        _add_figures(out / f"{study}-figures.json", {**found, **bed.figures})


def shown(out: Path, study: str) -> str:
    """A section of the page, from the results in a folder."""
    path = out / f"{study}-figures.json"
    figures = read_json(path) if path.exists() else []
    records = _records(out, study)
    if not records:
        return "Not measured yet."
    text = TABLES[study](records, figures).strip("\n")
    return f"{text}\n\n{beside_flat(records, _records(out, 'table'))}" if study == "flat" else text


def drawn(out: Path, path: Path) -> None:
    """The page's picture, from the results in a folder; nothing where costs were not measured."""
    if (out / "table.json").exists():
        picture([r for name in ("table", "flat") for r in _records(out, name)], path)


def _records(out: Path, study: str) -> list[Record]:
    path = out / f"{study}.json"
    return load(path) if path.exists() else []


def _add_figures(path: Path, found: dict[str, Any]) -> None:
    known: Sequence[dict[str, Any]] = read_json(path) if path.exists() else []
    kept = [k for k in known if (k["maze"], k["seed"]) != (found["maze"], found["seed"])]
    rows = sorted([*kept, found], key=lambda k: (k["maze"], k["seed"]))
    write_rows(path, rows)
