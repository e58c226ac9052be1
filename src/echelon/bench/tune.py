"""Flat and hierarchical planners are tuned alike, on trials that nothing else uses."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from echelon import checkpoint
from echelon.bench.jobs import Jobs, side_by_side
from echelon.config import ModelConfig, OptimizerConfig, PlannerConfig
from echelon.demo import DemoConfig, device, seeded, trained
from echelon.envs.mazes import BINS, make_trials
from echelon.evaluation import Method
from echelon.experiment import Results, compare, flat_method, same_cost_method
from echelon.presets import FlatSetting, eagerly, planner_for
from echelon.progress import Progress
from echelon.records import Record, load, save
from echelon.types import EchelonError

DEAREST = 32.0
"""times the hierarchy's compute that flat planning is tested up to"""


def flat_grid() -> list[FlatSetting]:
    """What flat planning is tuned over: both optimizers, white to slow noise, horizons up to the
    whole task, budgets over two orders of magnitude, clocks, and the share of the minimum.
    """
    grid = [
        FlatSetting(horizon, 16, correlation=correlation)
        for horizon, correlation in itertools.product((20, 50, 100, 200, 400), (0, 0.9, 0.95, 0.98))
    ]
    for horizon in (100, 200, 400):
        grid += [FlatSetting(horizon, 16, replan=10), FlatSetting(horizon, 16, replan=20)]
        grid += [FlatSetting(horizon, 8, replan=10), FlatSetting(horizon, 8, replan=20)]
    grid += [FlatSetting(100, 64), FlatSetting(200, 64), FlatSetting(400, 64, replan=10)]
    grid += [FlatSetting(h, 64, correlation=0.98, replan=10) for h in (100, 200)]
    grid += [FlatSetting(200, 16, minimum=m) for m in (0.3, 0.9, 1.0)]
    for replan in (10, 20):
        grid += [FlatSetting(h, 16, replan=replan, minimum=1.0) for h in (100, 200, 400)]
        grid += [FlatSetting(h, 8, replan=replan, minimum=1.0) for h in (100, 200)]
    for replan in (5, 10):
        grid += [FlatSetting(h, 4, replan=replan, minimum=1.0) for h in (100, 200)]
    grid += [FlatSetting(h, 8, minimum=1.0) for h in (100, 200)]
    grid += [FlatSetting(h, k, replan=40, minimum=1.0) for h in (200, 400) for k in (8, 16)]
    grid += [FlatSetting(h, 64, replan=10, minimum=1.0) for h in (100, 200)]
    grid += [FlatSetting(200, 4, replan=r, minimum=1.0) for r in (15, 20)]
    grid += [
        FlatSetting(150, 8, replan=20, minimum=1.0),
        FlatSetting(200, 8, replan=30, minimum=1.0),
    ]
    grid += [FlatSetting(200, 32, minimum=1.0), FlatSetting(200, 16, 2, minimum=1.0)]
    grid += [FlatSetting(200, 32, kind="mppi", minimum=1.0)]
    grid += [FlatSetting(200, 64, kind="mppi", correlation=c) for c in (0.95, 0.98)]
    grid += [FlatSetting(200, 32, 2), FlatSetting(200, 64, replan=10), FlatSetting(100, 32, 4)]
    return grid


def same_cost_grid() -> list[FlatSetting]:
    """What flat planning with the hierarchy's cost is tuned over: that cost wants short horizons."""
    grid = [
        FlatSetting(horizon, candidates, iterations, correlation=0.9, replan=2, minimum=minimum)
        for horizon in (10, 20, 40)
        for candidates, iterations in ((8, 1), (16, 1), (32, 2))
        for minimum in (0.3, 0.7)
    ]
    return grid + [
        FlatSetting(horizon, candidates, correlation=0.9, replan=4, minimum=minimum)
        for horizon in (6, 10, 20)
        for candidates in (8, 16)
        for minimum in (0.3, 0.7)
    ]


def hierarchy_grid(model: ModelConfig) -> list[Method]:
    """What the hierarchy's planner is tuned over; by far the smaller grid."""
    fine, *above = planner_for(model)
    coarse = above[0]

    def searched(config: PlannerConfig, **changes: Any) -> PlannerConfig:
        known = {f.name for f in dataclasses.fields(OptimizerConfig)}
        inner = {k: v for k, v in changes.items() if k in known}
        outer = {k: v for k, v in changes.items() if k not in known}
        return replace(config, optimizer=replace(config.optimizer, **inner), **outer)

    variants: dict[str, tuple[PlannerConfig, ...]] = {
        "default": (fine, coarse),
        "eager": eagerly(model),
        "coarse-h2": (fine, searched(coarse, horizon=2)),
        "coarse-h6": (fine, searched(coarse, horizon=6)),
        "coarse-k32x2": (fine, searched(coarse, candidates=32, iterations=2, elites=4)),
        "coarse-k64x2": (fine, searched(coarse, iterations=2)),
        "coarse-k128x3": (fine, searched(coarse, candidates=128, elites=12)),
        "coarse-m0": (fine, searched(coarse, minimum=0.0)),
        "coarse-m70": (fine, searched(coarse, minimum=0.7)),
        "coarse-c0": (fine, searched(coarse, correlation=0.0)),
        "coarse-c30": (fine, searched(coarse, correlation=0.3)),
        "coarse-c90": (fine, searched(coarse, correlation=0.9)),
        "reached-20": (fine, searched(coarse, reached=0.2)),
        "reached-40": (fine, searched(coarse, reached=0.4)),
        "reached-80": (fine, searched(coarse, reached=0.8)),
        "watchdog-25": (fine, searched(coarse, watchdog=0.25)),
        "watchdog-100": (fine, searched(coarse, watchdog=1.0)),
        "fine-k4x1": (searched(fine, candidates=4), coarse),
        "fine-k16x1": (searched(fine, candidates=16, elites=2), coarse),
        "fine-k16x2": (searched(fine, candidates=16, iterations=2, elites=2), coarse),
        "fine-k32x2": (searched(fine, candidates=32, iterations=2, elites=4), coarse),
        "fine-h4": (searched(fine, horizon=4), coarse),
        "fine-h10": (searched(fine, horizon=10), coarse),
        "fine-h15": (searched(fine, horizon=15), coarse),
        "fine-m30": (searched(fine, minimum=0.3), coarse),
        "fine-r1": (searched(fine, replan=1), coarse),
        "fine-r2": (searched(fine, replan=2), coarse),
        "fine-r6": (searched(fine, replan=6), coarse),
        "large": (searched(fine, horizon=10, replan=2, candidates=16, elites=2), coarse),
    }
    return [Method("hierarchical", name, levels) for name, levels in variants.items()]


def grid(model: ModelConfig) -> list[Method]:
    """All that is tuned over."""
    flat = [flat_method(s) for s in flat_grid()]
    return [*hierarchy_grid(model), *flat, *(same_cost_method(s) for s in same_cost_grid())]


def frontier(records: Sequence[Record], method: str) -> list[str]:
    """A method's settings that are worth testing, from their tuning records, by split.

    The best at each doubling of compute up to `DEAREST` times the hierarchy's, and the best of those
    that are no dearer than the hierarchy.
    """
    chosen: list[str] = []
    for split in dict.fromkeys(record.split for record in records):
        here = [record for record in records if record.split == split]
        ours = next(r for r in here if (r.method, r.setting) == ("hierarchical", "default"))
        theirs = sorted((r for r in here if r.method == method), key=lambda r: r.tflops_per_episode)
        best: dict[Any, Record] = {}
        for record in theirs:
            ratio = record.tflops_per_episode / ours.tflops_per_episode
            groups = [math.floor(math.log2(ratio))] if ratio <= DEAREST else []
            for group in (*groups, *(["equal"] if ratio <= 1 else [])):
                if group not in best or record.successes > best[group].successes:
                    best[group] = record
        chosen += [record.setting for record in best.values()]
    return list(dict.fromkeys(chosen))


@dataclass(frozen=True)
class Tune:
    """Tune flat and hierarchical planning on trials of their own; writes tuning.json."""

    only: tuple[str, ...] = ()
    """names of methods or settings to tune, beside what is known of others; none tunes all"""
    seed: int = 0
    """of the model"""
    trials: int = 50
    """in each distance bin"""
    budget: int = 500
    jobs: Jobs = 1
    """methods at a time"""
    runs: Path = Path("runs/bench")
    out: Path = Path("results/demo")

    def __call__(self) -> None:
        progress, methods = Progress(), grid(DemoConfig().model)
        if unknown := set(self.only) - {name for m in methods for name in (m.method, m.setting)}:
            raise EchelonError(f"only: there is no method or setting {min(unknown)}")
        methods = [m for m in methods if not self.only or {m.method, m.setting} & set(self.only)]
        trained(seeded(DemoConfig(), self.seed), self.runs, progress)
        side_by_side(self._judge, methods, self.jobs, "tune", progress)
        found = [
            replace(r, task="point-maze-tuning") for r in self._judged(methods, progress).records
        ]
        path = self.out / "tuning.json"
        if self.only:
            done = {(r.method, r.setting) for r in found}
            found += [r for r in load(path) if (r.method, r.setting) not in done]
        save(path, found)
        for method in dict.fromkeys(m.method for m in methods):
            print(method, *frontier(found, method))

    def _judge(self, method: Method, progress: Progress) -> None:
        self._judged([method], progress)

    def _judged(self, methods: Sequence[Method], progress: Progress) -> Results:
        """What methods reach, run where that is not known yet."""
        config = seeded(DemoConfig(), self.seed)
        path, data = trained(config, self.runs, progress)
        return compare(
            path.parent / "outcomes" / "tune",
            checkpoint.load_model(path, device()),
            methods,
            make_trials(config.collect.layout, self.trials, self.seed, "tune", BINS),
            self.budget,
            config.collect.task,
            self.seed,
            data,
            progress,
        )
