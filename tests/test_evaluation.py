"""Trials and what is written of them, in a real maze of two junctions a side."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from echelon import evaluation, experiment
from echelon.agent import Agent
from echelon.atlas import Atlas
from echelon.collect import CollectConfig, collect
from echelon.config import LevelConfig, ModelConfig, OptimizerConfig, PlannerConfig
from echelon.data.episodes import Episodes
from echelon.diagnostics import diagnose
from echelon.envs import layouts
from echelon.envs.mazes import (
    BINS,
    HELD_OUT_LAYOUTS,
    MazeTask,
    farthest,
    make_trials,
    spread_trials,
)
from echelon.envs.point_maze import SUCCESS_RADIUS
from echelon.envs.task import Env, KnowsTheWay, Trial
from echelon.evaluation import Method, Outcome, run_trials
from echelon.files import write_json
from echelon.models.hierarchy import Hierarchy
from echelon.progress import Progress
from echelon.report.inputs import Diagnostics
from echelon.schema import read
from echelon.truth import MazeTruth
from echelon.types import EchelonError

LAYOUT = layouts.generate(2, seed=0)
LARGE = layouts.generate(6, seed=0)
SEARCH = OptimizerConfig(candidates=8, iterations=1, elites=2)
FINE, COARSE = PlannerConfig(5, 2, SEARCH), PlannerConfig(2, 4, SEARCH)
FLAT = Method("flat", "tiny", (FINE,))
DEEP = Method("hierarchical", "tiny", (FINE, COARSE))
PATIENT = Method("hierarchical", "patient", (FINE, replace(COARSE, watchdog=0.5, reached=0.6)))
SAME_COST = Method("control:flat-same-cost", "tiny", (replace(FINE, cost="upper"),))
RANDOM = Method("control:random", "uniform")
QUIET = Progress(quiet=True)
BUDGET, TASK = 7, MazeTask()
DATA = {"name": "none", "transitions": 10, "sha256": "0" * 64}


@pytest.fixture(scope="module")
def model() -> Hierarchy:
    torch.manual_seed(0)
    fine = LevelConfig(latent_dim=4, width=16, depth=1, lift_width=8)
    coarse = dataclasses.replace(fine, stride=4, action_dim=2)
    model = Hierarchy(ModelConfig((fine, coarse), bank_size=64), 2)
    model.levels[1].bank.normal_()
    model.levels[1].bank_below.normal_()
    return model.eval()


@pytest.fixture(scope="module")
def trials() -> list[Trial]:
    """One that starts next to its goal cell, and two that take longer than the budget."""
    near = Trial("1-4", LAYOUT, np.array([1.5, 1.5]), np.array([1.5, 1.6]), 1)
    far = make_trials(LAYOUT, 1, 0, "test", ("1-4", "5-8"))
    return [*far, near]


def evaluate(model: Hierarchy, method: Method, trials: Sequence[Trial], seed: int = 0) -> Outcome:
    return run_trials(model, method, trials, BUDGET, TASK, seed, QUIET)


def pairs(trials: Sequence[Trial]) -> set[tuple[int, ...]]:
    return {(*map(int, t.start), *map(int, t.goal)) for t in trials}


class Lost:
    """A task whose environments do not know the way."""

    name = "lost"

    def make(self, trial: Trial, image_size: int) -> Env:
        class Unguided(gym.Env[Any, Any]):
            observation_space = gym.spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)

            def reset(
                self, *, seed: int | None = None, options: dict[str, Any] | None = None
            ) -> tuple[Any, dict[str, Any]]:
                image = self.observation_space.sample()
                return image, {"goal": image, "success": False, "state": np.zeros(2)}

        return Unguided()


def test_a_control_is_shown_the_way_when_that_changes(
    model: Hierarchy, trials: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    aimed: list[tuple[list[int], NDArray[np.uint8]]] = []
    aim = Agent.aim

    def noting(agent: Agent, goal: NDArray[np.uint8], index: NDArray[np.int64]) -> None:
        aimed.append((index.tolist(), goal))
        aim(agent, goal, index)

    monkeypatch.setattr(Agent, "aim", noting)
    far = trials[:2]
    guided = replace(FLAT, method="control:oracle-subgoals", ahead=1)
    evaluate(model, guided, far)
    assert aimed[0][0] == [0, 1]
    for trial, image in zip(far, aimed[0][1], strict=True):
        env = TASK.make(trial, 64)
        env.reset(options=dict(trial.options))
        assert isinstance(env.unwrapped, KnowsTheWay)
        assert np.array_equal(env.unwrapped.ahead(1), image)
    shown = dict(zip(*aimed[0], strict=True))
    for rows, images in aimed[1:]:
        for row, image in zip(rows, images, strict=True):
            assert not np.array_equal(shown[row], image)
            shown[row] = image
    assert len(aimed) <= BUDGET
    with pytest.raises(EchelonError, match="ahead: environments of lost do not know the way"):
        run_trials(model, guided, far, BUDGET, Lost(), 0, QUIET)


# ---------------------------------------------------------------------------- trials


def test_what_is_tuned_on_is_never_tested_on() -> None:
    # Far more trials than pairs of cells in the far bin, so that nearly every pair is drawn.
    test, tune = (
        pairs([t for seed in (0, 1) for t in make_trials(LARGE, 2000, seed, role, BINS)])
        for role in ("test", "tune")
    )
    assert min(len(test), len(tune)) > 1000
    assert not test & tune


@pytest.mark.parametrize("role", ["test", "tune"])
def test_trials_are_as_far_apart_as_their_split_says(role: Any) -> None:
    trials = make_trials(LARGE, 20, 3, role, ("5-8", "9+", "1-4"))
    assert [t.split for t in trials] == ["5-8"] * 20 + ["9+"] * 20 + ["1-4"] * 20
    for trial in trials:
        low, high = {"1-4": (1, 4), "5-8": (5, 8), "9+": (9, 10**6)}[trial.split]
        start, goal = (tuple(np.floor(p).astype(int)) for p in (trial.start, trial.goal))
        assert LARGE[start] == LARGE[goal] == 0
        assert trial.distance == layouts.distances(LARGE, start)[goal]
        assert low <= trial.distance <= high
        for place in (trial.start, trial.goal):
            assert np.abs(place - np.floor(place) - 0.5).max() <= 0.25


def test_trials_are_a_function_of_their_seed() -> None:
    def places(seed: int) -> list[list[float]]:
        return [[*t.start, *t.goal] for t in make_trials(LARGE, 5, seed, "test", BINS)]

    assert places(1) == places(1)
    assert places(1) != places(2)


def test_a_split_of_no_bin_takes_any_distance() -> None:
    trials = make_trials(LARGE, 200, 0, "test", (HELD_OUT_LAYOUTS,))
    found = {t.distance for t in trials}
    assert min(found) <= 4
    assert max(found) >= 9


def test_trials_are_spread_evenly_over_layouts() -> None:
    some = [layouts.scatter(8, seed) for seed in range(3)]
    trials = spread_trials(some, 7, 0, "test", ("1-4", "5-8"))
    counts = [
        [sum(t.layout is layout and t.split == split for t in trials) for layout in some]
        for split in ("1-4", "5-8")
    ]
    assert counts == [[3, 2, 2]] * 2
    alone = spread_trials([LARGE], 5, 0, "test", BINS)
    for one, other in zip(alone, make_trials(LARGE, 5, 0, "test", BINS), strict=True):
        assert (one.split, *one.start, *one.goal) == (other.split, *other.start, *other.goal)
    with pytest.raises(EchelonError, match="too few for 3 layouts"):
        spread_trials(some, 2, 0, "test", ("1-4",))


def test_what_is_true_of_several_layouts(tmp_path: Path) -> None:
    """Path lengths within a layout are those of its grid, and nothing is known between two."""
    config = CollectConfig(episodes=4, steps=6, kind="open", maze_size=5, mazes=2, image_size=16)
    collect(config, tmp_path / "episodes.h5", QUIET)
    episodes = Episodes.open(tmp_path / "episodes.h5")
    truth = MazeTruth.of(episodes)
    assert truth is not None
    rows, goals = np.arange(28).reshape(4, 7), np.array([6, 13])
    away = truth.away(rows, goals)
    cells = np.floor(episodes.column("state")[:, :2]).astype(int)
    for episode, goal in ((0, 0), (2, 0), (1, 1), (3, 1)):
        field = layouts.distances(config.layouts[goal], tuple(cells[goals[goal]]))
        assert away[episode, :, goal].tolist() == [field[tuple(cells[r])] for r in rows[episode]]
    assert np.isnan(away[[0, 2], :, 1]).all()
    assert np.isnan(away[[1, 3], :, 0]).all()
    assert MazeTruth.of(replace(episodes, meta={"task": "another"})) is None


def test_the_farthest_goals_that_all_layouts_have() -> None:
    assert farthest([LARGE], "tune") == "9+"
    assert farthest([LAYOUT, LARGE], "tune") == "5-8"
    pair = np.ones((3, 4), np.int8)
    pair[1, 1:3] = 0  # two ways, each of which is of one role
    for role in ("test", "tune"):
        if farthest([pair], role):
            assert make_trials(pair, 1, 0, role, ("1-4",))
        else:
            with pytest.raises(EchelonError, match="1-4 cells apart"):
                make_trials(pair, 1, 0, role, ("1-4",))


def test_a_maze_too_small_for_a_split() -> None:
    with pytest.raises(EchelonError, match="9 or more cells apart; use another maze"):
        make_trials(LAYOUT, 1, 0, "test", ("9+",))


@pytest.mark.parametrize("count", [0, -1])
def test_no_trials_are_refused(count: int) -> None:
    with pytest.raises(EchelonError, match="trials"):
        make_trials(LAYOUT, count, 0, "test", ("1-4",))


# ---------------------------------------------------------------------------- running


def test_the_ledger_is_the_sum_over_steps_that_were_needed(
    model: Hierarchy, trials: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    spent: list[tuple[int, int, int]] = []
    real = Agent.act

    def noting(agent: Agent, observation: Any, proprio: None) -> Any:
        actions = real(agent, observation, proprio)
        assert len(set(agent.spent.calls.tolist())) == 1
        calls, macs = int(agent.spent.calls[0]), int(agent.spent.macs[0])
        spent.append((len(observation), calls, macs))
        return actions

    monkeypatch.setattr(Agent, "act", noting)
    out = evaluate(model, DEEP, trials)
    assert out.steps.tolist() == [BUDGET, BUDGET, 1]
    assert out.success.tolist() == [False, False, True]
    # An ended trial costs nothing more, though the others go on.
    assert [rows for rows, _, _ in spent] == [3] + [2] * (BUDGET - 1)
    assert [calls > 0 for _, calls, _ in spent] == [t % 2 == 0 for t in range(BUDGET)]
    for i, steps in enumerate(out.steps):
        assert out.calls[i] == sum(calls for _, calls, _ in spent[:steps])
        assert out.macs[i] == sum(macs for _, _, macs in spent[:steps])
        assert len(out.paths[i]) == steps + 1
    # Levels 0 and 1 plan at steps 0 and 4, level 0 alone at 2 and 6.
    assert out.calls[0] == 4 * (8 + 1) * 5 + 2 * (8 + 1) * 2
    assert out.seconds > 0


def test_paths_lead_from_the_start_and_success_is_nearness(
    model: Hierarchy, trials: list[Trial]
) -> None:
    out = evaluate(model, RANDOM, trials)
    for trial, path, success in zip(trials, out.paths, out.success, strict=True):
        assert path[0] == pytest.approx(trial.start, abs=1e-3)
        near = np.linalg.norm(np.array(path) - trial.goal, axis=1) <= SUCCESS_RADIUS
        assert success == near[1:].any()
        assert not near[1:-1].any()


def test_random_actions_use_no_predictor(model: Hierarchy, trials: list[Trial]) -> None:
    out = evaluate(model, RANDOM, trials)
    assert out.calls.tolist() == out.macs.tolist() == [0, 0, 0]
    assert out.success[2]
    assert len({tuple(place) for place in out.paths[0]}) == BUDGET + 1


class Watched(gym.Wrapper[Any, Any, Any, Any]):
    """A world whose actions are noted, and in which one may be told nothing but lies."""

    def __init__(self, env: gym.Env[Any, Any], lies: bool, done: list[np.ndarray]) -> None:
        super().__init__(env)
        self.lies, self.done = lies, done

    def told(self, info: dict[str, Any]) -> dict[str, Any]:
        return info | ({"success": False, "state": np.full(4, 7.0)} if self.lies else {})

    def reset(self, **options: Any) -> Any:
        image, info = super().reset(**options)
        return image, self.told(info)

    def step(self, action: Any) -> Any:
        self.done.append(np.array(action))
        image, reward, ended, cut, info = super().step(action)
        judged = (1e6, True, True) if self.lies else (reward, ended, cut)
        return image, *judged, self.told(info)


@pytest.mark.parametrize(
    "method", [FLAT, DEEP, PATIENT, SAME_COST], ids=lambda m: f"{m.method}-{m.setting}"
)
def test_nothing_is_done_for_what_only_judges_may_know(
    model: Hierarchy, trials: list[Trial], method: Method
) -> None:
    """Neither success, state, reward nor an end."""

    def done(lies: bool) -> list[np.ndarray]:
        actions: list[np.ndarray] = []

        class Task(MazeTask):
            def make(self, trial: Trial, image_size: int) -> Any:
                return Watched(super().make(trial, image_size), lies, actions)

        run_trials(model, method, trials[:2], BUDGET, Task(), 0, QUIET)  # neither ends in time
        return actions

    honest, deceived = done(lies=False), done(lies=True)
    assert len(honest) == 2 * BUDGET
    assert np.array_equal(honest, deceived)


@pytest.mark.parametrize("method", [FLAT, DEEP, SAME_COST, RANDOM], ids=lambda m: m.method)
def test_the_same_seed_gives_the_same_outcome(
    method: Method, model: Hierarchy, trials: list[Trial]
) -> None:
    one, two, other = (evaluate(model, method, trials, seed) for seed in (0, 0, 1))
    assert one.paths == two.paths
    assert one.calls.tolist() == two.calls.tolist()
    assert one.macs.tolist() == two.macs.tolist()
    assert one.success.tolist() == two.success.tolist()
    assert one.paths != other.paths


def test_the_cost_of_the_upper_latent_is_charged(model: Hierarchy, trials: list[Trial]) -> None:
    own, upper = evaluate(model, FLAT, trials[:1]), evaluate(model, SAME_COST, trials[:1])
    assert own.calls.tolist() == upper.calls.tolist()
    assert upper.macs[0] > own.macs[0]


def test_subgoals_are_noted_where_a_coarse_plan_is_made(
    model: Hierarchy, trials: list[Trial]
) -> None:
    atlas = Atlas.of(model, LAYOUT)
    out = run_trials(model, DEEP, trials, BUDGET, TASK, 0, QUIET, [atlas] * 3)
    assert [[s["step"] for s in trial] for trial in out.subgoals] == [[0, 4], [0, 4], [0]]
    known = {tuple(place) for place in atlas.places.tolist()}
    for trial in out.subgoals:
        for subgoal in trial:
            assert len(subgoal["places"]) == COARSE.horizon
            assert {tuple(p) for p in [*subgoal["places"], subgoal["active"]]} <= known
    assert out.paths == evaluate(model, DEEP, trials).paths


# ---------------------------------------------------------------------------- records


def test_records(model: Hierarchy, trials: list[Trial]) -> None:
    out = Outcome(
        np.array([True, False, True]),
        np.array([3, BUDGET, 2]),
        np.array([10.0, 20.0, 30.0]),
        np.array([1e12, 3e12, 5e12]),
        seconds=6.0,
    )
    shared = evaluation.provenance("maze", model, DATA, 4, BUDGET)
    # The splits of the three are 1-4, 5-8 and 1-4.
    near, far = evaluation.to_records(DEEP, trials, out, shared)
    assert (near.split, far.split) == ("1-4", "5-8")
    assert (near.episodes, near.successes, far.episodes, far.successes) == (2, 2, 1, 0)
    assert (near.predictor_calls_per_episode, far.predictor_calls_per_episode) == (20.0, 20.0)
    assert (near.tflops_per_episode, far.tflops_per_episode) == (6.0, 6.0)
    assert near.seconds_per_decision == 0.5
    assert (near.method, near.setting, near.levels, near.seed) == ("hierarchical", "tiny", 2, 4)
    assert near.model_params == sum(p.numel() for p in model.parameters())
    assert near.dataset.transitions == 10
    assert near.env_steps_budget == BUDGET
    assert near.planner is not None
    levels = near.planner["levels"]
    assert [read(PlannerConfig, level, "planner") for level in levels] == [FINE, COARSE]
    assert evaluation.to_records(RANDOM, trials, out, shared)[0].levels == 1


def test_traces_hold_the_same_trial_by_each_method(model: Hierarchy, trials: list[Trial]) -> None:
    outcomes = [(method, evaluate(model, method, trials)) for method in (DEEP, FLAT)]
    (trace,) = evaluation.traces("maze", trials, outcomes, [1])
    assert trace["trial"] == 1
    assert trace["split"] == trials[1].split
    assert [run["method"] for run in trace["runs"]] == ["hierarchical", "flat"]
    for run, (_, outcome) in zip(trace["runs"], outcomes, strict=True):
        assert run["path"] == outcome.paths[1]
    json.dumps(trace)


# ---------------------------------------------------------------------------- experiments


def test_an_outcome_is_kept_and_not_run_again(
    model: Hierarchy, trials: list[Trial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (model, DEEP, trials, BUDGET, TASK, QUIET)
    first = experiment.outcome_of(tmp_path, *arguments)
    assert len(first.subgoals[0]) == 2

    def forbidden(*_: Any) -> None:
        raise AssertionError("run again")

    monkeypatch.setattr(experiment, "run_trials", forbidden)
    kept = experiment.outcome_of(tmp_path, *arguments)
    for name in (f.name for f in dataclasses.fields(Outcome)):
        one, two = getattr(first, name), getattr(kept, name)
        if isinstance(one, np.ndarray):
            assert one.dtype == two.dtype
            one, two = one.tolist(), two.tolist()
        assert one == two
    with pytest.raises(AssertionError, match="run again"):
        experiment.outcome_of(tmp_path, model, FLAT, trials, BUDGET, TASK, QUIET)


def test_a_layout_is_charted_once_for_all_trials_in_it(
    model: Hierarchy, trials: list[Trial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    charted: list[int] = []
    chart = Atlas.of

    def noting(model: Hierarchy, layout: NDArray[np.int8]) -> Atlas:
        charted.append(id(layout))
        return chart(model, layout)

    monkeypatch.setattr(Atlas, "of", noting)
    experiment.outcome_of(tmp_path, model, DEEP, trials, BUDGET, TASK, QUIET)
    assert charted == list(dict.fromkeys(id(trial.layout) for trial in trials))
    assert len(charted) < len(trials)


def test_a_comparison_of_methods(model: Hierarchy, trials: list[Trial], tmp_path: Path) -> None:
    methods = [RANDOM, FLAT, DEEP]
    found = experiment.compare(tmp_path, model, methods, trials, BUDGET, TASK, 2, DATA, QUIET)
    records, shown = found.records, found.traces
    assert [(r.method, r.split) for r in records] == [
        (method, split)
        for method in ("control:random", "flat", "hierarchical")
        for split in ("1-4", "5-8")
    ]
    assert {r.seed for r in records} == {2}
    # Both methods fail at 0 and 1 and succeed at 2, so there is one of each pattern in each split.
    assert [trace["trial"] for trace in shown] == [0, 1, 2]
    assert [run["method"] for run in shown[0]["runs"]] == ["hierarchical", "flat"]
    pairs = {(p["split"], p["method"]): p for p in found.pairs}
    assert set(pairs) == {(s, m) for s in ("1-4", "5-8") for m in ("control:random", "flat")}
    for (split, method), pair in pairs.items():
        wins = {r.method: r.successes for r in records if r.split == split}
        assert pair["both"] + pair["only_hierarchical"] == wins["hierarchical"]
        assert pair["both"] + pair["only_other"] == wins[method]


def test_pick_shows_every_pattern() -> None:
    def outcome(success: list[int]) -> Outcome:
        empty = np.zeros(len(success))
        return Outcome(np.array(success, bool), empty.astype(int), empty, empty)

    here = np.array([1.5, 1.5])
    trials = [Trial("a", LAYOUT, here, here, d) for d in (1, 9, 5, 2, 3, 4)]
    trials += [Trial("b", LAYOUT, here, here, 7)]
    one, two = outcome([1, 1, 1, 0, 0, 1, 1]), outcome([1, 1, 1, 1, 0, 0, 1])
    assert experiment.pick(trials, [one, two], each=2) == [1, 2, 3, 4, 5, 6]
    assert experiment.pick(trials, [one, two], each=1) == [1, 3, 4, 5, 6]


# ---------------------------------------------------------------------------- atlas, diagnostics


def test_an_atlas_finds_each_place_by_its_own_latent(model: Hierarchy) -> None:
    atlas = Atlas.of(model, LAYOUT, spacing=0.4)
    assert len(atlas.latents) == 2
    for level in range(2):
        assert np.array_equal(atlas.locate(level, atlas.latents[level]), atlas.places)
    cells = np.floor(atlas.places).astype(int)
    assert (LAYOUT[tuple(cells.T)] == 0).all()
    assert (np.abs(atlas.places - cells - 0.5) <= 0.4 + 1e-9).all()
    lengths = atlas.path_lengths()
    assert lengths.min() == 0
    assert lengths.max() == layouts.distances(LAYOUT, (1, 1)).max()


def test_diagnostics_are_what_the_report_reads(model: Hierarchy, tmp_path: Path) -> None:
    config = CollectConfig(episodes=3, steps=20, maze_size=2)
    collect(config, tmp_path / "episodes.h5", QUIET)
    episodes = Episodes.open(tmp_path / "episodes.h5")
    found = diagnose(model, episodes, np.array([0, 2]), config.layout)
    write_json(tmp_path / "diagnostics.json", found)
    stored = json.loads((tmp_path / "diagnostics.json").read_text())
    shown = read(Diagnostics, stored, "diagnostics")
    assert shown.open_loop is not None
    fine, coarse, still, mean = shown.open_loop.curves
    assert [curve.level for curve in (fine, coarse, still, mean)] == [0, 1, None, None]
    assert fine.steps[0] == 1
    assert fine.steps[-1] == 19
    assert coarse.steps == (4, 8, 12, 16)
    state = episodes.column("state").reshape(3, 21, 4)[[0, 2], :, :2]
    moved = np.linalg.norm(state[:, -1] - state[:, 1], axis=-1).mean()
    assert still.error[-1] == pytest.approx(moved, rel=1e-3)
    assert [latent.dim for latent in shown.latents] == [4, 4]
    for latent in shown.latents:
        assert latent.sign_agreement is not None
        assert latent.distance_map is not None
        assert min(latent.distance_map.distance) == 0


def test_diagnostics_look_at_one_layout_of_several(model: Hierarchy, tmp_path: Path) -> None:
    config = CollectConfig(episodes=6, steps=12, kind="open", maze_size=5, mazes=2)
    collect(config, tmp_path / "episodes.h5", QUIET)
    episodes = Episodes.open(tmp_path / "episodes.h5")
    state = episodes.column("state").reshape(6, 13, 4)[..., :2]
    for layout, ids in zip(config.layouts, ([2, 4], [1, 5]), strict=True):
        found = diagnose(model, episodes, np.array([1, 2, 4, 5]), layout)
        still = next(c for c in found["open_loop"]["curves"] if c["name"] == "no change")
        moved = np.linalg.norm(state[ids, -1] - state[ids, 1], axis=-1).mean()
        assert still["error"][-1] == pytest.approx(moved, rel=1e-3)
    with pytest.raises(EchelonError, match="no held-out episode is in layout 0"):
        diagnose(model, episodes, np.array([1, 3]), config.layout)


def test_diagnostics_of_one_episode_and_a_layout_without_far_goals(
    model: Hierarchy, tmp_path: Path
) -> None:
    config = CollectConfig(episodes=2, steps=10, maze_size=2, maze_loops=1.0)
    collect(config, tmp_path / "episodes.h5", QUIET)
    episodes = Episodes.open(tmp_path / "episodes.h5")
    found = diagnose(model, episodes, np.array([1]), config.layout)
    stored = json.loads(json.dumps(found, allow_nan=False))
    shown = read(Diagnostics, stored, "diagnostics")
    assert [latent.sign_agreement for latent in shown.latents] == [None, None]


def test_an_outcome_of_something_else_is_refused(
    model: Hierarchy, trials: list[Trial], tmp_path: Path
) -> None:
    experiment.outcome_of(tmp_path, model, RANDOM, trials, 3, TASK, QUIET)
    before = (tmp_path / "control-random-uniform.json").read_bytes()
    torch.manual_seed(1)
    other = Hierarchy(model.config, 2)
    moved = [dataclasses.replace(t, goal=t.goal + 0.01) for t in trials]
    for arguments in (
        (model, RANDOM, trials, 2, TASK),
        (model, RANDOM, trials, 3, MazeTask(action_repeat=5)),
        (model, RANDOM, trials[:2], 3, TASK),
        (model, RANDOM, moved, 3, TASK),
        (model, dataclasses.replace(RANDOM, levels=(FINE,)), trials, 3, TASK),
        (other, RANDOM, trials, 3, TASK),
    ):
        with pytest.raises(EchelonError, match="choose another --out"):
            experiment.outcome_of(tmp_path, *arguments, QUIET)
    assert (tmp_path / "control-random-uniform.json").read_bytes() == before


def test_a_budget_of_nothing(model: Hierarchy, trials: list[Trial]) -> None:
    with pytest.raises(EchelonError, match="budget"):
        run_trials(model, RANDOM, trials, 0, TASK, 0, QUIET)


def test_a_commit_is_marked_where_code_differs_and_not_where_results_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, results = tmp_path / "src" / "code.py", tmp_path / "results.json"
    code.parent.mkdir()
    who = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
    for file in (code, results):
        file.write_text("1")
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "one"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(evaluation, "__file__", str(code))
    clean = evaluation.commit()
    assert re.fullmatch("[0-9a-f]{12}", clean)
    results.write_text("2")
    assert evaluation.commit() == clean
    code.write_text("2")
    assert evaluation.commit() == f"{clean}-dirty"
