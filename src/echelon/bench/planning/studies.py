"""What is asked of the planners; each study runs in one maze, on the models of one seed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from echelon.bench.planning.cells import (
    AUTO,
    CELLS,
    COSTS,
    LESS,
    Cell,
    Tried,
    agreements,
    choose,
    topped,
)
from echelon.bench.planning.mazes import Maze, Models
from echelon.envs import layouts
from echelon.envs.layouts import Layout
from echelon.envs.mazes import HELD_OUT_LAYOUTS
from echelon.evaluation import Method, Outcome, provenance, to_records
from echelon.experiment import name_of, outcome_of, pairs
from echelon.files import read_json
from echelon.models.hierarchy import Hierarchy
from echelon.presets import FlatSetting, settings_of, with_cost
from echelon.progress import Progress
from echelon.records import Record

STRENGTHS = (0.5, 1.0, 2.0)
"""of the noise on the coarse predictor, in usual changes of its latent from one step to the next"""
LONG = (
    FlatSetting(50, 8, replan=40, minimum=1.0),
    FlatSetting(100, 8, replan=50, minimum=1.0),
    FlatSetting(100, 8, replan=20, minimum=1.0),
    FlatSetting(150, 8, replan=20, minimum=1.0),
    FlatSetting(200, 16, replan=20, minimum=1.0),
    FlatSetting(400, 16, replan=20, minimum=1.0),
    FlatSetting(200, 32, correlation=0.98, replan=20, minimum=1.0),
    FlatSetting(200, 32, replan=20, minimum=1.0, kind="mppi"),
    FlatSetting(200, 16, replan=10, minimum=1.0),
    FlatSetting(200, 16, minimum=0.9),
)
"""flat planning on the latent distance, from the hierarchy's compute to some 32 times that; the best of
what `echelon bench tune` tries, and others of the same kind"""
DOUBTS = (0.0, 0.3, 1.0)
"""weights of what a coarse ensemble disagrees about"""
FINER = 4
"""places along a cell, to measure paths by"""


@dataclass
class Bed:
    """One maze and one seed, with all that is measured there."""

    maze: Maze
    seed: int
    models: Models
    folder: Path
    trials: int
    progress: Progress
    records: list[Record] = field(default_factory=list[Record])
    figures: dict[str, Any] = field(default_factory=dict[str, Any])
    tried: Tried = field(default_factory=Tried)
    """in races"""

    def run(
        self, study: str, method: Method, split: str, model: Hierarchy, located: bool = False
    ) -> Outcome:
        """What a method does on the test trials of a split, with its record; located: and where in the
        maze its subgoals are.
        """
        trials = self.maze.trials(self.seed, self.trials, split)
        outcome = outcome_of(
            self.folder / study / split,
            model,
            method,
            trials,
            self.maze.config.budget,
            self.maze.task,
            self.progress,
            located,
        )
        data, budget = dict(self.models.identity), self.maze.config.budget
        shared = provenance(self.maze.task.name, model, data, self.seed, budget)
        self.records += to_records(method, trials, outcome, shared)
        return outcome

    def choose(self, cell: Cell) -> Method:
        """The planner of a cell, and the race that it won, in a file of their own."""
        path = self.race(cell)
        return choose(cell, self.maze, self.models, self.seed, path, self.tried, self.progress)

    def race(self, cell: Cell) -> Path:
        """The file of a cell's race."""
        return self.folder / "races" / f"{cell.name}.json"

    def two_levels(self, kind: str = "") -> Method:
        """Two levels, the upper one in its own latent; kind: of `settings_of`, such as "-patient"."""
        levels = settings_of(self.models.own.config, "upper", 2)[f"upper-2{kind}"]
        return Method("hierarchical", "base", levels)


def table(bed: Bed) -> None:
    """Every cost on every number of levels, and what is chosen from all of them."""
    chosen = {cell: bed.choose(cell) for cell in (*CELLS, AUTO)}
    paired: list[dict[str, Any]] = []
    for split in (*bed.maze.splits, HELD_OUT_LAYOUTS):
        done = {
            cell: (method, bed.run("table", method, split, cell.model(bed.models)))
            for cell, method in chosen.items()
        }
        less = LESS, bed.run("table", LESS, split, bed.models.shared)
        trials = bed.maze.trials(bed.seed, bed.trials, split)
        for cell, (method, outcome) in done.items():
            if cell.depth > 1:
                flat = next(v for c, v in done.items() if (c.cost, c.depth) == (cell.cost, 1))
                for other in (flat, less) if cell.cost == "latent" else (flat,):
                    found = pairs(trials, dict([(method, outcome), other]))
                    paired += [{"cell": cell.name, **pair} for pair in found]
    bed.figures["paired"] = paired
    bed.figures["agreement"] = agreements(bed.maze, bed.models)
    bed.figures["chosen"] = {cell.name: read_json(bed.race(cell)) for cell in chosen}


def flat(bed: Bed) -> None:
    """How far flat planning on latents comes, at up to 32 times the compute."""
    for setting in LONG:
        method = Method.of(setting.name, with_cost(setting.levels, "latent"))
        bed.run("flat", method, bed.maze.far, bed.models.shared)


def damage(bed: Bed) -> None:
    """A coarse predictor that is wrong, with and without a watchdog; and where level 0 is judged by the
    coarse distance besides, and handed the goal where plans fail.
    """
    base = bed.two_levels("-patient")
    tried = {
        "blind": topped(base, watchdog=None),
        "watchdog": base,
        "lift": topped(base, hand_down="lift"),
        "lift-trust": topped(base, hand_down="lift", trust=2),
    }
    for strength in (0.0, *STRENGTHS):
        model = damaged(bed.models.own, strength)
        for name, method in tried.items():
            method = replace(method, setting=f"damage-{strength:g}-{name}")
            bed.run("damage", method, bed.maze.far, model)


class Noisy(nn.Module):
    """A predictor with Gaussian noise on what it says."""

    std: Tensor

    def __init__(self, predictor: nn.Module, std: Tensor) -> None:
        super().__init__()
        self.predictor = predictor
        self.register_buffer("std", std)
        self._generator = torch.Generator(std.device).manual_seed(0)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        found = self.predictor(state, action)
        noise = torch.empty_like(found).normal_(generator=self._generator)
        return found + self.std * noise


def damaged(model: Hierarchy, strength: float) -> Hierarchy:
    """A copy whose level 1 predicts with noise: of each part of the state so many of its usual
    changes from one step to the next.
    """
    copied = copy.deepcopy(model)
    level = copied.levels[1]
    change = (level.after - level.before).square().mean(0).sqrt()
    usual = torch.cat([change, level.config.difference_scale * change])
    level.predictor = Noisy(level.predictor, strength * usual)
    return copied


def reach(bed: Bed) -> None:
    """Subgoals that cannot be reached in time: how many are handed down, and what that costs."""
    naive = bed.two_levels()
    bank = _searched(naive, proposal="bank")
    tried = {
        "naive": naive,
        "lifted": topped(naive, hand_down="lift"),
        "bank": bank,
        "support": topped(naive, support=1.0),
        "options": topped(naive, options=4, reach=0.3),
        "bank-support-options": topped(bank, support=1.0, options=4, reach=0.3),
        "followed": bed.two_levels("-patient"),
        "default": bed.two_levels("-patient-small"),
    }
    limit = _longest_way(bed)
    shares: dict[str, Any] = {"limit_cells": round(limit, 3)}
    for name, method in tried.items():
        method = replace(method, setting=f"reach-{name}")
        outcome = bed.run("reach", method, bed.maze.far, bed.models.own, located=True)
        shares[name] = unreachable(bed.maze.layout, outcome, limit)
    bed.figures["unreachable"] = shares


def _longest_way(bed: Bed) -> float:
    """Cells that 99 of 100 stretches of the data, one coarse step long, do not go beyond."""
    layout, duration = bed.maze.layout, bed.models.own.config.durations[1]
    episodes = bed.models.episodes
    places = episodes.column("state")[:, :2]
    starts = episodes.offsets[:300]
    ways = Ways(layout)
    steps = range(0, int(episodes.lengths.min()) - duration, duration)
    found = [ways.between(places[i + t], places[i + t + duration]) for i in starts for t in steps]
    return float(np.quantile(found, 0.99))


def unreachable(layout: Layout, outcome: Outcome, limit: float) -> dict[str, Any]:
    """Of the subgoals handed down, those whose place is a longer way off than `limit` cells."""
    ways = Ways(layout)
    away = [
        ways.between(np.array(path[made["step"]]), np.array(made["active"]))
        for path, plans in zip(outcome.paths, outcome.subgoals, strict=True)
        for made in plans
    ]
    share = float(np.mean(np.array(away) > limit)) if away else 0.0
    return {"subgoals": len(away), "share": round(share, 4)}


class Ways:
    """Shortest paths between places of a layout, along a grid `FINER` times as fine as its cells."""

    def __init__(self, layout: Layout) -> None:
        self._grid = np.kron(layout, np.ones((FINER, FINER), np.int8)).astype(np.int8)
        self._from: dict[tuple[int, int], NDArray[np.int64]] = {}

    def between(self, start: NDArray[Any], end: NDArray[Any]) -> float:
        """Cells of the way between two (row, column) places, each in a free cell."""
        (a, b), (c, d) = np.floor(FINER * np.stack([start, end])).astype(int).tolist()
        if (a, b) not in self._from:
            self._from[a, b] = layouts.distances(self._grid, (a, b))
        return float(self._from[a, b][c, d]) / FINER


def search(bed: Bed) -> None:
    """One part of the search changed at a time, and each optimizer."""
    base = bed.two_levels("-patient")
    tried: dict[str, Method] = {
        "base": base,
        "small": bed.two_levels("-patient-small"),
        "replan-2": topped(base, replan=2, watchdog=None, reached=0.0),
        "no-watchdog": topped(base, watchdog=None),
        "no-early-subgoal": topped(base, reached=0.0),
        "enter": topped(base, enter=1.0),
        "wide": _searched(base, noise=3.0, warm_noise=1.5),  # as good as no prior
        "covariance": _searched(base, proposal="covariance"),
        "bank": _searched(base, proposal="bank"),
        "support-0.3": topped(base, support=0.3),
        "support-1": topped(base, support=1.0),
        "options-4": topped(base, options=4, reach=0.3),
        "lift": topped(base, hand_down="lift"),
        "lift-trust": topped(base, hand_down="lift", trust=2),
        "early-stop": _searched(base, iterations=6, agreement=0.3),
        "no-early-stop": _searched(base, iterations=6),
        "white": _searched(base, correlation=0.0),
        "icem": _searched(base, kind="icem"),
        "mppi": _searched(base, kind="mppi"),
        "gradient": _searched(base, kind="gradient", candidates=8, elites=8, iterations=8),
        "refine": _searched(base, kind="refine", candidates=96, iterations=1, steps=3),
    }
    for name, method in tried.items():
        bed.run("search", replace(method, setting=f"search-{name}"), bed.maze.far, bed.models.own)
    for weight in DOUBTS:
        method = replace(topped(base, doubt=weight), setting=f"search-doubt-{weight:g}")
        bed.run("search", method, bed.maze.far, bed.models.ensemble)


def growth(bed: Bed) -> None:
    """Compute a decision as the goal moves away, of the hierarchy and of flat planning on latents."""
    if not bed.maze.ladder:
        return
    two = next(cell for cell in CELLS if cell.name == "upper-2")
    methods = [(bed.choose(cell), bed.models.own) for cell in (AUTO, two)]
    for horizon in (20, 50, 100, 200, 400):
        setting = FlatSetting(horizon, 16, minimum=1.0)
        latent = Method.of(setting.name, with_cost(setting.levels, "latent"))
        methods.append((latent, bed.models.shared))
    rows: list[dict[str, Any]] = []
    for split in bed.maze.ladder:
        for method, model in methods:
            outcome = bed.run("growth", method, split, model)
            decisions = max(int(outcome.steps.sum()), 1)
            rows.append(
                {
                    "split": split,
                    **name_of(method),
                    "successes": int(outcome.success.sum()),
                    "episodes": len(outcome.success),
                    "gflops_per_decision": float(f"{2e-9 * outcome.macs.sum() / decisions:.4g}"),
                }
            )
    bed.figures["growth"] = rows


def unseen(bed: Bed) -> None:
    """What was tried in layouts that no model was trained in: each cost that a level can bring, on one
    level, and on two, of which the lower is judged by it too, or handed the goal where plans fail.
    """
    model = bed.models.own
    for cost in COSTS[1:]:
        base = Method("hierarchical", "", settings_of(model.config, cost, 2)[f"{cost}-2-patient"])
        tried = {
            "flat": Method("flat", "", settings_of(model.config, cost, 1)[f"{cost}-1-r4"]),
            "followed": base,
            "lift": topped(base, hand_down="lift"),
            "trust": topped(base, trust=2),
            "lift-trust": topped(base, hand_down="lift", trust=2),
        }
        for name, method in tried.items():
            method = replace(method, setting=f"unseen-{cost}-{name}")
            bed.run("unseen", method, HELD_OUT_LAYOUTS, model)


def _searched(method: Method, **changes: Any) -> Method:
    """The same with other options of the highest level's optimizer."""
    return topped(method, optimizer=replace(method.levels[-1].optimizer, **changes))


STUDIES: Mapping[str, Callable[[Bed], None]] = {
    "table": table,
    "damage": damage,
    "reach": reach,
    "search": search,
    "flat": flat,
    "growth": growth,
    "unseen": unseen,
}
