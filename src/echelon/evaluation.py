"""Paired trials: the same starts, goals and step budget for every method, and what each spent.

Success is judged by the environment's state, at any step within the budget; the planner never sees
it. A trial ends for the ledger when it has succeeded or its budget is used up.
"""

from __future__ import annotations

import datetime
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from echelon import __version__
from echelon.agent import Agent
from echelon.atlas import Atlas
from echelon.config import PlannerConfig, to_dict
from echelon.envs.task import Env, KnowsTheWay, Task, Trial
from echelon.limits import unwarned
from echelon.models.hierarchy import Hierarchy
from echelon.progress import Progress
from echelon.records import Dataset, Record
from echelon.types import EchelonError

Array = NDArray[Any]


@dataclass(frozen=True)
class Method:
    """A way to act, under the name that its records carry."""

    method: str
    """"flat", "hierarchical" or "control:..." """
    setting: str
    levels: tuple[PlannerConfig, ...] = ()
    """level 0 first; none acts at random"""
    ahead: int = 0
    """cells along the true way that it is shown subgoals, a control; 0 shows the goal alone"""

    @staticmethod
    def of(setting: str, levels: Sequence[PlannerConfig]) -> Method:
        """A planner: "flat" where one level plans, else "hierarchical"."""
        return Method("flat" if len(levels) == 1 else "hierarchical", setting, tuple(levels))


@dataclass
class Outcome:
    """What one method did on all trials; a row a trial."""

    success: NDArray[np.bool_]
    steps: NDArray[np.int64]
    calls: NDArray[np.float64]
    macs: NDArray[np.float64]
    seconds: float = 0.0
    """spent on decisions, all trials together"""
    paths: list[list[list[float]]] = field(default_factory=list[list[list[float]]])
    """[N][steps + 1][2] positions"""
    subgoals: list[list[dict[str, Any]]] = field(default_factory=list[list[dict[str, Any]]])
    """[N] the coarse plans made, for pictures"""


def run_trials(
    model: Hierarchy,
    method: Method,
    trials: Sequence[Trial],
    budget: int,
    task: Task,
    seed: int,
    progress: Progress,
    atlases: Sequence[Atlas] = (),
) -> Outcome:
    """All trials at once, one planner call for those that are still on their way.

    atlases: one a trial, to note where coarse plans mean to go; none saves the time.
    """
    if budget < 1:
        raise EchelonError("budget: a trial has at least 1 environment step")
    envs = [task.make(trial, model.config.image_size) for trial in trials]
    count = len(trials)
    out = Outcome(
        np.zeros(count, bool), np.zeros(count, np.int64), np.zeros(count), np.zeros(count)
    )
    observations, goals = [], []
    sensed: list[Array | None] = []
    for env, trial in zip(envs, trials, strict=True):
        image, info = env.reset(seed=trial.seed, options=dict(trial.options))
        observations.append(image)
        sensed.append(info.get("proprio"))
        goals.append(info["goal"])
        out.paths.append([_place(info)])
        out.subgoals.append([])
        out.success[len(out.paths) - 1] = info["success"]
    with unwarned():
        actor = _Actor(model, method, seed)
        actor.reset(np.stack(goals))
    active = np.arange(count)
    guide = _Guide(envs, method.ahead, task.name) if method.ahead else None
    with progress.task(f"{method.method} {method.setting}", budget) as advance:
        for step in range(budget):
            if guide:
                actor.aim(*guide.news(active))
            began = time.perf_counter()
            actions = actor.act(np.stack(observations), sensed)
            out.seconds += time.perf_counter() - began
            out.calls[active] += actor.calls
            out.macs[active] += actor.macs
            out.steps[active] += 1
            if atlases:
                here = [atlases[int(i)] for i in active]
                for row, places, subgoal in actor.new_subgoals(here):
                    out.subgoals[int(active[row])].append(
                        {"step": step, "places": places.tolist(), "active": subgoal.tolist()}
                    )
            kept: list[int] = []
            observations, sensed = [], []
            for row, index in enumerate(map(int, active)):
                image, _, _, _, info = envs[index].step(actions[row])
                out.paths[index].append(_place(info))
                out.success[index] = info["success"]
                if not info["success"]:
                    kept.append(row)
                    observations.append(image)
                    sensed.append(info.get("proprio"))
            advance(None)
            if not kept:
                break
            if len(kept) < len(active):
                actor.keep(np.array(kept))
                active = active[kept]
    for env in envs:
        env.close()
    return out


class _Guide:
    """Shows each environment's subgoal along the true way, when it is another one."""

    def __init__(self, envs: Sequence[Env], cells: int, task: str) -> None:
        self._cells = cells
        self._envs = [env for env in (e.unwrapped for e in envs) if isinstance(env, KnowsTheWay)]
        if len(self._envs) < len(envs):
            raise EchelonError(f"ahead: environments of {task} do not know the way")
        self._shown: list[Array] = [np.zeros(0)] * len(envs)

    def news(self, active: NDArray[np.int64]) -> tuple[Array, NDArray[np.int64]]:
        """Images ``[N, H, W, 3]`` and, of the environments `active`, the rows ``[N]`` they are for."""
        found: list[Array] = []
        rows: list[int] = []
        for row, index in enumerate(map(int, active)):
            there = self._envs[index].ahead(self._cells)
            if not np.array_equal(self._shown[index], there):
                self._shown[index] = there
                found.append(there)
                rows.append(row)
        return np.array(found), np.array(rows)


class _Actor:
    """An agent or, without planners, random actions, with what the last step took."""

    def __init__(self, model: Hierarchy, method: Method, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._model = model
        self._agent: Agent | None = None
        self.calls = self.macs = np.zeros(1)
        if method.levels:
            self._agent = Agent.of(model, method.levels, seed)

    def reset(self, goals: Array) -> None:
        if self._agent:
            self._agent.reset(goals)

    def aim(self, goals: Array, rows: Array) -> None:
        if self._agent and len(rows):
            self._agent.aim(goals, rows)

    def act(self, observations: Array, sensed: Sequence[Array | None]) -> Array:
        """sensed: of each environment what its model was told beside images, where it was."""
        if self._agent is None:
            prior = self._model.levels[0].prior
            low, high = prior.low.cpu().numpy(), prior.high.cpu().numpy()
            return self._rng.uniform(low, high, (len(observations), len(low)))
        told = [values for values in sensed if values is not None]
        proprio = np.stack(told) if told and self._model.proprio_dim else None
        actions = self._agent.act(observations, proprio)
        spent = self._agent.spent
        self.calls, self.macs = spent.calls.cpu().numpy(), spent.macs.cpu().numpy()
        return actions

    def keep(self, index: Array) -> None:
        if self._agent:
            self._agent.keep(index)

    def new_subgoals(self, atlases: Sequence[Atlas]) -> list[tuple[int, Array, Array]]:
        """Where each coarse plan made in this step means to go, and the subgoal handed down.

        atlases: one an environment. Returns (row, [H, 2] places, [2] place) of each new plan.
        """
        plan = self._agent.plan if self._agent else None
        if self._agent is None or plan is None or plan.below is None:
            return []
        level, known = len(plan.goals) - 1, len(plan.below.goals) - 1
        rows = (plan.made == self._agent.now - 1).nonzero().squeeze(1).tolist()
        subgoals = plan.below.goals[-1]["z"]
        return [
            (
                row,
                atlases[row].locate(level, plan.states["z"][row]),
                atlases[row].locate(known, subgoals[row][None])[0],
            )
            for row in rows
        ]


def _place(info: Mapping[str, Any]) -> list[float]:
    return [round(float(x), 3) for x in info.get("place", info["state"][:2])]


def to_records(
    method: Method, trials: Sequence[Trial], outcome: Outcome, shared: dict[str, Any]
) -> list[Record]:
    """One record a split. `shared`: the fields that do not depend on method and split."""
    decisions = max(int(outcome.steps.sum()), 1)
    records: list[Record] = []
    for split in dict.fromkeys(trial.split for trial in trials):
        rows = np.array([trial.split == split for trial in trials])
        records.append(
            Record(
                split=split,
                method=method.method,
                setting=method.setting,
                levels=max(1, len(method.levels)),
                episodes=int(rows.sum()),
                successes=int(outcome.success[rows].sum()),
                predictor_calls_per_episode=round(float(outcome.calls[rows].mean()), 1),
                tflops_per_episode=float(f"{2e-12 * outcome.macs[rows].mean():.4g}"),
                seconds_per_decision=float(f"{outcome.seconds / decisions:.3g}"),
                planner={"levels": [to_dict(level) for level in method.levels]},
                **shared,
            )
        )
    return records


def provenance(
    task: str, model: Hierarchy, data: dict[str, Any], seed: int, budget: int
) -> dict[str, Any]:
    """The fields of a record that say where it comes from."""
    device = next(model.parameters()).device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {
        "task": task,
        "seed": seed,
        "env_steps_budget": budget,
        "model_params": sum(p.numel() for p in model.parameters()),
        "dataset": Dataset(**data),
        "device": name,
        "threads": torch.get_num_threads(),
        "command": command(),
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }


def command() -> str:
    """The command line that this runs under."""
    return "echelon " + " ".join(sys.argv[1:])


def commit() -> str:
    """The commit of the checkout this runs from, marked where its code differs; else the version."""
    code = Path(__file__).parent
    try:
        known = _git(code, "rev-parse", "--short=12", "HEAD")
        return f"{known}-dirty" if _git(code, "status", "--porcelain", "--", ".") else known
    except (OSError, subprocess.CalledProcessError):
        return f"version {__version__}"


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def traces(
    task: str,
    trials: Sequence[Trial],
    outcomes: Sequence[tuple[Method, Outcome]],
    chosen: Sequence[int],
) -> list[dict[str, Any]]:
    """What the report animates: the same trial by each method. `chosen`: numbers of trials."""
    return [
        {
            "task": task,
            "split": trials[i].split,
            "trial": i,
            "layout": trials[i].layout.tolist(),
            "goal": np.round(trials[i].goal, 3).tolist(),
            "start": np.round(trials[i].start, 3).tolist(),
            "distance_cells": trials[i].distance,
            "runs": [
                {
                    "method": method.method,
                    "setting": method.setting,
                    "success": bool(outcome.success[i]),
                    "path": outcome.paths[i],
                    "tflops": float(f"{2e-12 * outcome.macs[i]:.4g}"),
                    "subgoals": outcome.subgoals[i],
                }
                for method, outcome in outcomes
            ],
        }
        for i in chosen
    ]
