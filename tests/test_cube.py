"""OGBench's cube: two views of it, grasps that can be repeated, and goals that were grasped for."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from tiny import model_config

from echelon.cli import main
from echelon.data.episodes import Episodes, EpisodeWriter
from echelon.envs import cube
from echelon.envs.cube import (
    BUDGETS,
    CELLS,
    LIFTED,
    NEAR,
    NUMBERS,
    PACE,
    SPLITS,
    TOUCH,
    Cube,
    CubeTask,
    grasps,
    make_trials,
    reached,
)
from echelon.envs.cube_views import (
    CUBE,
    LEFT,
    LEFTMOST,
    LOWEST,
    NEAREST,
    OUTSIDE,
    PALM,
    PINCH,
    PLACE,
    RIGHT,
    SIDE,
    TABLE,
    TURN,
    WIDE,
    draw,
)
from echelon.envs.grasping import CubeCollect, collect
from echelon.evaluation import Method, run_trials, traces
from echelon.models.hierarchy import Hierarchy
from echelon.models.scene import HALF
from echelon.models.things import ThingsEncoder
from echelon.progress import Progress
from echelon.report.inputs import Trace
from echelon.schema import read
from echelon.types import EchelonError

QUIET = Progress(quiet=True)
SMALL = CubeCollect(episodes=12, steps=120)


def state(**parts: tuple[float, ...]) -> np.ndarray:
    """The gripper open over the middle of the table, its fingers along y, and the cube beside it."""
    made = np.zeros(NUMBERS)
    made[PINCH], made[3:5] = parts.get("pinch", (0.425, 0.2, 0.2)), (0.0, 0.1)
    made[PLACE] = parts.get("cube", (0.425, 0.0, SIDE / 2))
    made[TURN] = parts.get("turn", (1.0, 0.0, 0.0, 0.0))
    return made


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Episodes:
    path = tmp_path_factory.mktemp("cube") / "some.h5"
    collect(SMALL, path, QUIET)
    return Episodes.open(path)


@pytest.fixture(scope="module")
def states(logged: Episodes) -> np.ndarray:
    return logged.column("state").astype(np.float64)


def test_gymnasium_has_no_complaints() -> None:
    check_env(Cube(32), skip_render_check=True)


# --- drawing --------------------------------------------------------------------------------------


def pixel(image: np.ndarray, view: str, y: float, other: float) -> list[int]:
    """The colour at a place: y and z from the front, y and x from above."""
    scale = len(image) / WIDE
    down = WIDE / 2 - (other - LOWEST) if view == "front" else WIDE / 2 + other - NEAREST
    return image[int(down * scale), int((y - LEFTMOST) * scale)].tolist()


def test_both_views_show_where_things_are() -> None:
    image = draw(state()[None], 512)[0]
    assert pixel(image, "front", 0.0, 0.02) == pixel(image, "above", 0.0, 0.425) == list(CUBE)
    assert pixel(image, "front", 0.2, 0.2 + PALM) == list(LEFT)
    assert pixel(image, "above", 0.2 + 0.05 + OUTSIDE, 0.425) == list(LEFT)
    assert pixel(image, "above", 0.2 - 0.05 - OUTSIDE, 0.425) == list(RIGHT)
    assert pixel(image, "above", 0.2, 0.425) == pixel(image, "front", 0.0, 0.1) == list(TABLE)
    for view in (image[:256], image[256:]):
        side = SIDE * 512 / WIDE
        assert (view == CUBE).all(-1).sum() == pytest.approx(side**2, rel=0.2)  # but for its edge


def test_a_turned_cube_is_wider_from_the_front() -> None:
    eighth = (np.cos(np.pi / 8), 0.0, 0.0, np.sin(np.pi / 8))
    tipped = (np.cos(np.pi / 8), np.sin(np.pi / 8), 0.0, 0.0)  # about x
    images = draw(
        np.stack([state(), state(turn=eighth), state(turn=tipped, cube=(0.425, 0, 0.1))]), 512
    )

    def wide(view: np.ndarray) -> int:
        return int((view == CUBE).all(-1).any(0).sum())

    straight, turned, over = (wide(image[:256]) for image in images)
    assert turned == pytest.approx(straight * 2**0.5, rel=0.1)
    assert over == pytest.approx(straight * 2**0.5, rel=0.1)
    assert wide(images[1][256:]) == pytest.approx(straight * 2**0.5, rel=0.1)


def test_a_finger_does_not_hide_the_cube() -> None:
    over = draw(state(pinch=(0.425, -0.05 - OUTSIDE, 0.2))[None], 512)[0]
    mixed = pixel(over, "above", 0.0, 0.425)
    assert mixed == pytest.approx(((np.array(CUBE) + LEFT) / 2).tolist(), abs=1)


def test_motion_of_less_than_a_pixel_shows() -> None:
    moved = draw(
        np.stack([state(), state(cube=(0.425, 0.002, 0.02)), state(cube=(0.425, 0, 0.022))]), 64
    )
    assert (moved[0] != moved[1]).any()
    assert (moved[0] != moved[2]).any()


def test_things_are_read_off_both_views(logged: Episodes, states: np.ndarray) -> None:
    encoder = ThingsEncoder(12, 64, things=3, colours=4, views=2)
    rows = np.arange(len(states)).reshape(len(logged.lengths), -1)
    frames = torch.from_numpy(logged.pixels)
    pixels = frames.float()
    encoder.mean.copy_(pixels.mean((0, 1, 2)))
    encoder.scale.fill_(1 / float((pixels - encoder.mean).std()))
    encoder.fit(frames[rows[:, :60].flatten()], frames[rows[:, 60:120].flatten()])
    shown = (encoder.colours / encoder.scale + encoder.mean)[encoder.moving]
    which = int((shown - torch.tensor(CUBE)).abs().sum(1).argmin())
    found = encoder(frames).reshape(-1, 2, 3, 2)[:, :, which].numpy() * WIDE / 2 / HALF
    x = found[:, 1, 0] + NEAREST + WIDE / 4
    y = found[:, 1, 1] + LEFTMOST + WIDE / 2
    z = LOWEST + WIDE / 4 - found[:, 0, 0]
    off = np.abs(np.stack([x, y, z], 1) - states[:, PLACE])
    assert off.mean() < 0.001
    assert off.max() < 0.01


# --- the world ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def env() -> Cube:
    return Cube(32)


def test_an_action_is_a_displacement(env: Cube) -> None:
    _, info = env.reset(seed=3)
    before = info["state"]
    for _ in range(3):
        env.advance(np.array([0.5, 0.0, 0.0, 0.0, -1.0]))
    moved = env.state[PINCH] - before[PINCH]
    assert 0.01 < moved[0] < 3 * 0.025
    assert np.abs(moved[1:]).max() < 0.01
    assert env.state[PLACE] == pytest.approx(before[PLACE], abs=1e-3)


def test_fingers_close(env: Cube) -> None:
    env.reset(seed=3)
    wide = np.linalg.norm(env.state[3:5])
    for _ in range(10):
        env.advance(np.array([0.0, 0.0, 0.0, 0.0, 1.0]))
    assert np.linalg.norm(env.state[3:5]) < 0.3 * wide


def test_a_seed_says_where_it_begins() -> None:
    starts = [Cube(16).reset(seed=seed)[1]["state"] for seed in (5, 5, 6)]
    assert np.array_equal(starts[0], starts[1])
    assert not np.array_equal(starts[0], starts[2])


def test_the_next_state_hangs_on_the_state_alone(logged: Episodes, states: np.ndarray) -> None:
    """Whatever the world did before: it is shared."""
    one, other = Cube(16), Cube(16)
    other.reset(seed=9)
    grasp = grasps(states[:121])[0]
    action = logged.actions[grasp]
    one.reset(options={"start": states[grasp], "goal": states[0]})
    first = one.advance(action)
    other.advance(np.ones(5))
    one.reset(options={"start": states[grasp], "goal": states[0]})
    assert np.array_equal(one.advance(action), first)
    assert np.array_equal(first, states[grasp + 1])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (np.zeros(4), "these 4 numbers"),
        (np.full(NUMBERS, np.nan), "no state"),
        (np.zeros(NUMBERS), ""),
    ],
)
def test_a_start_that_cannot_be_is_refused(env: Cube, wrong: np.ndarray, says: str) -> None:
    with pytest.raises(EchelonError, match=f"start: .*{says}"):
        env.reset(options={"start": wrong})


def test_an_action_that_is_no_number_is_refused(env: Cube) -> None:
    env.reset(seed=0)
    with pytest.raises(EchelonError, match="not finite"):
        env.step(np.full(5, np.nan))


def test_without_ogbench_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ogbench.manipspace.envs.cube_env", None)
    monkeypatch.setattr(cube, "simulation", cube.simulation.__wrapped__)
    with pytest.raises(EchelonError, match=r"pip install 'echelon\[tasks\]'"):
        Cube()


# --- success --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ((0.425, 0.0, 0.02), True),
        ((0.425, NEAR - 1e-6, 0.02), True),
        ((0.425, NEAR + 1e-6, 0.02), False),
        ((0.425 + 0.03, 0.03, 0.02), False),
        ((0.425, 0.0, 0.02 + NEAR + 1e-6), False),
    ],
)
def test_success_at_its_edges(env: Cube, place: tuple[float, ...], expected: bool) -> None:
    elsewhere = state(cube=place, pinch=(0.3, 0.3, 0.3))  # where the gripper is does not count
    assert bool(reached(elsewhere, state())) is expected
    _, info = env.reset(options={"start": elsewhere, "goal": state()})
    assert info["success"] is expected


def test_planners_are_shown_images_alone(env: Cube) -> None:
    """What they see is the observation and the goal, which are drawn, not rendered with a target."""
    image, info = env.reset(seed=1)
    assert set(info) == {"goal", "success", "state", "place"}
    for shown in (image, info["goal"]):
        assert shown.shape == (32, 32, 3)
        assert shown.dtype == np.uint8
    again, other = env.reset(options={"start": info["state"], "goal": state()})
    assert np.array_equal(image, again)  # the goal is nowhere in the observation
    assert not np.array_equal(info["goal"], other["goal"])


# --- experience -----------------------------------------------------------------------------------


def test_collect(logged: Episodes, states: np.ndarray, tmp_path: Path) -> None:
    logged.verify()
    assert logged.lengths.tolist() == [121] * 12
    assert logged.meta == {"task": "cube", "env": "Cube"}
    assert np.array_equal(logged.pixels, draw(states, 64))
    for name in ("two", "again"):
        collect(replace(SMALL, episodes=2), tmp_path / f"{name}.h5", QUIET)
    two, again = (Episodes.open(tmp_path / f"{name}.h5") for name in ("two", "again"))
    assert np.array_equal(two.column("state"), states[:242])
    assert two.sha256 == again.sha256


def test_cubes_are_grasped_and_lifted(states: np.ndarray) -> None:
    own = states.reshape(12, 121, NUMBERS)
    found = [grasps(each) for each in own]
    assert sum(map(len, found)) >= 12
    for each, steps in zip(own, found, strict=True):
        for step in steps:
            assert each[step, TOUCH] >= cube.TOUCHED
            assert step == 0 or each[step - 1, TOUCH] < cube.TOUCHED
            assert each[step : step + 20, PLACE.start + 2].max() > SIDE / 2 + LIFTED
            assert np.linalg.norm((each[step, PLACE] - each[step, PINCH])[:2]) < SIDE


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"episodes": 1}, "at least two episodes"),
        ({"image_size": 30}, "multiple of 8"),
        ({"noise": (0.3, 0.2)}, "noise"),
        ({"noise": (-0.1, 0.2)}, "noise"),
        ({"planned": 1.5}, "planned"),
        ({"correlations": ()}, "at least one"),
    ],
)
def test_wrong_options(options: dict[str, Any], says: str) -> None:
    with pytest.raises(EchelonError, match=says):
        CubeCollect(**options)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "grasped.h5"
    small = ["--episodes", "2", "--steps", "5", "--image-size", "16"]
    assert main(["collect", "cube", str(path), *small]) == 0
    assert capsys.readouterr().out.strip() == str(path)
    assert main(["inspect", str(path), "--verify"]) == 0
    assert json.loads(capsys.readouterr().out)["meta"] == {"env": "Cube", "task": "cube"}
    assert main(["collect", "cube", str(path), *small]) == 2
    assert "is there already" in capsys.readouterr().err


# --- trials ---------------------------------------------------------------------------------------


def test_goals_are_as_far_after_a_grasp_as_starts_before(
    logged: Episodes, states: np.ndarray
) -> None:
    for role in ("test", "tune"):
        trials = make_trials(logged, np.arange(12), 2, 0, role)
        assert [t.split for t in trials] == [s for s in SPLITS for _ in range(2)]
        for trial in trials:
            episode, t = trial.source
            first = logged.offsets[episode] + t
            assert t + trial.distance < logged.lengths[episode]
            assert np.array_equal(trial.states, states[first : first + int(trial.split) + 1])
            own = states[logged.offsets[episode] : logged.offsets[episode] + 121]
            assert t + trial.distance // 2 in grasps(own)
            assert not reached(trial.states[0], trial.states[-1])
            assert BUDGETS[trial.split] >= trial.distance
            assert (trial.start >= 0).all()
            assert (trial.goal < CELLS).all()


def test_no_episode_is_for_both_roles_whatever_the_seed(logged: Episodes) -> None:
    of = {
        role: {
            t.source[0]
            for seed in range(3)
            for t in make_trials(logged, np.arange(12), 2, seed, role)
        }
        for role in ("test", "tune")
    }
    assert of["test"]
    assert of["tune"]
    assert not of["test"] & of["tune"]
    some = np.array(sorted(of["test"]))
    fewer = make_trials(logged, some, 1, 0, "test")
    assert {t.source[0] for t in fewer} <= set(some.tolist())


def test_trials_are_paired(logged: Episodes) -> None:
    one, same, other = (
        [t.source for t in make_trials(logged, np.arange(12), 3, seed, "tune")]
        for seed in (1, 1, 2)
    )
    assert one == same != other


def test_a_goal_is_reached_by_what_was_done(logged: Episodes) -> None:
    """Exactly: a state says all there is to know."""
    for trial in make_trials(logged, np.arange(12), 2, 0, "test"):
        env = CubeTask().make(trial, 16)
        _, info = env.reset(seed=trial.seed, options=dict(trial.options))
        assert not info["success"]
        episode, t = trial.source
        first = logged.offsets[episode] + t
        for action in logged.actions[first : first + trial.distance]:
            _, _, _, _, info = env.step(action)
        assert info["success"]
        assert np.array_equal(info["state"], trial.states[-1])
        assert info["place"] == pytest.approx(trial.goal)


def test_a_control_is_shown_what_was_logged_next(logged: Episodes) -> None:
    trial = make_trials(logged, np.arange(12), 1, 0, "test")[0]
    env = Cube(16)
    env.reset(options=dict(trial.options))
    first = logged.offsets[trial.source[0]] + trial.source[1]
    for step, action in enumerate(logged.actions[first : first + trial.distance]):
        shown = trial.states[min(step + 2 * PACE, trial.distance)]
        assert np.array_equal(env.ahead(2), draw(shown[None], 16)[0])
        env.step(action)


def test_methods_can_be_judged_by_them_and_shown(logged: Episodes) -> None:
    model = Hierarchy(model_config(1), 5).eval()
    trials, random = make_trials(logged, np.arange(12), 1, 0, "test"), Method("control:random", "")
    out = run_trials(model, random, trials, 3, CubeTask(), 0, QUIET)
    assert out.steps.tolist() == [3, 3]
    for trial, shown in zip(trials, traces("cube", trials, [(random, out)], range(2)), strict=True):
        trace = read(Trace, shown, "trace")
        assert trace.runs[0].path[0] == pytest.approx(trial.start, abs=1e-3)
        assert trace.goal == pytest.approx(trial.goal, abs=1e-3)


@pytest.mark.parametrize(("count", "says"), [(0, "nothing"), (10**4, "hold out more")])
def test_trials_that_there_are_none_of(logged: Episodes, count: int, says: str) -> None:
    with pytest.raises(EchelonError, match=says):
        make_trials(logged, np.arange(12), count, 0, "test")


def test_trials_of_another_world(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "x.h5") as writer:
        writer.add({"pixels": np.zeros((3, 8, 8, 3), np.uint8), "action": np.zeros((2, 2))})
    with pytest.raises(EchelonError, match="holds no cube"):
        make_trials(Episodes.open(tmp_path / "x.h5"), np.arange(1), 1, 0, "test")
