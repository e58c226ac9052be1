"""From nothing to a report: collect, train, evaluate, diagnose, show.

Every part leaves its file in the run folder and is skipped where that file is complete.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from echelon import checkpoint
from echelon.collect import CollectConfig, collect
from echelon.config import ModelConfig, TrainConfig
from echelon.data.episodes import Episodes
from echelon.diagnostics import diagnose
from echelon.envs.mazes import BINS, HELD_OUT_LAYOUTS, make_trials, spread_trials
from echelon.envs.task import Trial
from echelon.evaluation import Method
from echelon.experiment import Results, compare, demo_methods, write_results
from echelon.files import write_atomically
from echelon.models.hierarchy import Hierarchy
from echelon.progress import Progress
from echelon.records import Record
from echelon.trainer import Trainer
from echelon.truth import MazeTruth
from echelon.types import EchelonError

HELD_OUT_SEED = 1001
"""maze seed of the first held-out layout; training layouts use small ones"""


@dataclass(frozen=True)
class DemoConfig:
    """The whole demo, at a size that two cores finish in under ten minutes."""

    collect: CollectConfig = field(default_factory=CollectConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(num_threads=1))
    """on one thread: tensors this small take longer on two"""
    trials: int = 30
    """in each distance bin"""
    layout_trials: int = 12
    """on each held-out layout"""
    held_out_layouts: int = 2
    budget: int = 500
    """environment steps a trial"""

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise EchelonError("budget: a trial has at least 1 environment step")


def seeded(config: DemoConfig, seed: int) -> DemoConfig:
    """The same configuration with data and model of another seed, in the same layout."""
    return replace(
        config,
        collect=replace(config.collect, seed=seed),
        train=replace(config.train, seed=seed),
    )


def collected(config: CollectConfig, out: Path, progress: Progress) -> Episodes:
    """The episodes in a run folder, collected if they are not there yet."""
    data = out / "episodes.h5"
    if not data.exists():
        collect(config, data, progress)
    return Episodes.open(data)


def trained(config: DemoConfig, runs: Path, progress: Progress) -> tuple[Path, dict[str, Any]]:
    """The checkpoint of a seed, trained if it is not there yet, and what it was trained on."""
    folder = runs / f"seed-{config.train.seed}"
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        trainer, model = train_model(config, folder, progress)
        write_diagnostics(trainer, model, config, folder)
    return path, checkpoint.describe(path)["about"]["data"]


def device() -> str:
    """Where models are evaluated."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def train_model(config: DemoConfig, out: Path, progress: Progress) -> tuple[Trainer, Hierarchy]:
    """Collect what is not there yet, and train on it."""
    episodes = collected(config.collect, out, progress)
    trainer = Trainer(episodes, config.model, config.train, out, MazeTruth.of(episodes))
    return trainer, trainer.run(progress)


def run(config: DemoConfig, out: Path, progress: Progress) -> list[Record]:
    """The whole demo; returns its records, which are in the folder too."""
    trials_of(config)  # a maze too small for them is told now, not after training
    trainer, model = train_model(config, out, progress)
    write_diagnostics(trainer, model, config, out)
    methods = demo_methods(config.model)
    found = evaluate(config, out, model, methods, trainer.identity, progress)
    write_results(out, found)
    return found.records


def write_diagnostics(trainer: Trainer, model: Hierarchy, config: DemoConfig, out: Path) -> None:
    """diagnostics.json, where it is not there yet."""
    path = out / "diagnostics.json"
    if not path.exists():
        found = diagnose(model, trainer.episodes, trainer.held_out_ids, config.collect.layout)
        write_atomically(path, json.dumps(found).encode())


def evaluate(
    config: DemoConfig,
    out: Path,
    model: Hierarchy,
    methods: Sequence[Method],
    data: dict[str, Any],
    progress: Progress,
) -> Results:
    """What all methods do on the layout trained in and on others."""
    found = Results()
    for group, trials in trials_of(config).items():
        here = compare(
            out / "outcomes" / group,
            model,
            methods,
            trials,
            config.budget,
            config.collect.task,
            config.train.seed,
            data,
            progress,
        )
        found.add(here)
    return found


def trials_of(config: DemoConfig) -> dict[str, list[Trial]]:
    """Test trials in the layouts trained in, by distance, and in layouts never seen."""
    seed = config.train.seed
    home = spread_trials(config.collect.layouts, config.trials, seed, "test", BINS)
    away: list[Trial] = []
    for number in range(config.held_out_layouts):
        other = config.collect.layout_of(HELD_OUT_SEED + number)
        away += make_trials(other, config.layout_trials, seed, "test", (HELD_OUT_LAYOUTS,))
    return {"home": home, "away": away} if away else {"home": home}
