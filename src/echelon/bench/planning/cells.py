"""The table of costs and levels: one planner a cell, chosen on trials of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from echelon import schema
from echelon.atlas import Atlas
from echelon.auto import Choice, race
from echelon.bench.planning.mazes import Maze, Models
from echelon.config import PlannerConfig, to_dict
from echelon.diagnostics import sign_agreement
from echelon.envs.mazes import make_trials
from echelon.envs.task import Trial
from echelon.evaluation import Method, Outcome, run_trials
from echelon.experiment import FLAT_CHEAP
from echelon.files import alone, read_json, write_json
from echelon.models.hierarchy import Hierarchy
from echelon.presets import CostKind, settings_for, settings_of, with_cost
from echelon.progress import Progress

TUNING = 160
"""far trials that a cell's planner is chosen by; nothing else uses them"""
ASKED = 0.98
"""share of them that is wanted; the cheapest planner that reaches it is taken, or else the best"""
SPACING = 0.1
"""cells between the places that sign agreement is read off"""
COSTS: tuple[CostKind, ...] = ("latent", "upper", "learned", "graph")
Tried: TypeAlias = dict[tuple[int, Method, int, int], Outcome]
"""what is known already: of a model, by its `id`, and a method, on trials from one to another"""


@dataclass(frozen=True)
class Cell:
    """A cost on a number of levels; or, with neither, whatever a model offers ("auto")."""

    cost: CostKind | None = None
    depth: int = 0

    @property
    def name(self) -> str:
        return f"{self.cost}-{self.depth}" if self.cost else "auto"

    def model(self, models: Models) -> Hierarchy:
        """The cost of latents alone at every level needs one latent space."""
        return models.shared if self.cost == "latent" else models.own

    def settings(self, models: Models) -> dict[str, tuple[PlannerConfig, ...]]:
        config = self.model(models).config
        if self.cost is None:
            return settings_for(config)
        return settings_of(config, self.cost, self.depth)

    def agreement(self, models: Models, atlas: Atlas) -> float | None:
        """Of the distance that the highest search descends."""
        if self.cost is None:
            return None
        if self.cost == "upper":  # the latents of the level above, or of the highest one
            return sign_agreement(models.own, max(1, self.depth - 1), atlas, "latent")
        return sign_agreement(self.model(models), self.depth - 1, atlas, self.cost)


LESS = Method.of("latent-less-1", with_cost(FLAT_CHEAP.levels, "latent"))
"""flat planning on latents for about what hierarchies on them take, where more is what is chosen"""
CELLS = tuple(Cell(cost, depth) for cost in COSTS for depth in (1, 2, 3))
AUTO = Cell()


def choose(
    cell: Cell, maze: Maze, models: Models, seed: int, path: Path, known: Tried, shown: Progress
) -> Method:
    """The planner of a cell, chosen once and kept in a file with the race that it won.

    known: what other cells' races found in the same maze, and what this one adds.
    """
    with alone(path.with_suffix("")):
        if not path.exists():
            choice = _race(cell, maze, models, seed, known, shown)
            shown.say(f"{cell.name}: {choice.in_words()}")
            write_json(path, raced(choice))
    levels = read_json(path)["planner"]
    return Method.of(
        cell.name,
        tuple(schema.read(PlannerConfig, v, f"{path}: {i}") for i, v in enumerate(levels)),
    )


def _race(
    cell: Cell, maze: Maze, models: Models, seed: int, known: Tried, shown: Progress
) -> Choice:
    trials = make_trials(maze.layout, TUNING, seed, "tune", (maze.far,))
    order = np.random.default_rng(seed).permutation(len(trials))
    shuffled = [trials[i] for i in order]
    model = cell.model(models)

    def tried(method: Method, some: Sequence[Trial]) -> Outcome:
        begin = next(i for i, trial in enumerate(shuffled) if trial is some[0])
        key = id(model), method, begin, begin + len(some)
        if key not in known:
            known[key] = run_trials(model, method, some, maze.config.budget, maze.task, 0, shown)
        return known[key]

    methods = [Method.of(name, levels) for name, levels in cell.settings(models).items()]
    return race(methods, shuffled, tried, ASKED)


def raced(choice: Choice) -> dict[str, Any]:
    """A race as plain types."""
    return {
        "setting": choice.chosen.method.setting,
        "planner": [to_dict(level) for level in choice.chosen.method.levels],
        "race": [
            {
                "setting": tried.method.setting,
                "episodes": tried.episodes,
                "successes": tried.successes,
                "tflops": float(f"{tried.tflops:.4g}"),
            }
            for tried in choice.race
        ],
    }


def agreements(maze: Maze, models: Models) -> list[dict[str, Any]]:
    """Of each cell, how often its cost is right about a step, here and in layouts never seen."""
    layouts = {"home": [maze.layout], "away": [maze.elsewhere(n) for n in range(2)]}
    found: list[dict[str, Any]] = []
    made: Mapping[tuple[int, str], list[Atlas]] = {
        (id(model), where): [Atlas.of(model, layout, SPACING) for layout in some]
        for model in (models.own, models.shared)
        for where, some in layouts.items()
    }
    for cell in CELLS:
        figures: dict[str, Any] = {"cell": cell.name}
        for where in layouts:
            atlases = made[id(cell.model(models)), where]
            values = [cell.agreement(models, atlas) for atlas in atlases]
            known = [v for v in values if v is not None]
            figures[where] = round(float(np.mean(known)), 4) if known else None
        found.append(figures)
    return found


def topped(method: Method, **changes: Any) -> Method:
    """The same method with options of its highest level changed."""
    *below, top = method.levels
    return replace(method, levels=(*below, replace(top, **changes)))
