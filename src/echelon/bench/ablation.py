"""One part of the demo removed or replaced at a time, and what that does to far goals.

What level 0 learns by itself is trained once a seed for all variants that agree on it; each variant's
own training starts from there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from echelon.atlas import Atlas
from echelon.bench.jobs import Jobs, side_by_side
from echelon.bench.variants import VARIANTS, Variant, configured
from echelon.config import (
    DistanceConfig,
    ModelConfig,
    StageConfig,
    TrainConfig,
    to_dict,
)
from echelon.data.episodes import Episodes
from echelon.demo import HELD_OUT_SEED, DemoConfig, collected, seeded, trials_of
from echelon.diagnostics import diagnose, sign_agreement
from echelon.envs.mazes import HELD_OUT_LAYOUTS
from echelon.evaluation import Method
from echelon.experiment import Results, compare
from echelon.files import alone, read_json, write_json, write_rows
from echelon.measure import measure
from echelon.models.hierarchy import Hierarchy
from echelon.progress import Progress
from echelon.proposal import fit_stages, propose
from echelon.records import Record, load, save
from echelon.report import Page, ablation_table
from echelon.trainer import Trainer
from echelon.types import EchelonError

FAR = "9+"
"""the bin of goals that variants are judged by, beside those in held-out layouts"""
SPACING = 0.1
"""cells between the places that sign agreement is read off"""


@dataclass(frozen=True)
class Ablation:
    """One part of the demo removed or replaced at a time, on far goals and in held-out layouts.

    Stopped at any moment, it goes on where it was.
    """

    only: tuple[str, ...] = ()
    """names of the variants to run; none runs all"""
    seeds: tuple[int, ...] = (0, 1, 2)
    trials: int = 100
    """far ones in the layout trained in, and as many in all held-out layouts together"""
    jobs: Jobs = 1
    """seeds, and then variants, at a time"""
    runs: Path = Path("runs/bench")
    """its folders seed-0, seed-1, ... hold the episodes; they are collected where they are missing"""
    out: Path = Path("results/ablation")
    page: Path = Path("docs/ablation.md")
    """its table is brought up to date"""

    def __call__(self) -> None:
        run(self, DemoConfig(), Progress())

    @property
    def shows(self) -> Page:
        return Page(self.page, self.out, {"ablation": table})


def run(asked: Ablation, config: DemoConfig, progress: Progress) -> None:
    """The ablation of a demo of any size; records.json, models.json and the page at its end."""
    chosen = [v for v in VARIANTS if not asked.only or v.name in asked.only]
    if unknown := sorted(set(asked.only) - {v.name for v in VARIANTS}):
        names = ", ".join(v.name for v in VARIANTS)
        raise EchelonError(f"only: no variant is called {', '.join(unknown)}; there are {names}")
    asked.shows.check()  # a page that cannot be written is told now
    if asked.trials < 2 * config.held_out_layouts:
        raise EchelonError(f"trials: {asked.trials} are too few for the held-out layouts")
    layout_trials = asked.trials // max(1, config.held_out_layouts)
    config = replace(config, trials=asked.trials, layout_trials=layout_trials)
    side_by_side(partial(_collect, asked, config), asked.seeds, asked.jobs, "collect", progress)
    # Seeds in turn, so that jobs that begin together wait for no stem that both need.
    pieces = [(seed, variant.name) for variant in chosen for seed in asked.seeds]
    found = side_by_side(partial(_measure, asked, config), pieces, asked.jobs, "ablate", progress)
    records = [record for results, _ in found for record in results.records]
    _write(asked, records, [figures for _, figures in found])


def _collect(asked: Ablation, config: DemoConfig, seed: int, progress: Progress) -> None:
    folder = asked.runs / f"seed-{seed}"
    with alone(folder):
        collected(seeded(config, seed).collect, folder, progress)


def _measure(
    asked: Ablation, config: DemoConfig, piece: tuple[int, str], progress: Progress
) -> tuple[Results, dict[str, Any]]:
    """The variant of a name and a seed."""
    seed, name = piece
    variant = next(variant for variant in VARIANTS if variant.name == name)
    progress.say(f"seed {seed}, {name}: {variant.part}, {variant.what}")
    folder = asked.runs / f"seed-{seed}"
    episodes = Episodes.open(folder / "episodes.h5")
    return measured(variant, seeded(config, seed), episodes, folder / "ablation", progress)


def split(model: ModelConfig, train: TrainConfig) -> tuple[ModelConfig, TrainConfig, TrainConfig]:
    """What level 0 learns by itself, as a model and a training of its own, and what comes after it;
    there may be none of either.

    Levels that train side by side on a frozen encoder, and send each other no gradient, learn what
    they would learn one after the other: the levels above wait until level 0 is done.
    """
    level = model.levels[0]
    apart = level.distance.kind == "latent" or level.distance.shape_latent
    if not level.distance.shape_latent:  # then its head can be trained later
        level = replace(level, distance=DistanceConfig())
    first: list[StageConfig] = []
    rest = list(train.stages)
    while rest and not any(rest[0].levels) and (rest[0].train_encoder or apart):
        first.append(rest.pop(0))
    both = rest[0] if first and rest and apart else None
    if both and 0 in both.levels and not (both.train_encoder or both.gradient_below):
        first.append(replace(both, levels=(0,)))
        rest[0] = replace(both, levels=tuple(index for index in both.levels if index))
    stem = replace(model, levels=(level,))
    return stem, replace(train, stages=tuple(first)), replace(train, stages=tuple(rest))


def train_variant(
    variant: Variant, config: DemoConfig, episodes: Episodes, folder: Path, progress: Progress
) -> tuple[Trainer, Hierarchy]:
    """A trained variant; what it shares with others is trained once, by the first that asks, and kept
    stage by stage.
    """
    model, train = configured(variant, config)
    if variant.auto:
        model = propose(measure(episodes), model).model
        train = fit_stages(train, len(model.levels))
    stem, first, rest = split(model, train)
    start = None
    for done in range(1, len(first.stages) + 1):
        options = json.dumps([to_dict(stem), to_dict(replace(first, stages=first.stages[:done]))])
        shared = folder / f"stem-{hashlib.sha256(options.encode()).hexdigest()[:12]}"
        stage = replace(first, stages=first.stages[done - 1 : done], start_from=start)
        with alone(shared):
            trainer = Trainer(episodes, stem, stage, shared)
            trainer.run(progress)
        start = str(trainer.checkpoint)
    own = folder / (variant.trained or variant.name)
    with alone(own):
        trainer = Trainer(episodes, model, replace(rest, start_from=start), own)
        return trainer, trainer.run(progress)


def measured(
    variant: Variant, config: DemoConfig, episodes: Episodes, folder: Path, progress: Progress
) -> tuple[Results, dict[str, Any]]:
    """What a variant reaches, and the figures of its model."""
    trainer, model = train_variant(variant, config, episodes, folder, progress)
    method = Method.of(variant.name, variant.planner(model.config))
    found = Results()
    for group, trials in trials_of(config).items():
        here = compare(
            trainer.out / "outcomes" / group,
            model,
            [method],
            [trial for trial in trials if trial.split in (FAR, HELD_OUT_LAYOUTS)],
            config.budget,
            config.collect.task,
            config.train.seed,
            trainer.identity,
            progress,
        )
        found.add(here)
    path = trainer.out / "figures.json"
    if not path.exists():
        write_json(path, _figures(trainer, model, config))
    return found, {"variant": variant.name, "seed": config.train.seed, **read_json(path)}


def _figures(trainer: Trainer, model: Hierarchy, config: DemoConfig) -> dict[str, Any]:
    """As `bench compare` gives them, and sign agreement in layouts never seen."""
    found = diagnose(model, trainer.episodes, trainer.held_out_ids, config.collect.layout)
    away: list[list[float | None]] = []
    for number in range(config.held_out_layouts):
        layout = config.collect.layout_of(HELD_OUT_SEED + number)
        atlas = Atlas.of(model, layout, SPACING)
        away.append([sign_agreement(model, i, atlas) for i in range(len(model.levels))])
    by_level = [[x for x in level if x is not None] for level in zip(*away, strict=True)]
    return {
        "durations": list(model.config.durations),
        "open_loop": found["open_loop"],
        "sign_agreement": [level["sign_agreement"] for level in found["latents"]],
        "held_out_sign_agreement": [
            round(float(np.mean(level)), 4) if level else None for level in by_level
        ],
        "effective_rank": [level["effective_rank"] for level in found["latents"]],
    }


def _write(asked: Ablation, records: Sequence[Record], figures: Sequence[dict[str, Any]]) -> None:
    """Add to the results, in place of what they hold of the same variants and seeds."""
    done = {(f["variant"], f["seed"]) for f in figures}
    paths = asked.out / "records.json", asked.out / "models.json"
    known = load(paths[0]) if paths[0].exists() else []
    models: list[dict[str, Any]] = read_json(paths[1]) if paths[1].exists() else []
    records = [*records, *(r for r in known if (r.setting, r.seed) not in done)]
    models = [*figures, *(f for f in models if (f["variant"], f["seed"]) not in done)]
    order = [variant.name for variant in VARIANTS]
    models = sorted(
        (f for f in models if f["variant"] in order),
        key=lambda f: (order.index(f["variant"]), f["seed"]),
    )
    save(paths[0], [r for r in records if r.setting in order])
    write_rows(paths[1], models)
    asked.shows.write()


def table(out: Path) -> str:
    """The page's table, from the results in a folder; empty where there are none yet."""
    if not (out / "records.json").exists():
        return ""
    rows = [(v.name, v.part, v.what, v.base) for v in VARIANTS]
    return ablation_table(rows, load(out / "records.json"), read_json(out / "models.json"))
