"""The demo at full size, and what is shown of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from echelon import checkpoint
from echelon.bench.tune import flat_grid, frontier, same_cost_grid
from echelon.demo import DemoConfig, device, evaluate, seeded, trained
from echelon.experiment import (
    Results,
    demo_methods,
    flat_method,
    same_cost_method,
    tested,
    write_results,
)
from echelon.files import read_json, write_json
from echelon.progress import Progress
from echelon.records import load, save
from echelon.report import Page, headline_picture, markdown_table


@dataclass(frozen=True)
class Compare:
    """The demo at full size: several model seeds, the tuned flat planners, and the controls.

    Reads tuning.json for the flat settings to test; writes records.json, and a run folder a seed.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    trials: int = 100
    """in each distance bin"""
    layout_trials: int = 25
    """on each held-out layout"""
    part: int = 0
    parts: int = 1
    runs: Path = Path("runs/bench")
    out: Path = Path("results/demo")
    page: Path = Path("README.md")
    """its table is brought up to date"""

    def __call__(self) -> None:
        self.shows.check()  # a page that cannot be written is told now
        progress = Progress()
        tuned = load(self.out / "tuning.json")
        flat, same = (frontier(tuned, name) for name in ("flat", "control:flat-same-cost"))
        controls = [flat_method(s) for s in flat_grid() if s.name in flat]
        controls += [same_cost_method(s) for s in same_cost_grid() if s.name in same]
        everything = Results()
        for seed in self.seeds:
            config = replace(
                seeded(DemoConfig(), seed), trials=self.trials, layout_trials=self.layout_trials
            )
            path, data = trained(config, self.runs, progress)
            model = checkpoint.load_model(path, device())
            methods = list(dict.fromkeys(demo_methods(config.model) + controls))
            mine = methods[self.part :: self.parts]
            found = evaluate(config, path.parent, model, mine, data, progress)
            everything.add(found)
            if self.parts == 1:
                write_results(path.parent, found)
        if self.parts == 1:
            self._write(everything)

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
