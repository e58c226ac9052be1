"""One model against many trials, each method once, kept as it goes.

A folder of outcomes holds one file a method; records and animations are made of those, so that an
evaluation stopped half way goes on where it was.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from echelon import checkpoint
from echelon.atlas import Atlas
from echelon.auto import race
from echelon.config import ModelConfig, PlannerConfig, Precision, faster, to_dict
from echelon.envs.layouts import Layout
from echelon.envs.mazes import BINS, MazeTask, spread_trials
from echelon.envs.task import Task, Trial
from echelon.evaluation import (
    Method,
    Outcome,
    provenance,
    run_trials,
    to_records,
    traces,
)
from echelon.files import read_json, write_atomically, write_json
from echelon.limits import warn_of_horizons
from echelon.models.hierarchy import Hierarchy
from echelon.presets import FlatSetting, planner_for, settings_for, with_cost
from echelon.progress import Progress
from echelon.records import Record, save
from echelon.report import paired_p, write_report
from echelon.types import EchelonError

FLAT_CHEAP = FlatSetting(horizon=150, candidates=8, replan=20, minimum=1.0)
FLAT_MORE = FlatSetting(horizon=200, candidates=16, replan=5, minimum=1.0)
SAME_COST = FlatSetting(horizon=20, candidates=8, correlation=0.9, replan=2, minimum=0.3)

TUNING = 40
"""trials in each distance bin that a planner is chosen by"""


@dataclass
class Results:
    """What an evaluation leaves behind."""

    records: list[Record] = field(default_factory=list[Record])
    traces: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """some trials to animate"""
    pairs: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """of each split and method, how often it and the hierarchy succeeded on the same trial"""

    def add(self, other: Results) -> None:
        """Take over all that another one holds."""
        self.records += other.records
        self.traces += other.traces
        self.pairs += other.pairs


def demo_methods(model: ModelConfig) -> list[Method]:
    """What the demo compares: the hierarchy, flat at two budgets, and the controls, one of which is
    shown subgoals on the true way.
    """
    return [
        Method("hierarchical", "default", planner_for(model)),
        flat_method(FLAT_CHEAP),
        flat_method(FLAT_MORE),
        same_cost_method(SAME_COST),
        Method("control:oracle-subgoals", "ahead-2", planner_for(model)[:1], ahead=2),
        Method("control:random", "uniform"),
    ]


def flat_method(setting: FlatSetting) -> Method:
    """Level 0 alone, with its own latent distance."""
    return Method("flat", setting.name, setting.levels)


def same_cost_method(setting: FlatSetting) -> Method:
    """Level 0 alone, with the hierarchy's latent distance."""
    return Method("control:flat-same-cost", setting.name, with_cost(setting.levels, "upper"))


def outcome_of(
    folder: Path,
    model: Hierarchy,
    method: Method,
    trials: Sequence[Trial],
    budget: int,
    task: Task,
    progress: Progress,
    located: bool = True,
) -> Outcome:
    """Run a method on the trials, or read what an earlier run found.

    located: note where in its maze each coarse plan means to go, for pictures.
    """
    path = folder / f"{method.method}-{method.setting}.json".replace(":", "-")
    asked = _digest(model, method, trials, budget, task)
    if path.exists():
        return _read(path, asked)
    atlases: list[Atlas] = []
    if located and len(method.levels) > 1:
        some = {id(trial.layout): trial.layout for trial in trials}
        made = {known: Atlas.of(model, layout) for known, layout in some.items()}
        atlases = [made[id(trial.layout)] for trial in trials]
    outcome = run_trials(model, method, trials, budget, task, 0, progress, atlases)
    write_atomically(path, json.dumps({"asked": asked, **_plain(outcome)}).encode())
    return outcome


def outcomes_of(
    folder: Path,
    model: Hierarchy,
    methods: Sequence[Method],
    trials: Sequence[Trial],
    budget: int,
    task: Task,
    seed: int,
    data: dict[str, Any],
    progress: Progress,
    located: bool = True,
) -> tuple[dict[Method, Outcome], list[Record]]:
    """What every method did on the same trials, and its records; located: see :func:`outcome_of`."""
    shared = provenance(task.name, model, data, seed, budget)
    outcomes = {
        method: outcome_of(folder, model, method, trials, budget, task, progress, located)
        for method in methods
    }
    records = [
        record
        for method, outcome in outcomes.items()
        for record in to_records(method, trials, outcome, shared)
    ]
    return outcomes, records


def compare(
    folder: Path,
    model: Hierarchy,
    methods: Sequence[Method],
    trials: Sequence[Trial],
    budget: int,
    task: Task,
    seed: int,
    data: dict[str, Any],
    progress: Progress,
) -> Results:
    """What every method did on the same trials, trial by trial, and some of them to animate."""
    outcomes, records = outcomes_of(
        folder, model, methods, trials, budget, task, seed, data, progress
    )
    pair = [
        next((p for p in outcomes.items() if p[0].method == name), None)
        for name in ("hierarchical", "flat")
    ]
    both = [p for p in pair if p is not None]
    chosen = pick(trials, [outcome for _, outcome in both], each=2)
    return Results(records, traces(task.name, trials, both, chosen), pairs(trials, outcomes))


def pairs(trials: Sequence[Trial], outcomes: Mapping[Method, Outcome]) -> list[dict[str, Any]]:
    """The hierarchy's main setting against every other method, trial by trial, counted a split."""
    ours = next((m for m in outcomes if m.method == "hierarchical"), None)
    if ours is None:
        return []
    found: list[dict[str, Any]] = []
    for split in dict.fromkeys(trial.split for trial in trials):
        rows = np.array([trial.split == split for trial in trials])
        a = outcomes[ours].success[rows]
        for method, outcome in outcomes.items():
            b = outcome.success[rows]
            counts = {
                "both": int((a & b).sum()),
                "only_hierarchical": int((a & ~b).sum()),
                "only_other": int((~a & b).sum()),
                "neither": int((~a & ~b).sum()),
            }
            if method != ours:
                found.append({"split": split, **name_of(method), **counts})
    return found


def tested(pairs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Counts of paired trials summed over seeds, each with McNemar's exact p."""
    sums: dict[tuple[str, str, str], dict[str, Any]] = {}
    for pair in pairs:
        key = pair["split"], pair["method"], pair["setting"]
        known = sums.setdefault(key, {k: 0 if isinstance(v, int) else v for k, v in pair.items()})
        known |= {k: known[k] + v for k, v in pair.items() if isinstance(v, int)}
    return [
        {**pair, "p": float(f"{paired_p(pair['only_hierarchical'], pair['only_other']):.3g}")}
        for pair in sums.values()
    ]


def name_of(method: Method) -> dict[str, str]:
    """What a record calls a method."""
    return {"method": method.method, "setting": method.setting}


def write_results(out: Path, found: Results) -> Path:
    """records.json, traces.json and the report of a run folder."""
    save(out / "records.json", found.records)
    write_atomically(out / "traces.json", json.dumps(found.traces).encode())
    return write_report(out)


def evaluate_checkpoint(
    path: Path,
    out: Path,
    planners: Mapping[str, Sequence[PlannerConfig]],
    trials: int,
    budget: int,
    seed: int,
    progress: Progress,
    success: float | None = None,
    precision: Precision | None = None,
    compile: bool = False,
) -> list[Record]:
    """Trials in the layout that a checkpoint was trained in; by default what the demo compares.

    success: choose one more setting, called "auto": the cheapest that reaches this share of trials of
        its own; planner.json, in `out`, holds it.
    precision, compile: of all levels, in place of what the settings say.
    """

    def sped(method: Method) -> Method:
        return dataclasses.replace(method, levels=faster(method.levels, precision, compile))

    model, about = checkpoint.load_model(path), checkpoint.describe(path)["about"]
    task = MazeTask.of(about["meta"])
    if task is None:
        raise EchelonError(
            f"{path}: was not trained on episodes of a maze, so there is no task to evaluate it on; "
            "drive your own environment with an Agent"
        )
    for levels in planners.values():
        warn_of_horizons(model, levels)
    some = MazeTask.layouts_of(about["meta"])
    methods = [Method.of(name, levels) for name, levels in planners.items()]
    if success is not None:
        methods.append(chosen(model, task, some, budget, success, out, progress, sped))
    methods = [sped(method) for method in methods or demo_methods(model.config)]
    made = spread_trials(some, trials, seed, "test", BINS)
    found = compare(
        out / "outcomes",
        model,
        methods,
        made,
        budget,
        task,
        about["train"]["seed"],
        about["data"],
        progress,
    )
    write_results(out, found)
    return found.records


def chosen(
    model: Hierarchy,
    task: Task,
    some: Sequence[Layout],
    budget: int,
    success: float,
    out: Path,
    progress: Progress,
    sped: Callable[[Method], Method],
) -> Method:
    """The setting to use, by a race on trials at all distances that nothing else uses."""
    trials = spread_trials(some, max(TUNING, len(some)), 0, "tune", BINS)
    order = np.random.default_rng(0).permutation(len(trials))
    named = settings_for(model.config).items()
    methods = [sped(Method.of(name, levels)) for name, levels in named]

    def tried(method: Method, few: Sequence[Trial]) -> Outcome:
        return run_trials(model, method, few, budget, task, 0, progress)

    choice = race(methods, [trials[i] for i in order], tried, success)
    progress.say(choice.in_words())
    best = choice.chosen.method
    write_json(out / "planner.json", [to_dict(level) for level in best.levels])
    return dataclasses.replace(best, setting="auto")


def pick(trials: Sequence[Trial], outcomes: Sequence[Outcome], each: int) -> list[int]:
    """Trials to animate: in every split up to `each` of each pattern of success, longest first."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i, trial in enumerate(trials):
        pattern = tuple(bool(outcome.success[i]) for outcome in outcomes)
        groups.setdefault((trial.split, pattern), []).append(i)
    chosen: list[int] = []
    for members in groups.values():
        chosen += sorted(members, key=lambda i: -trials[i].distance)[:each]
    return sorted(chosen)


def _plain(outcome: Outcome) -> dict[str, Any]:
    fields = ((f.name, getattr(outcome, f.name)) for f in dataclasses.fields(outcome))
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in fields}


def _digest(
    model: Hierarchy, method: Method, trials: Sequence[Trial], budget: int, task: Task
) -> str:
    """Of all that an outcome depends on."""
    places = [[t.layout.tolist(), t.start.tolist(), t.goal.tolist(), t.seed] for t in trials]
    options = [to_dict(method), places, budget, repr(task)]
    digest = hashlib.sha256(json.dumps(options).encode())
    for tensor in model.state_dict().values():
        digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _read(path: Path, asked: str) -> Outcome:
    values = read_json(path)
    if values.pop("asked", None) != asked:
        raise EchelonError(
            f"{path}: is of another model, other trials or options; choose another --out, or delete "
            f"{path.parent}"
        )
    arrays = {k: np.array(values[k]) for k in ("success", "steps", "calls", "macs")}
    return Outcome(**(values | arrays))
