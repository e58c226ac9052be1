"""Warnings: a goal that was never seen, a horizon that was never measured, predictions that are not
numbers. Nothing is refused but what could only give actions that are no numbers.
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imsave
from tiny import frame, model_config, train_config, write_episodes
from torch import Tensor

import echelon
from echelon import checkpoint, experiment
from echelon.agent import Agent
from echelon.cli import main
from echelon.config import OptimizerConfig, PlannerConfig
from echelon.data.episodes import Episodes
from echelon.envs.mazes import MazeTask
from echelon.limits import FAR, known_latents, warn_of_goals
from echelon.models.hierarchy import Hierarchy
from echelon.progress import Progress
from echelon.signals import good_for
from echelon.trainer import Trainer
from echelon.types import EchelonError, EchelonWarning

SEARCH = OptimizerConfig(candidates=6, iterations=2, elites=2)
FINE, COARSE = PlannerConfig(4, 2, SEARCH), PlannerConfig(1, 4, SEARCH)
NOISE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that was trained on dots for long enough to be of some use."""
    folder = tmp_path_factory.mktemp("trained")
    episodes = Episodes.open(write_episodes(folder / "dots.h5", episodes=30))
    config = train_config(steps=150)
    trainer = Trainer(episodes, model_config(), config, folder / "run")
    trainer.run(Progress(quiet=True))
    return trainer.checkpoint


def with_limits(levels: int, *known: int | None) -> Hierarchy:
    model = Hierarchy(model_config(levels), 1)
    model.good_for = known
    return model


# --- goals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [1, 2])
def test_a_goal_from_the_data_gives_no_warning_and_noise_gives_one(
    trained: Path, levels: int
) -> None:
    agent = echelon.load(trained, (FINE, COARSE)[:levels])
    for x in np.linspace(0, 1, 30):
        agent.reset(frame(x))  # a warning would be an error here
    with pytest.warns(
        EchelonWarning, match=r"the goal lies [\d.]+ from the nearest latent"
    ) as told:
        agent.reset(NOISE)
    away, usual = (float(word) for word in str(told[0].message).split() if word[0].isdigit())
    assert away > FAR * usual > 0
    assert told[0].filename == __file__
    assert np.isfinite(agent.act(frame(0.5))).all()  # nothing is refused


def test_of_many_goals_those_that_are_far_are_counted(trained: Path) -> None:
    agent = echelon.load(trained, [FINE])
    goals = np.stack([frame(0.3), NOISE, frame(0.6), 255 - NOISE])
    with pytest.warns(EchelonWarning, match=r"2 of 4 goals lie up to [\d.]+ from"):
        agent.reset(goals)


def test_known_distances() -> None:
    """Known latents on a grid with a spacing of 1, in a space of 4 dimensions: the root of the mean
    square is half of that. What was never fitted knows nothing, and warns of nothing.
    """
    model = Hierarchy(model_config(2), 1)
    warn_of_goals(model, torch.full((1, 4), 1e6))
    level = model.levels[0]
    level.before[:, 0] = torch.arange(256.0)
    known, usual = known_latents(model)
    assert known.shape == (256 + 64, 4)  # those of level 0, and those that level 1 hands down
    assert usual == 0.5
    near, far = torch.tensor([[255.0, 2, 0, 0]]), torch.tensor([[255.0, 2.5, 0, 0]])
    warn_of_goals(model, near)  # twice the usual
    with pytest.warns(EchelonWarning, match=r"lies 1\.25 from .* where 0\.5 is usual"):
        warn_of_goals(model, far)
    model.levels[1].bank_below[0] = far[0]
    warn_of_goals(model, far)


# --- horizons ------------------------------------------------------------------------------------


def test_a_horizon_beyond_what_was_measured_warns_with_both_lengths() -> None:
    long = [replace(FINE, horizon=9), replace(COARSE, horizon=5)]
    Agent.of(with_limits(2, 9, 5), long)
    Agent.of(with_limits(2), long)  # of old checkpoints nobody knows
    Agent.of(with_limits(2, None, None), long)
    with pytest.warns(EchelonWarning) as told:
        Agent.of(with_limits(2, 8, 0), long)
    assert [str(w.message).split("; ")[0] for w in told] == [
        "planner: level 0 looks 9 steps ahead, but was measured to predict better than no change and "
        "the mean to 8 only",
        "planner: level 1 looks 5 steps ahead, but was measured to predict better than no change and "
        "the mean to 0 only",
    ]


def test_what_counts_as_good() -> None:
    found = {"level0/mean": 1.0}
    for step, error, still in ((1, 0.1, 0.2), (2, 0.3, 0.4), (4, 0.9, 0.8), (8, 1.1, 1.2)):
        found |= {f"level0/open_loop/{step}": error, f"level0/no_change/{step}": still}
    assert good_for(0, found) == 2  # at 4 no change is better, at 8 the mean
    assert good_for(1, found) is None
    assert good_for(0, found | {"level0/mean": 0.05}) == 0


def test_the_measured_length_travels_with_the_checkpoint(trained: Path, tmp_path: Path) -> None:
    log = [json.loads(line) for line in (trained.parent / "log.jsonl").read_text().splitlines()]
    model = checkpoint.load_model(trained)
    assert model.good_for == (good_for(0, log[-1]), good_for(1, log[-1]))
    assert list(model.good_for) == checkpoint.describe(trained)["about"]["good_for"]
    again = tmp_path / "again.safetensors"
    checkpoint.save_model(again, model, {"mine": 1})
    assert checkpoint.load_model(again).good_for == model.good_for
    model.good_for = ()
    checkpoint.save_model(again, model, {"mine": 1})
    assert checkpoint.load_model(again).good_for == ()
    assert checkpoint.describe(again)["about"] == {"mine": 1}


# --- the command line ----------------------------------------------------------------------------


def test_the_command_line_says_a_warning_in_one_line(trained: Path, tmp_path: Path) -> None:
    for name, image in (("now", frame(0.2)), ("noise", NOISE)):
        imsave(tmp_path / f"{name}.png", image)
    settings = tmp_path / "planner.json"
    settings.write_text('[{"horizon": 99, "replan": 2}]')
    command = [
        sys.executable,
        "-m",
        "echelon.cli",
        "plan",
        str(trained),
        "--planner",
        str(settings),
    ]
    command += ["--observation", str(tmp_path / "now.png"), "--goal", str(tmp_path / "noise.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["levels"]
    horizon, goal = done.stderr.splitlines()
    assert horizon.startswith("echelon: warning: planner: level 0 looks 99 steps ahead, but was")
    assert goal.startswith("echelon: warning: goal: the goal lies ")


def test_other_warnings_of_a_command_stay_as_they_are(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "describe", lambda _: warnings.warn("old", stacklevel=1))
    with pytest.warns(UserWarning, match="old"):
        main(["inspect", str(trained)])


def test_evaluation_warns_of_the_settings_that_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "maze.safetensors"
    layout = np.array([[1] * 3, [1, 0, 1], [1] * 3], np.int8)
    about = {"meta": MazeTask().meta([layout]), "data": {}, "train": {"seed": 0}}
    checkpoint.save_model(path, with_limits(1, 2), about)
    monkeypatch.setattr(experiment, "spread_trials", lambda *_: [])
    monkeypatch.setattr(experiment, "compare", lambda *_: experiment.Results())
    monkeypatch.setattr(experiment, "write_results", lambda *_: None)
    quiet = Progress(quiet=True)
    experiment.evaluate_checkpoint(path, tmp_path, {}, 1, 1, 0, quiet)
    with pytest.warns(EchelonWarning, match="level 0 looks 4 steps ahead, .* to 2 only"):
        experiment.evaluate_checkpoint(path, tmp_path, {"mine": [FINE]}, 1, 1, 0, quiet)


# --- what is not a number ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cem", "icem", "mppi", "gradient", "refine"])
@pytest.mark.parametrize("level", [0, 1])
def test_predictions_that_are_nan_are_one_line(kind: Any, level: int) -> None:
    model = Hierarchy(model_config(2), 1)
    search = replace(SEARCH, kind=kind)
    agent = Agent.of(model, [replace(c, optimizer=search) for c in (FINE, COARSE)])
    agent.reset(frame(0.9))
    assert np.isfinite(agent.act(frame(0.1))).all()
    with torch.no_grad():
        for weight in model.levels[level].predictor.parameters():
            weight.fill_(torch.nan)
    agent.reset(frame(0.9))
    with pytest.raises(EchelonError, match="the model's predictions are not finite") as told:
        agent.act(frame(0.1))
    assert "\n" not in str(told.value)


def test_nan_after_some_steps_or_in_some_plans_leaves_finite_actions() -> None:
    """Plans through NaN are as if they were not there, and where no other is left, that is told."""
    model = Hierarchy(model_config(1), 1)
    level = model.levels[0]
    usual = level.predict

    def broken(state: Any, action: Tensor) -> Any:
        after = usual(state, action)
        return {k: v.masked_fill(action > limit, torch.nan) for k, v in after.items()}

    level.predict = broken
    agent = Agent.of(model, [FINE])
    agent.reset(frame(0.9))
    limit = 0.5
    for t in range(6):
        action = agent.act(frame(0.1 * t))
        assert np.isfinite(action).all()
        assert (action <= limit).all()
    limit = -2.0
    with pytest.raises(EchelonError, match="not finite"):
        agent.act(frame(0.1))


def test_an_encoder_that_gives_nan_is_told() -> None:
    model = Hierarchy(model_config(2), 1)
    agent = Agent.of(model, [FINE, COARSE])
    agent.reset(frame(0.9))
    model.levels[0].lift.encoder.scale.fill_(torch.nan)
    with pytest.raises(EchelonError, match="in 1 of 1 environments"):
        agent.act(frame(0.1))


def test_actions_that_are_not_finite_never_leave_the_agent() -> None:
    """Not even where a cost of one's own overlooks it."""

    class Blind:
        distance = staticmethod(lambda state, goal: state["z"].new_zeros(()))

        def __call__(self, states: Any, goal: Any) -> Tensor:
            return states["z"].new_zeros(states["z"].shape[:2])

    model = Hierarchy(model_config(1), 1)
    model.levels[0].prior_mean.fill_(torch.nan)
    agent = Agent.of(model, [FINE], costs=[Blind()])
    agent.reset(frame(0.9))
    with pytest.raises(EchelonError, match="the plan's actions are not finite"):
        agent.act(frame(0.1))
