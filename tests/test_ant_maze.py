"""OGBench's ant maze: what is seen of it, a gait that walks, and places to walk to."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from tiny import model_config

from echelon.agent import Agent
from echelon.cli import main
from echelon.config import LevelConfig, ModelConfig
from echelon.data.episodes import Episodes
from echelon.envs import ant_maze, layouts
from echelon.envs.ant_maze import (
    BUDGETS,
    NEAR,
    NUMBERS,
    PROPRIO,
    SPLITS,
    AntMaze,
    AntMazeTask,
    layout,
    make_trials,
    standing,
)
from echelon.envs.ant_views import (
    BODY,
    FLOOR,
    FRONT,
    HIND,
    PLACE,
    TURN,
    UNIT,
    WALL,
    cells,
    draw,
    legs,
    metres,
)
from echelon.envs.drawing import rotation
from echelon.envs.gait import Walker, heading, upright
from echelon.envs.walking import AntMazeCollect, collect
from echelon.evaluation import Method, run_trials, traces
from echelon.models.hierarchy import Hierarchy
from echelon.models.recall import Recall
from echelon.models.scene import HALF
from echelon.models.things import ThingsEncoder
from echelon.presets import planner_for
from echelon.progress import Progress
from echelon.report.inputs import Trace
from echelon.schema import read
from echelon.types import EchelonError

QUIET = Progress(quiet=True)
SMALL = AntMazeCollect(episodes=8, steps=150)
HERE = np.array([1.5, 1.5])
"""a place in the upper left corner of the maze"""


def turned(angle: float) -> np.ndarray:
    """An ant that stands there, turned from x towards y."""
    state = standing(HERE)
    state[TURN] = np.cos(angle / 2), 0.0, 0.0, np.sin(angle / 2)
    return state


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Episodes:
    path = tmp_path_factory.mktemp("ant") / "some.h5"
    collect(SMALL, path, QUIET)
    return Episodes.open(path)


@pytest.fixture(scope="module")
def states(logged: Episodes) -> np.ndarray:
    return logged.column("state").astype(np.float64)


@pytest.fixture(scope="module")
def env() -> AntMaze:
    return AntMaze(32)


def test_gymnasium_has_no_complaints() -> None:
    check_env(AntMaze(32), skip_render_check=True)


# --- drawing --------------------------------------------------------------------------------------


def pixel(image: np.ndarray, x: float, y: float) -> list[int]:
    """The colour at so many metres from the middle of an ant there."""
    place = cells(metres(HERE) + np.array([x, y]))
    row, column = (place * len(image) / 8).astype(int)
    return image[row, column].tolist()


def test_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ant_maze.simulation.__wrapped__()
    assert not list(tmp_path.iterdir())


def test_an_image_shows_the_maze_and_the_ant() -> None:
    image = draw(standing(HERE)[None], layout(), 512)[0]
    assert pixel(image, 0, 0) == list(BODY)
    for x, y, colour in ((1, 1, FRONT), (1, -1, FRONT), (-1, 1, HIND), (-1, -1, HIND)):
        assert pixel(image, 0.5 * x, 0.5 * y) == list(colour)
    assert pixel(image, 1.0, 0) == list(FLOOR)
    assert pixel(image, -3.0, 0) == list(WALL)
    for (row, column), wall in np.ndenumerate(layout()):
        expected = WALL if wall else FLOOR
        assert image[64 * row + 8, 64 * column + 8].tolist() == list(expected)


def test_a_quarter_turn_brings_the_front_to_the_side() -> None:
    image = draw(turned(np.pi / 2)[None], layout(), 512)[0]
    assert pixel(image, 0.5, 0.5) == pixel(image, -0.5, 0.5) == list(FRONT)
    assert pixel(image, 0.5, -0.5) == pixel(image, -0.5, -0.5) == list(HIND)


def test_legs_are_where_the_simulator_has_them(states: np.ndarray) -> None:
    import mujoco

    world: Any = ant_maze.simulation()
    physics: Any = mujoco
    names = ("left_ankle_geom", "right_ankle_geom", "third_ankle_geom", "fourth_ankle_geom")
    for state in states[::211]:
        world.data.qpos[:] = state[:15]
        physics.mj_kinematics(world.model, world.data)
        _, knees, feet = (part[0] for part in legs(state[None]))
        shins = np.stack([world.data.geom(name).xpos for name in names])
        assert (knees + feet) / 2 + state[:3] == pytest.approx(shins, abs=1e-6)
        assert rotation(state[None, TURN])[0] == pytest.approx(
            world.data.body("torso").xmat.reshape(3, 3), abs=1e-6
        )


def test_motion_of_less_than_a_pixel_shows() -> None:
    moved = draw(np.stack([standing(HERE), standing(HERE + 0.01)]), layout(), 64)
    assert (moved[0] != moved[1]).any()


def test_the_torso_is_read_off_the_image(logged: Episodes, states: np.ndarray) -> None:
    encoder = ThingsEncoder(4, 64, things=2, colours=4)
    rows = np.arange(len(states)).reshape(len(logged.lengths), -1)
    frames = torch.from_numpy(logged.pixels)
    pixels = frames.float()
    encoder.mean.copy_(pixels.mean((0, 1, 2)))
    encoder.scale.fill_(1 / float((pixels - encoder.mean).std()))
    encoder.fit(frames[rows[:, :75].flatten()], frames[rows[:, 75:150].flatten()])
    shown = (encoder.colours / encoder.scale + encoder.mean)[encoder.moving]
    which = int((shown[:, 0] - shown[:, 2]).argmax())  # the red one
    found = encoder(frames).reshape(-1, 2, 2)[:, which].numpy() * 4 / HALF + 4
    off = np.abs(found - cells(states[:, PLACE])) * UNIT
    assert off.mean() < 0.06
    assert off.max() < 0.4


# --- the world ------------------------------------------------------------------------------------


def test_cells_are_those_of_the_simulator() -> None:
    world = ant_maze.simulation()
    for cell in layouts.free_cells(layout()).tolist():
        xy = np.array(world.ij_to_xy(tuple(cell)))
        assert cells(xy) == pytest.approx(np.array(cell) + 0.5)
        assert metres(cells(xy)) == pytest.approx(xy)


def test_it_stays_where_no_motor_turns(env: AntMaze) -> None:
    env.reset(options={"start": HERE, "goal": HERE})
    for _ in range(20):
        env.advance(np.zeros(8))
    assert env.state[PLACE] == pytest.approx(metres(HERE), abs=0.1)
    assert upright(env.state) > 0.99
    assert np.abs(env.state[15:]).max() < 0.5  # it sinks, slowly


def test_walls_stop_it() -> None:
    """It walks at the wall above it for ten seconds."""
    env = AntMaze(16)
    env.reset(options={"start": HERE, "goal": HERE})
    walker = Walker()
    for _ in range(100):
        env.advance(walker.torques(env.state, -np.pi / 2))
    row, _ = cells(env.state[PLACE])
    assert 1.1 < row < 1.4  # a foot is a metre ahead


def test_a_seed_says_where_it_begins() -> None:
    starts = [AntMaze(16).reset(seed=seed)[1]["state"] for seed in (5, 5, 6)]
    assert np.array_equal(starts[0], starts[1])
    assert not np.array_equal(starts[0], starts[2])


def test_the_next_state_hangs_on_the_state_alone(logged: Episodes, states: np.ndarray) -> None:
    """Whatever the world did before: it is shared."""
    one, other = AntMaze(16), AntMaze(16)
    other.reset(seed=9)
    one.reset(options={"start": states[0]})
    for action, after in zip(logged.actions[:100], states[1:101], strict=True):
        other.advance(np.ones(8))
        assert np.array_equal(one.advance(action), after)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (np.zeros(4), "start: these 4 numbers"),
        (np.full(NUMBERS, np.nan), "start: .*no state"),
        (np.zeros(NUMBERS), "start: .*no state"),
        (standing(np.array([0.5, 0.5])), "start: .*in a wall"),
        (np.array([0.5, 0.5]), "start: .*in a wall"),
        (np.array([-3.0, 9.0]), "start: .*outside"),
    ],
)
def test_a_start_that_cannot_be_is_refused(env: AntMaze, wrong: np.ndarray, says: str) -> None:
    with pytest.raises(EchelonError, match=says):
        env.reset(options={"start": wrong})


@pytest.mark.parametrize("wrong", [np.array([0.5, 0.5]), np.zeros(NUMBERS)])
def test_a_goal_that_cannot_be_is_refused(env: AntMaze, wrong: np.ndarray) -> None:
    with pytest.raises(EchelonError, match="goal: "):
        env.reset(options={"goal": wrong})


def test_an_action_that_is_no_number_is_refused(env: AntMaze) -> None:
    env.reset(seed=0)
    with pytest.raises(EchelonError, match="not finite"):
        env.step(np.full(8, np.nan))


def test_without_ogbench_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ogbench.locomaze.maze", None)
    monkeypatch.setattr(ant_maze, "simulation", ant_maze.simulation.__wrapped__)
    with pytest.raises(EchelonError, match=r"pip install 'echelon\[tasks\]'"):
        AntMaze()


# --- success --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("off", "expected"),
    [
        ((0.0, 0.0), True),
        ((0.0, NEAR - 1e-6), True),
        ((0.0, NEAR + 1e-6), False),
        ((0.7 * NEAR, 0.7 * NEAR), True),
        ((0.72 * NEAR, 0.72 * NEAR), False),
    ],
)
def test_success_at_its_edges(env: AntMaze, off: tuple[float, float], expected: bool) -> None:
    state = turned(2.0)  # which way it faces does not count
    state[PLACE] += off
    _, info = env.reset(options={"start": state, "goal": HERE})
    assert info["success"] is expected


def test_planners_are_shown_images_and_told_what_a_body_senses(env: AntMaze) -> None:
    """The goal is nowhere in the observation, and the place is not in what is sensed."""
    image, info = env.reset(seed=1)
    assert set(info) == {"goal", "success", "state", "place", "proprio"}
    for shown in (image, info["goal"]):
        assert shown.shape == (32, 32, 3)
        assert shown.dtype == np.uint8
    again, other = env.reset(options={"start": info["state"], "goal": HERE})
    assert np.array_equal(image, again)
    assert not np.array_equal(info["goal"], other["goal"])
    moved = info["state"].copy()
    moved[PLACE] += 0.3
    _, there = env.reset(options={"start": moved, "goal": HERE})
    assert np.array_equal(there["proprio"], info["proprio"])
    assert np.array_equal(info["proprio"], info["state"][PROPRIO])


def test_a_model_that_senses_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """By trials, of those environments that are still on their way."""
    config = replace(model_config(1), proprio="proprio", image_size=32)
    model = Hierarchy(config, 8, 27).eval()
    told: list[np.ndarray] = []
    act = Agent.act

    def spied(agent: Agent, observation: np.ndarray, proprio: np.ndarray | None) -> np.ndarray:
        assert proprio is not None
        told.append(proprio)
        return act(agent, observation, proprio)

    monkeypatch.setattr(Agent, "act", spied)
    away, *_ = make_trials(1, 0, "tune")
    near = replace(away, goal=away.start + 0.24)
    method = Method.of("any", planner_for(config))
    out = run_trials(model, method, [near, away], 6, AntMazeTask(), 0, QUIET)
    assert len(told) == 6
    assert told[0] == pytest.approx(np.tile(standing(away.start)[PROPRIO], (2, 1)))
    assert out.steps.tolist() == [(np.array([len(t) for t in told]) > 1).sum(), 6]


# --- walking --------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", [-2.5, -0.8, 0.0, 0.8, 2.5])
def test_the_gait_walks_wherever_it_is_to(direction: float) -> None:
    """A metre and more in two and a half seconds, from whichever heading."""
    env = AntMaze(16)
    free = np.array([2.0, 2.0])  # amid four cells that no walls part
    far: list[float] = []
    for angle in (0.0, 1.0, 2.5):
        start = standing(free)
        start[TURN] = np.cos(angle / 2), 0.0, 0.0, np.sin(angle / 2)
        env.reset(options={"start": start, "goal": free})
        walker = Walker()
        towards = np.array([np.cos(direction), np.sin(direction)])
        far.append(
            max(
                float(
                    (env.advance(walker.torques(env.state, direction))[PLACE] - start[PLACE])
                    @ towards
                )
                for _ in range(25)
            )
        )
        assert upright(env.state) > 0.5
    assert min(far) > 1.0


def test_it_gets_from_place_to_place_with_noise(states: np.ndarray) -> None:
    own = states.reshape(8, 151, NUMBERS)
    assert (upright(own) > 0).all()
    a_second = np.linalg.norm(own[:, 10:, PLACE] - own[:, :-10, PLACE], axis=-1).mean(1)
    assert np.sort(a_second)[-2:].min() > 1.0  # metres, of those that run errands
    assert a_second.min() > 0.3
    visited = {tuple(cell) for cell in np.floor(cells(states[:, PLACE])).astype(int).tolist()}
    assert len(visited) > 13  # half the maze
    assert all(layout()[cell] == 0 for cell in visited)


def test_a_heading_is_an_angle() -> None:
    for angle in (-3.0, 0.0, 1.5):
        assert heading(turned(angle)) == pytest.approx(angle)


def test_collect(logged: Episodes, states: np.ndarray, tmp_path: Path) -> None:
    logged.verify()
    assert logged.lengths.tolist() == [151] * 8
    assert logged.action_dim == 8
    assert logged.meta == {"task": "ant-maze", "env": "AntMaze"}
    assert np.array_equal(logged.pixels, draw(states, layout(), 64))
    assert np.array_equal(logged.column("proprio"), states[:, PROPRIO])
    for name in ("two", "again"):
        collect(replace(SMALL, episodes=2), tmp_path / f"{name}.h5", QUIET)
    two, again = (Episodes.open(tmp_path / f"{name}.h5") for name in ("two", "again"))
    assert np.array_equal(two.column("state"), states[:302])
    assert two.sha256 == again.sha256


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"episodes": 1}, "at least two episodes"),
        ({"image_size": 30}, "multiple of 8"),
        ({"noise": (0.3, 0.2)}, "noise"),
        ({"noise": (-0.1, 0.2)}, "noise"),
        ({"exploring": 1.5}, "exploring"),
        ({"every": 0}, "every"),
        ({"correlations": ()}, "at least one"),
    ],
)
def test_wrong_options(options: dict[str, Any], says: str) -> None:
    with pytest.raises(EchelonError, match=says):
        AntMazeCollect(**options)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "walked.h5"
    small = ["--episodes", "2", "--steps", "5", "--image-size", "16"]
    assert main(["collect", "ant-maze", str(path), *small]) == 0
    assert capsys.readouterr().out.strip() == str(path)
    assert main(["inspect", str(path), "--verify"]) == 0
    assert json.loads(capsys.readouterr().out)["meta"] == {"env": "AntMaze", "task": "ant-maze"}
    assert main(["collect", "ant-maze", str(path), *small]) == 2
    assert "is there already" in capsys.readouterr().err


# --- trials ---------------------------------------------------------------------------------------


def pairs(role: Any, seed: int, count: int = 60) -> set[tuple[int, ...]]:
    """Start and goal cells of some trials."""
    return {
        tuple(np.floor([*t.start, *t.goal]).astype(int).tolist())
        for t in make_trials(count, seed, role)
    }


def test_goals_are_so_many_cells_away() -> None:
    for role in ("test", "tune"):
        trials = make_trials(20, 0, role)
        assert [t.split for t in trials] == [s for s in SPLITS for _ in range(20)]
        for trial in trials:
            start, goal = (
                tuple(np.floor(x).astype(int).tolist()) for x in (trial.start, trial.goal)
            )
            away = layouts.distances(layout(), start)[goal]
            assert away == trial.distance == int(trial.split)
            _, info = AntMaze(16).reset(options=dict(trial.options))
            assert not info["success"]
            assert BUDGETS[trial.split] >= 10 * trial.distance


def test_no_pair_of_cells_is_for_both_roles_whatever_the_seed() -> None:
    of = {role: set[Any]().union(*(pairs(role, s) for s in range(3))) for role in ("test", "tune")}
    assert not of["test"] & of["tune"]
    assert min(map(len, of.values())) > 10


def test_trials_are_paired() -> None:
    one, same, other = (
        [t.start.tolist() for t in make_trials(3, seed, "tune")] for seed in (1, 1, 2)
    )
    assert one == same != other


def test_a_control_is_shown_the_true_way() -> None:
    trial = next(t for t in make_trials(5, 0, "test") if t.distance == 6)
    env = AntMaze(32)
    _, info = env.reset(options=dict(trial.options))
    assert np.array_equal(env.ahead(6), info["goal"])
    field = layouts.distances(layout(), tuple(np.floor(trial.goal).astype(int).tolist()))
    next_cells = np.argwhere(field == 4) + 0.5
    shown = [draw(standing(place)[None], layout(), 32)[0] for place in next_cells]
    assert any(np.array_equal(env.ahead(2), image) for image in shown)


def test_methods_can_be_judged_by_them_and_shown() -> None:
    model = Hierarchy(model_config(1), 8).eval()
    trials, random = make_trials(1, 0, "test"), Method("control:random", "")
    out = run_trials(model, random, trials, 3, AntMazeTask(), 0, QUIET)
    assert out.steps.tolist() == [3, 3]
    shown = traces("ant-maze", trials, [(random, out)], range(2))
    for trial, each in zip(trials, shown, strict=True):
        trace = read(Trace, each, "trace")
        assert trace.runs[0].path[0] == pytest.approx(trial.start, abs=1e-3)
        assert trace.goal == pytest.approx(trial.goal, abs=1e-3)


def test_no_trials_measure_nothing() -> None:
    with pytest.raises(EchelonError, match="nothing"):
        make_trials(0, 0, "test")


# --- models that are told what a body senses ------------------------------------------------------


def test_levels_that_share_a_latent_know_what_is_sensed() -> None:
    fine = LevelConfig(latent_dim=4)
    shared = replace(fine, latent="shared", stride=2, macro="concat")
    own = LevelConfig(latent_dim=6, stride=2, macro="concat")
    model = Hierarchy(ModelConfig((fine, shared, own), proprio="proprio", bank_size=8), 8, 27)
    assert [level.parts for level in model.levels] == [("z", "dz", "p")] * 2 + [("z", "dz")]


def test_what_is_recalled_began_in_such_a_posture() -> None:
    """Two walks from one place to another, each in a posture of its own."""
    recall = Recall(20, 4, 8, proprio_dim=27)
    posture = torch.randn(2, 27).repeat_interleave(10, 0)
    z = torch.arange(10.0).repeat(2)[:, None].expand(-1, 4)
    actions = torch.arange(20.0)[:, None].expand(-1, 8)
    left = torch.arange(9, -1, -1).repeat(2)
    recall.fit({"z": z, "dz": torch.zeros(20, 4), "p": posture}, actions, left)
    for first in (0, 10):
        now = {"z": z[:1], "dz": torch.zeros(1, 4), "p": posture[first][None]}
        (found,) = recall(now, [{"z": z[5:6]}], 1, 5)[0, 0]
        assert torch.equal(found, actions[first : first + 5])
