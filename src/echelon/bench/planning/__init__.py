"""Planning, measured: costs and levels, compute, clocks, reach and search, in two mazes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from echelon.bench.planning.mazes import MAZES, train
from echelon.bench.planning.studies import STUDIES, Bed
from echelon.evaluation import command, commit
from echelon.files import alone, read_json, write_atomically
from echelon.progress import Progress
from echelon.records import load, save
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
    runs: Path = Path("runs/bench/planning")
    out: Path = Path("results/planning")

    def __call__(self) -> None:
        progress = Progress()
        for option, asked, known in (
            ("mazes", self.mazes, [maze.name for maze in MAZES]),
            ("studies", self.studies, list(STUDIES)),
        ):
            if unknown := sorted(set(asked) - set(known)):
                raise EchelonError(f"{option}: there is no {unknown[0]}; use {', '.join(known)}")
        if self.trials < 2:
            raise EchelonError(f"trials: {self.trials} are too few for the held-out layouts; use 2")
        for seed in self.seeds:
            for maze in (maze for maze in MAZES if maze.name in self.mazes):
                models = train(maze, seed, self.runs, progress)
                folder = self.runs / maze.name / f"seed-{seed}"
                for name in self.studies:
                    progress.say(f"{maze.name}, seed {seed}: {name}")
                    bed = Bed(maze, seed, models, folder, self.trials, progress)
                    STUDIES[name](bed)
                    with alone(self.runs):
                        add(self.out, name, bed)


def add(out: Path, study: str, bed: Bed) -> None:
    """Put what a study found into its files, in place of what they hold of the same maze and seed."""
    path, mine = out / f"{study}.json", (bed.maze.task, bed.seed)
    known = load(path) if path.exists() else []
    save(path, [r for r in known if (r.task, r.seed) != mine] + bed.records)
    if bed.figures:
        found = {"maze": bed.maze.name, "seed": bed.seed, "commit": commit(), "command": command()}
        _add_figures(out / f"{study}-figures.json", {**found, **bed.figures})


def _add_figures(path: Path, found: dict[str, Any]) -> None:
    known: Sequence[dict[str, Any]] = read_json(path) if path.exists() else []
    kept = [k for k in known if (k["maze"], k["seed"]) != (found["maze"], found["seed"])]
    rows = sorted([*kept, found], key=lambda k: (k["maze"], k["seed"]))
    lines = ",\n".join(json.dumps(row) for row in rows)
    write_atomically(path, f"[\n{lines}\n]\n".encode())
