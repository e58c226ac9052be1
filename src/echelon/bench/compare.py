"""The demo at full size, and what is shown of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from echelon import checkpoint
from echelon.bench.jobs import Jobs, side_by_side
from echelon.bench.tune import frontier, grid
from echelon.demo import DemoConfig, device, evaluate, seeded, trained
from echelon.evaluation import Method
from echelon.experiment import (
    Results,
    demo_methods,
    tested,
    write_results,
)
from echelon.files import read_json, write_json
from echelon.progress import Progress
from echelon.records import load, save
from echelon.report import Page, headline_picture, markdown_table


@dataclass(frozen=True)
class Compare:
    """The demo at full size: several model seeds, the planners that tuning found best, the controls.

    Reads tuning.json for the settings to test; writes records.json, and a run folder a seed.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    trials: int = 100
    """in each distance bin"""
    layout_trials: int = 25
    """on each held-out layout"""
    jobs: Jobs = 1
    """seeds, and then methods, at a time"""
    runs: Path = Path("runs/bench")
    out: Path = Path("results/demo")
    page: Path = Path("README.md")
    """its table is brought up to date"""

    def __call__(self) -> None:
        self.shows.check()  # a page that cannot be written is told now
        progress = Progress()
        tuned = load(self.out / "tuning.json")
        model = DemoConfig().model
        tried = grid(model)
        worth = {name: frontier(tuned, name) for name in {method.method for method in tried}}
        chosen = [method for method in tried if method.setting in worth[method.method]]
        methods = list(dict.fromkeys(demo_methods(model) + chosen))
        everything = Results()
        side_by_side(self._train, self.seeds, self.jobs, "train", progress)
        side_by_side(self._judge, list(product(self.seeds, methods)), self.jobs, "judge", progress)
        for seed in self.seeds:
            found = self._judged(seed, methods, progress)
            everything.add(found)
            write_results(self.runs / f"seed-{seed}", found)
        self._write(everything)

    def _config(self, seed: int) -> DemoConfig:
        whole = seeded(DemoConfig(), seed)
        return replace(whole, trials=self.trials, layout_trials=self.layout_trials)

    def _train(self, seed: int, progress: Progress) -> None:
        trained(self._config(seed), self.runs, progress)

    def _judge(self, piece: tuple[int, Method], progress: Progress) -> None:
        seed, method = piece
        self._judged(seed, [method], progress)

    def _judged(self, seed: int, methods: Sequence[Method], progress: Progress) -> Results:
        """What methods reach with a seed's model, run where that is not known yet."""
        config = self._config(seed)
        path, data = trained(config, self.runs, progress)
        model = checkpoint.load_model(path, device())
        return evaluate(config, path.parent, model, methods, data, progress)

    @property
    def shows(self) -> Page:
        return Page(self.page, self.out, {"demo": table})

    def _write(self, everything: Results) -> None:
        """Committed records, and a run folder of all seeds with its report."""
        save(self.out / "records.json", everything.records)
        write_json(self.out / "paired.json", tested(everything.pairs))
        folders = [self.runs / f"seed-{seed}" for seed in self.seeds]
        diagnostics = [read_json(folder / "diagnostics.json") for folder in folders]
        figures = [
            {
                "seed": seed,
                "open_loop": found["open_loop"],
                "sign_agreement": [level["sign_agreement"] for level in found["latents"]],
                "effective_rank": [level["effective_rank"] for level in found["latents"]],
            }
            for seed, found in zip(self.seeds, diagnostics, strict=True)
        ]
        write_json(self.out / "models.json", figures)
        whole = self.runs / "all"
        write_json(whole / "diagnostics.json", diagnostics[0])
        write_results(whole, everything)
        self.shows.write()


def table(out: Path) -> str:
    """The README's table, from the results in a folder; empty where there are none yet."""
    path = out / "records.json"
    return markdown_table(load(path)) if path.exists() else ""


@dataclass(frozen=True)
class Readme:
    """Draw the README's picture, from the run folder of all seeds that `compare` leaves."""

    runs: Path = Path("runs/bench")
    picture: Path = Path("docs/demo.png")

    def __call__(self) -> None:
        headline_picture(self.runs / "all", self.picture)
