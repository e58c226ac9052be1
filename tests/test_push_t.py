"""Push-T: a block that goes where it is pushed, and goals that were pushed to."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np
from tiny import model_config

from echelon.cli import main
from echelon.data.episodes import Episodes, EpisodeWriter
from echelon.envs.push_t import (
    BUDGETS,
    NEAR,
    PACE,
    SPLITS,
    TURNED,
    PushT,
    PushTTask,
    make_trials,
    random_state,
    reached,
)
from echelon.envs.pushing import PushTCollect, collect
from echelon.envs.t_block import (
    AGENT,
    BLOCK,
    HIGH,
    LOW,
    MIDDLE,
    PRESSED,
    RADIUS,
    STONE,
    corners,
    draw,
    fits,
    gap,
)
from echelon.evaluation import Method, run_trials, traces
from echelon.models.hierarchy import Hierarchy
from echelon.progress import Progress
from echelon.report.inputs import Trace
from echelon.schema import read
from echelon.types import EchelonError

QUIET = Progress(quiet=True)
MID = np.array([100.0, 256.0, 256.0, 256.0 - MIDDLE, 0.0, 0.0, 0.0])
"""the block upright, its centre of gravity in the middle of the table, the agent to its left"""


def state(**parts: float) -> np.ndarray:
    """`MID` with other numbers."""
    names = ("x", "y", "block_x", "block_y", "angle", "vx", "vy")
    return np.array([parts.get(n, value) for n, value in zip(names, MID, strict=True)])


def push(env: PushT, start: np.ndarray, action: tuple[float, float], steps: int) -> np.ndarray:
    """Where things end when one action is held."""
    env.reset(seed=0, options={"start": start, "goal": start})
    for _ in range(steps):
        env.advance(np.array(action))
    return env.state


@pytest.fixture(scope="module")
def env() -> PushT:
    return PushT()


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Episodes:
    path = tmp_path_factory.mktemp("push-t") / "some.h5"
    collect(PushTCollect(episodes=16, steps=100, image_size=16), path, QUIET)
    return Episodes.open(path)


def test_gymnasium_has_no_complaints() -> None:
    check_env(PushT(32), skip_render_check=True)


def test_geometry_is_gym_pushts(env: PushT) -> None:
    push(env, MID, (0.0, 0.0), 1)
    block = env._simulation.block
    theirs = {tuple(block.local_to_world(v)) for part in block.shapes for v in part.get_vertices()}
    ours = {tuple(corner) for corner in corners(MID[2:5])}
    joint, hidden = {(241, 241), (271, 241)}, {(241, 211), (271, 211)}  # of the stem, in the bar
    assert theirs - joint == ours - hidden
    assert tuple(block.center_of_gravity) == (0, MIDDLE)
    (circle,) = env._simulation.agent.shapes
    assert circle.radius == RADIUS


# --- pushing --------------------------------------------------------------------------------------


def test_a_push_through_the_centre_of_gravity_moves_the_block_and_does_not_turn_it(
    env: PushT,
) -> None:
    after = push(env, state(x=200.0), (0.3, 0.0), 10)
    assert after[2] > MID[2] + 50
    assert after[3] == pytest.approx(MID[3], abs=0.5)
    assert (after[4] + np.pi) % (2 * np.pi) == pytest.approx(np.pi, abs=0.01)
    assert gap(after)[0] == pytest.approx(0, abs=PRESSED)
    assert after[0] + RADIUS == pytest.approx(after[2] - 15, abs=PRESSED)


def test_a_push_beside_it_turns_the_block(env: PushT) -> None:
    assert 0.2 < push(env, state(x=215.0, y=56.0 + 270.0), (0.3, 0.0), 12)[4] % (2 * np.pi) > np.pi
    assert 0.2 < push(env, state(x=170.0, y=226.0), (0.3, 0.0), 12)[4] < np.pi


def test_the_block_rests_where_nothing_touches_it(env: PushT) -> None:
    after = push(env, state(x=40.0), (0.0, 1.0), 15)
    assert after[2:5] == pytest.approx(MID[2:5])
    assert after[1] == pytest.approx(HIGH - RADIUS, abs=1.0)


def test_an_action_is_a_displacement_in_hundreds_of_px(env: PushT) -> None:
    """From rest, a tenth of a second is enough for three tenths of the way."""
    env.reset(options={"start": state(x=60.0, y=60.0), "goal": MID})
    env.advance(np.array([0.4, 0.0]))
    assert env.state[0] == pytest.approx(60 + 0.3 * 40, abs=0.5)
    for _ in range(40):
        env.advance((np.array([160.0, 60.0]) - env.state[:2]) / 100)
    assert env.state[:2] == pytest.approx([160, 60], abs=0.5)


@pytest.mark.parametrize("angle", [0.0, 0.7, 2.0, 4.0])
def test_a_block_at_the_wall_stops_the_agent(env: PushT, angle: float) -> None:
    """gym-pusht's own agent would press it out of the table."""
    start = state(x=120.0, y=226.0, angle=angle)
    start[2:4] = 256 + MIDDLE * np.array([np.sin(angle), -np.cos(angle)])
    after = push(env, start, (1.0, 0.0), 60)
    assert fits(after)
    assert gap(after)[0] >= -2 * PRESSED


@settings(max_examples=25)
@given(
    actions=st_np.arrays(
        np.float64, st.tuples(st.integers(1, 12), st.just(2)), elements=st.floats(-1e9, 1e9)
    ),
    hold=st.integers(1, 6),
    seed=st.integers(0, 2**31),
)
def test_whatever_is_done_all_stays_on_the_table(
    env: PushT, actions: np.ndarray, hold: int, seed: int
) -> None:
    env.reset(seed=seed)
    for action in actions.repeat(hold, 0):
        now = env.advance(action)
        assert np.isfinite(now).all()
        assert fits(now)
    env.reset(options={"start": now, "goal": now})  # and every state can be begun with
    assert np.array_equal(env.state, now)


@settings(max_examples=50)
@given(seed=st.integers(0, 2**31))
def test_a_turned_world_has_the_same_gap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    here = random_state(rng)
    turn = rng.uniform(0, 2 * np.pi)
    cos, sin = np.cos(turn), np.sin(turn)
    around = np.array([[cos, -sin], [sin, cos]])
    there = np.concatenate([around @ here[:2], around @ here[2:4], [here[4] + turn, 0, 0]])
    assert gap(there)[0] == pytest.approx(gap(here)[0])
    away, x, y = gap(here)
    touching = here - away * np.array([x, y, 0, 0, 0, 0, 0])
    assert gap(touching)[0] == pytest.approx(0, abs=1e-6)


# --- success --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "agent_counts", "expected"),
    [
        ({}, True, True),
        ({"block_x": MID[2] + NEAR - 0.01}, True, True),
        ({"block_x": MID[2] + NEAR}, True, False),
        ({"block_x": MID[2] + 12.0, "x": MID[0] + 15.9}, True, True),
        ({"block_x": MID[2] + 12.0, "x": MID[0] + 16.1}, True, False),
        ({"block_x": MID[2] + 12.0, "x": MID[0] + 200.0}, False, True),
        ({"angle": TURNED - 1e-6}, True, True),
        ({"angle": TURNED + 1e-6}, True, False),
        ({"angle": 2 * np.pi - TURNED + 1e-6}, True, True),
        ({"angle": 2 * np.pi - TURNED - 1e-6}, False, False),
        ({"vx": 300.0}, True, True),
    ],
)
def test_success_at_its_edges(parts: dict[str, float], agent_counts: bool, expected: bool) -> None:
    assert bool(reached(state(**parts), MID, agent_counts)) is expected
    env = PushT(16, agent_counts)
    _, info = env.reset(options={"start": MID, "goal": state(**parts)})
    assert info["success"] is expected


# --- drawing --------------------------------------------------------------------------------------


def test_a_frame_shows_where_things_are() -> None:
    image = draw(MID[None], 512)[0]
    assert image[256, 100].tolist() == list(AGENT)
    for x, y in ((256, 256), (200, 220), (310, 236), (256, 325)):
        assert image[y, x].tolist() == list(BLOCK), (x, y)
    assert image[300, 200].tolist() == image[400, 400].tolist() == [236, 236, 230]
    assert image[2, 256].tolist() == image[256, 509].tolist() == list(STONE)
    area = (image == BLOCK).all(-1).sum()
    assert area == pytest.approx(120 * 30 + 30 * 90, rel=0.02)


def test_a_block_that_is_turned_is_drawn_turned() -> None:
    """A quarter, about the middle of the table; with the agent out of the way."""
    quarter = state(angle=np.pi / 2, block_x=256 + MIDDLE, block_y=256.0)
    upright, turned = draw(np.stack([MID, quarter]), 64)
    for image in (upright, turned):
        image[:, :16] = 0
    clockwise = np.rot90(upright, -1)
    assert np.abs(turned[16:48, 16:48].astype(int) - clockwise[16:48, 16:48]).max() <= 1


def test_motion_of_less_than_a_pixel_shows() -> None:
    still, moved, turned = draw(np.stack([MID, state(block_x=257.0), state(angle=0.02)]), 64)
    assert (still != moved).any()
    assert (still != turned).any()


@pytest.mark.parametrize("seed", range(3))
def test_a_state_looks_as_it_did(env: PushT, seed: int) -> None:
    """Frames along the way, the frame of a reset, the goal image and a drawing in a batch."""
    env.reset(seed=seed)
    rng = np.random.default_rng(seed)
    for _ in range(20):
        image, _, _, _, info = env.step(rng.uniform(-1, 1, 2))
    other = random_state(rng)
    again, about = env.reset(options={"start": info["state"], "goal": other})
    assert np.array_equal(image, again)
    assert np.array_equal(about["goal"], draw(np.stack([MID, other]), 64)[1])
    row, column = about["place"]
    assert (32 * column, 32 * row) == pytest.approx(tuple(info["state"][2:4]))


@pytest.mark.parametrize(
    "start",
    [
        state(x=256.0, y=256.0),  # in the block
        state(x=LOW),  # in a wall
        state(block_y=-10.0),
        state(angle=np.nan),
        MID[:5],
    ],
)
def test_a_start_that_cannot_be_is_refused(env: PushT, start: np.ndarray) -> None:
    with pytest.raises(EchelonError, match=r"start: .* is no state"):
        env.reset(options={"start": start, "goal": MID})


def test_an_action_that_is_no_number_is_refused(env: PushT) -> None:
    env.reset(seed=0)
    with pytest.raises(EchelonError, match="not finite"):
        env.step(np.array([np.nan, 0]))


def test_without_gym_pusht_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gym_pusht.envs.pusht", None)
    with pytest.raises(EchelonError, match=r"pip install 'echelon\[tasks\]'"):
        PushT()


# --- experience -----------------------------------------------------------------------------------


def test_collect(logged: Episodes, tmp_path: Path) -> None:
    logged.verify()
    assert logged.lengths.tolist() == [101] * 16
    assert logged.meta["task"] == PushTTask().name
    states = logged.column("state").astype(np.float64)
    assert all(fits(s) for s in states)
    assert np.array_equal(logged.pixels, draw(states, 16))
    again = PushTCollect(episodes=2, steps=100, image_size=16)
    collect(again, tmp_path / "two.h5", QUIET)
    two = Episodes.open(tmp_path / "two.h5")
    assert np.array_equal(two.column("state"), states[:202])
    collect(again, tmp_path / "again.h5", QUIET)
    assert Episodes.open(tmp_path / "again.h5").sha256 == two.sha256


def test_pushing_touches_moves_and_turns_the_block(logged: Episodes) -> None:
    states = logged.column("state").astype(np.float64).reshape(16, 101, 7)
    assert np.mean([gap(s)[0] < 1 for s in states.reshape(-1, 7)]) > 0.45
    moved = np.linalg.norm(states[..., 2:4] - states[:, :1, 2:4], axis=-1)
    assert (moved.max(1) > 20).all()
    turned = np.abs((states[:, 50:, 4] - states[:, :-50, 4] + np.pi) % (2 * np.pi) - np.pi)
    assert turned.mean() > 0.3
    starts = states[:, 0]
    assert starts[:, :4].std(0).min() > 50
    assert np.abs(np.exp(1j * starts[:, 4]).mean()) < 0.6


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"episodes": 1}, "at least two episodes"),
        ({"image_size": 30}, "multiple of 8"),
        ({"speeds": (0.5, 0.4)}, "speeds"),
        ({"speeds": (0.0, 0.4)}, "speeds"),
        ({"pushes": (0, 4)}, "pushes"),
        ({"noise": -1.0}, "noise"),
        ({"slant": 2.0}, "slant"),
        ({"correlations": ()}, "at least one"),
    ],
)
def test_wrong_options(options: dict[str, Any], says: str) -> None:
    with pytest.raises(EchelonError, match=says):
        PushTCollect(**options)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pushed.h5"
    small = ["--episodes", "2", "--steps", "5", "--image-size", "16"]
    assert main(["collect", "push-t", str(path), *small]) == 0
    assert capsys.readouterr().out.strip() == str(path)
    assert main(["inspect", str(path), "--verify"]) == 0
    assert json.loads(capsys.readouterr().out)["meta"] == {"env": "PushT", "task": "push-t"}
    for wrong, says in (
        ((str(path), *small), "is there already"),
        ((str(tmp_path / "x.h5"), "--image-size", "20"), "multiple of 8"),
        ((str(tmp_path / "x.h5"), "--speeds", "0.5", "0.1"), "speeds"),
    ):
        assert main(["collect", "push-t", *wrong]) == 2
        told = capsys.readouterr().err.strip()
        assert says in told
        assert "\n" not in told
    assert [p.name for p in tmp_path.iterdir()] == ["pushed.h5"]


# --- trials ---------------------------------------------------------------------------------------


def test_goals_are_as_many_steps_ahead_and_want_the_block_moved(logged: Episodes) -> None:
    states = logged.column("state").astype(np.float64)
    ids = np.arange(16)
    for role in ("test", "tune"):
        trials = make_trials(logged, ids, 8, 0, role)
        assert [t.split for t in trials] == [s for s in SPLITS for _ in range(8)]
        for trial in trials:
            episode, t = trial.source
            first = logged.offsets[episode] + t
            assert t + trial.distance < logged.lengths[episode]
            ends = trial.states[[0, -1]]
            assert np.array_equal(trial.states, states[first : first + int(trial.split) + 1])
            assert not reached(*ends)
            assert not reached(*ends, agent_counts=False)
            assert BUDGETS[trial.split] >= trial.distance
            assert trial.start * 32 == pytest.approx(trial.states[0, 3:1:-1])


def test_no_moment_is_for_both_roles_whatever_the_seed(logged: Episodes) -> None:
    of = {
        role: {
            t.source[0]
            for seed in range(3)
            for t in make_trials(logged, np.arange(16), 8, seed, role)
        }
        for role in ("test", "tune")
    }
    assert of["test"]
    assert of["tune"]
    assert not of["test"] & of["tune"]
    held_out = np.array(sorted(of["test"]))[:2]
    fewer = make_trials(logged, held_out, 2, 0, "test")
    assert {t.source[0] for t in fewer} == set(held_out.tolist())


def test_trials_are_paired(logged: Episodes) -> None:
    one, same, other = (
        [t.source for t in make_trials(logged, np.arange(16), 4, seed, "test")]
        for seed in (1, 1, 2)
    )
    assert one == same != other


def test_a_goal_is_reached_by_what_was_done(logged: Episodes) -> None:
    """Exactly: a state says all there is to know."""
    for trial in make_trials(logged, np.arange(16), 3, 0, "test"):
        env = PushTTask().make(trial, 16)
        _, info = env.reset(seed=trial.seed, options=dict(trial.options))
        assert not info["success"]
        episode, t = trial.source
        first = logged.offsets[episode] + t
        for action in logged.actions[first : first + trial.distance]:
            _, _, _, _, info = env.step(action)
        assert info["success"]
        assert np.array_equal(info["state"], trial.states[-1])


def test_a_control_is_shown_what_was_logged_next(logged: Episodes) -> None:
    (trial,) = make_trials(logged, np.arange(16), 1, 0, "test")[:1]
    env = PushT(16)
    env.reset(options=dict(trial.options))
    first = logged.offsets[trial.source[0]] + trial.source[1]
    for step, action in enumerate(logged.actions[first : first + trial.distance]):
        shown = trial.states[min(step + 2 * PACE, trial.distance)]
        assert np.array_equal(env.ahead(2), draw(shown[None], 16)[0])
        env.step(action)
    assert np.array_equal(env.ahead(1), draw(trial.states[-1:], 16)[0])


def test_methods_can_be_judged_by_them_and_shown(logged: Episodes) -> None:
    model = Hierarchy(model_config(1), 2).eval()
    trials, random = make_trials(logged, np.arange(16), 1, 0, "test"), Method("control:random", "")
    out = run_trials(model, random, trials, 3, PushTTask(), 0, QUIET)
    assert out.steps.tolist() == [3, 3, 3]
    for trial, shown in zip(
        trials, traces("push-t", trials, [(random, out)], range(3)), strict=True
    ):
        trace = read(Trace, shown, "trace")
        assert trace.runs[0].path[0] == pytest.approx(trial.start, abs=1e-3)
        assert trace.goal == pytest.approx(trial.goal, abs=1e-3)


@pytest.mark.parametrize(("count", "says"), [(0, "nothing"), (10**4, "hold out more")])
def test_trials_that_there_are_none_of(logged: Episodes, count: int, says: str) -> None:
    with pytest.raises(EchelonError, match=says):
        make_trials(logged, np.arange(16), count, 0, "test")


def test_trials_of_another_world(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "x.h5") as writer:
        writer.add({"pixels": np.zeros((3, 8, 8, 3), np.uint8), "action": np.zeros((2, 2))})
    with pytest.raises(EchelonError, match="holds no Push-T"):
        make_trials(Episodes.open(tmp_path / "x.h5"), np.arange(1), 1, 0, "test")
