"""Does a hierarchy help a flat model that knows nothing of it? Upper levels on a small LeWM."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from echelon import checkpoint
from echelon.bench.flat_model import WINDOW, FlatModel, train_flat
from echelon.bench.jobs import Jobs, side_by_side
from echelon.config import StageConfig
from echelon.data.episodes import Episodes
from echelon.data.windows import WindowSampler
from echelon.demo import DemoConfig, collected, device, seeded
from echelon.diagnostics import diagnose
from echelon.envs.mazes import make_trials
from echelon.evaluation import Method
from echelon.experiment import (
    FLAT_CHEAP,
    FLAT_MORE,
    SAME_COST,
    Results,
    compare,
    flat_method,
    same_cost_method,
    tested,
    write_results,
)
from echelon.files import write_json
from echelon.models.hierarchy import Hierarchy
from echelon.on_top import on_top_of
from echelon.presets import FlatSetting, eagerly, planner_for
from echelon.progress import Progress
from echelon.records import load, save
from echelon.report import Page
from echelon.report import compare as words
from echelon.report.published import published_table
from echelon.truth import MazeTruth

FAR = "9+"
"""cells between start and goal"""
FLAT = (
    FLAT_CHEAP,
    FlatSetting(150, 8, replan=10, minimum=1.0),
    FlatSetting(200, 16, replan=25, minimum=1.0),
    FlatSetting(80, 16, replan=10, minimum=1.0),
    FlatSetting(40, 16, replan=5),
    FlatSetting(16, 16, replan=2, correlation=0.9),
    FlatSetting(200, 16, replan=10, minimum=1.0),
    FLAT_MORE,
)
"""Multiply-accumulates a step, over the hierarchy's: 0.5, then 1 for five of them, 2.5, and 5."""


@dataclass(frozen=True)
class Foreign:
    """A small LeWM alone, and with upper levels on top of it, both frozen: paired trials, far goals.

    Writes records.json, paired.json and models.json, and a run folder a seed.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    trials: int = 100
    """with far goals"""
    budget: int = 500
    """environment steps a trial"""
    episodes: int = 1200
    """to train on; another number wants other `data`"""
    flat_steps: int = 5000
    """of the flat model's training"""
    steps: int = 3000
    """of the upper levels' training"""
    jobs: Jobs = 1
    """seeds at a time"""
    data: Path = Path("runs/bench")
    """where the demo's episodes lie, or are put"""
    runs: Path = Path("runs/bench/foreign")
    out: Path = Path("results/foreign")
    page: Path = Path("docs/on-top.md")
    """its table is brought up to date"""

    @property
    def shows(self) -> Page:
        return Page(self.page, self.out, {"foreign": table})

    def __call__(self) -> None:
        self.shows.check()  # a page that cannot be written is told now
        found = side_by_side(self._seed, self.seeds, self.jobs, "seeds", Progress())
        everything = Results()
        for results, _ in found:
            everything.add(results)
        save(self.out / "records.json", everything.records)
        write_json(self.out / "paired.json", tested(everything.pairs))
        write_json(self.out / "models.json", [figures for _, figures in found])
        write_results(self.runs / "all", everything)
        self.shows.write()

    def _seed(self, seed: int, progress: Progress) -> tuple[Results, dict[str, Any]]:
        """Both models of a seed, what they reach, and figures of them."""
        config = seeded(DemoConfig(), seed)
        config = replace(config, collect=replace(config.collect, episodes=self.episodes))
        folder = self.runs / f"seed-{seed}"
        episodes = collected(config.collect, self.data / f"seed-{seed}", progress)
        flat, errors = self._flat(folder / "flat.safetensors", episodes, config, progress)
        model = self._on_top(flat, folder, episodes, config, progress).to(device())
        found = self._compare(model, flat, folder, episodes, config, progress)
        write_results(folder, found)
        return found, _figures(model, episodes, config) | {"seed": seed, "errors": errors}

    def _flat(
        self, path: Path, episodes: Episodes, config: DemoConfig, progress: Progress
    ) -> tuple[FlatModel, list[float]]:
        """The flat model of a seed, trained if it is not there yet, and its errors in training."""
        actions = np.nan_to_num(episodes.actions)
        if path.exists():
            header, tensors = checkpoint.read_tensors(path, "flat")
            model = FlatModel(tensors["dark"], actions.shape[1])
            checkpoint.fill(model, tensors, path)
            return model.eval(), header["errors"]
        progress.say(f"train the flat model ({self.flat_steps} steps)")
        ids, _ = episodes.split(config.train.held_out, config.train.seed)
        starts = WindowSampler.of(episodes.lengths, episodes.offsets, ids, WINDOW).starts
        seed = config.train.seed
        model, errors = train_flat(episodes.pixels, actions, starts, self.flat_steps, seed)
        errors = [float(f"{error:.3g}") for error in errors]
        header = {"format": checkpoint.FORMAT_VERSION, "errors": errors}
        checkpoint.write_tensors(path, model.state_dict(), "flat", header)
        return model, errors

    def _on_top(
        self,
        flat: FlatModel,
        folder: Path,
        episodes: Episodes,
        config: DemoConfig,
        progress: Progress,
    ) -> Hierarchy:
        """The demo's upper levels, trained as there."""
        levels = config.model.levels[1:]
        stage = replace(
            config.train.stages[-1], levels=tuple(range(1, len(levels) + 1)), steps=self.steps
        )
        assert isinstance(stage, StageConfig)
        return on_top_of(
            flat,
            episodes,
            levels,
            replace(config.train, stages=(stage,)),
            folder,
            frames=2,
            truth=MazeTruth.of(episodes),
            progress=progress,
        )

    def _compare(
        self,
        model: Hierarchy,
        flat: FlatModel,
        folder: Path,
        episodes: Episodes,
        config: DemoConfig,
        progress: Progress,
    ) -> Results:
        """Paired trials with far goals."""
        seed = config.train.seed
        found = compare(
            folder / "outcomes",
            model,
            methods(model),
            make_trials(config.collect.layout, self.trials, seed, "test", (FAR,)),
            self.budget,
            config.collect.task,
            seed,
            {
                "name": episodes.path.stem,
                "transitions": episodes.transitions,
                "sha256": episodes.sha256,
            },
            progress,
        )
        own = sum(p.numel() for p in flat.parameters())
        found.records = [
            replace(r, task="point-maze-foreign", model_params=r.model_params + own)
            for r in found.records
        ]
        return found


def methods(model: Hierarchy) -> list[Method]:
    """The hierarchy, whose plans are followed or made anew at every turn, the flat model alone from
    equal compute up, and given the hierarchy's cost.
    """
    return [
        Method("hierarchical", "default", planner_for(model.config)),
        Method("hierarchical", "eager", eagerly(model.config)),
        *(flat_method(setting) for setting in FLAT),
        same_cost_method(SAME_COST),
        Method("control:random", "uniform"),
    ]


def table(out: Path) -> str:
    """The page's table and what it says in a sentence; empty where there are no results yet."""
    path = out / "records.json"
    if not path.exists():
        return ""
    records = load(path)
    return f"{published_table(records, {}, (FAR,))}\n\n{words.headline(words.compare(records))}"


@torch.no_grad()
def _figures(model: Hierarchy, episodes: Episodes, config: DemoConfig) -> dict[str, Any]:
    """What a page about the models shows; see :func:`echelon.diagnostics.diagnose`."""
    _, held_out = episodes.split(config.train.held_out, config.train.seed)
    found = diagnose(model, episodes, held_out, config.collect.layout)
    return {
        "open_loop": found["open_loop"],
        "sign_agreement": [level["sign_agreement"] for level in found["latents"]],
        "effective_rank": [level["effective_rank"] for level in found["latents"]],
    }
