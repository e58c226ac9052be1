"""Four rooms: doors that stop, a distractor that jumps, and ways that an expert can go."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from echelon.data.episodes import Episodes
from echelon.envs import four_room, layouts
from echelon.envs.four_room import (
    AGENT,
    DOORS,
    JUMP,
    OTHER,
    RADIUS,
    SIZE,
    SPEED,
    SPLITS,
    FourRoom,
    FourRoomCollect,
    FourRooms,
    FourRoomTask,
    collect,
    doors_between,
    make_trials,
    rooms,
)
from echelon.evaluation import Trial
from echelon.progress import Progress
from echelon.types import EchelonError

OPEN, SHUT = rooms((False,) * 4), rooms((True,) * 4)
QUIET = Progress(quiet=True)


def test_gymnasium_has_no_complaints() -> None:
    check_env(FourRoom(OPEN, 28), skip_render_check=True)


def test_closed_doors_part_the_rooms() -> None:
    for number in range(4):
        closed = [True] * 4
        closed[number] = False
        reached = layouts.distances(rooms(tuple(closed)), (3, 3)) >= 0
        away = layouts.distances(rooms(tuple(closed)), (24, 24)) >= 0
        assert (reached.sum() + away.sum()) > (layouts.distances(SHUT, (3, 3)) >= 0).sum() * 2
    layouts.check(OPEN)
    with pytest.raises(EchelonError, match="no path"):
        layouts.check(SHUT)


def walk(layout: np.ndarray, start: tuple[float, float], action: tuple[float, float]) -> np.ndarray:
    """Where somebody ends who holds one action."""
    env = FourRoom(layout)
    env.reset(seed=0, options={"start": start, "goal": (24.5, 24.5)})
    for _ in range(120):
        _, _, _, _, info = env.step(np.array(action))
    return info["state"][:2]


def test_a_door_lets_pass_and_a_closed_one_does_not() -> None:
    through = walk(OPEN, (7.0, 4.5), (0, 1))
    assert through == pytest.approx([7.0, SIZE - 1 - RADIUS], abs=SPEED)
    stopped = walk(SHUT, (7.0, 4.5), (0, 1))
    assert stopped == pytest.approx([7.0, 13 - RADIUS], abs=SPEED)


def test_the_agent_slides_along_walls() -> None:
    row, column = walk(SHUT, (4.5, 4.5), (0.3, 1))
    assert column == pytest.approx(13 - RADIUS, abs=SPEED)
    assert row == pytest.approx(13 - RADIUS, abs=SPEED)


def test_no_step_is_longer_than_the_speed() -> None:
    world = FourRooms(OPEN[None], 28, 0)
    world.agent = torch.tensor([[5.5, 5.5]])
    world.step(torch.tensor([[1.0, 1.0]]))
    assert (world.agent - 5.5).norm() == pytest.approx(SPEED, rel=1e-4)
    world.step(torch.tensor([[-0.5, 0.0]]))
    assert world.agent[0, 0] == pytest.approx(5.5 + SPEED * (0.5**0.5 - 0.5), rel=1e-4)


def test_the_distractor_jumps_by_its_clock_and_nowhere_into_walls() -> None:
    world = FourRooms(np.repeat(SHUT[None], 64, 0), 28, 1)
    jumps = 0
    for _ in range(200):
        before = world.other.clone()
        world.step(torch.zeros(64, 2))
        jumps += int((world.other != before).any(1).sum())
        assert world.fits(world.other).all()
    expected = 64 * 200 * JUMP
    assert abs(jumps - expected) < 4 * expected**0.5


def test_images_show_agent_and_distractor_where_they_are() -> None:
    world = FourRooms(np.stack([OPEN, SHUT]), 112, 2)
    for image, agent, other in zip(world.images(), world.agent, world.other, strict=True):
        for place, colour in ((agent, AGENT), (other, OTHER)):
            row, column = (4 * place).long().tolist()
            if (agent - other).norm() > 2:
                assert image[row, column].tolist() == list(colour)
    assert not torch.equal(world.images()[0, 28, 54], world.images()[1, 28, 54])  # a door


def test_worlds_side_by_side_are_worlds_alone() -> None:
    both, alone = FourRooms(np.stack([OPEN, SHUT]), 28, 0), FourRooms(SHUT[None], 28, 0)
    alone.agent, alone.other = both.agent[1:], both.other[1:]
    for action in torch.randn(30, 2):
        both.step(action.expand(2, 2))
        alone.step(action[None])
        alone.other = both.other[1:]  # chance is drawn for all at once
        assert torch.equal(both.agent[1:], alone.agent)
        assert torch.equal(both.images()[1:], alone.images())


def test_one_seed_is_one_world() -> None:
    def run(seed: int) -> list[list[float]]:
        env = FourRoom(OPEN, 28)
        _, info = env.reset(seed=seed)
        states = [info["state"]]
        for _ in range(50):
            _, _, _, _, info = env.step(np.ones(2))
            states.append(info["state"])
        return np.array(states).tolist()

    assert run(3) == run(3)
    assert run(3) != run(4)


@pytest.mark.parametrize("place", [(0.5, 0.5), (14.0, 14.0), (40.0, 3.0), (13.2, 7.0)])
def test_a_start_in_a_wall_is_refused(place: tuple[float, float]) -> None:
    with pytest.raises(EchelonError, match=r"start: .* lies in a wall or outside"):
        FourRoom(SHUT).reset(options={"start": place, "goal": (5.5, 5.5)})


# --- trials ---------------------------------------------------------------------------------------


def test_doors_are_counted_on_the_way_with_the_fewest() -> None:
    """As the cells of the shortest way say, one by one."""
    middles = [np.array(cell) for cell in ((3, 4), (5, 24), (24, 21), (22, 2))]
    for closed in itertools.product((False, True), repeat=4):
        for start, goal in itertools.product(middles, repeat=2):
            field = layouts.distances(rooms(closed), tuple(goal))
            cell, passed = tuple(start), set[int]()
            while field[cell] > 0:
                cell = layouts.onward(field, cell, 1)
                passed |= {
                    i
                    for i, (rows, columns) in enumerate(DOORS)
                    if rows.start <= cell[0] < rows.stop and columns.start <= cell[1] < columns.stop
                }
            expected = len(passed) if field[cell] == 0 else None
            assert doors_between(closed, start, goal) == expected


@pytest.fixture(scope="module")
def trials() -> dict[str, list[Trial]]:
    return {split: make_trials(split, 12, 0, "test") for split in SPLITS}


def test_trials_go_through_as_many_doors_as_asked(trials: dict[str, list[Trial]]) -> None:
    for doors, (split, some) in enumerate(trials.items(), 1):
        for trial in some:
            start, goal = np.floor(trial.start).astype(int), np.floor(trial.goal).astype(int)
            assert trial.split == split
            closed = [bool(trial.layout[rows.start, columns.start]) for rows, columns in DOORS]
            assert doors_between(closed, start, goal) == doors
            assert trial.distance == layouts.distances(trial.layout, tuple(start))[tuple(goal)]
    assert len({t.seed for some in trials.values() for t in some}) == 36


def test_what_is_tuned_on_is_not_tested_on() -> None:
    def pairs(role: four_room.Role) -> set[tuple[int, ...]]:
        some = [t for seed in (0, 1) for t in make_trials("1-door", 100, seed, role)]
        return {tuple(np.floor([*t.start, *t.goal]).astype(int).tolist()) for t in some}

    test, tune = pairs("test"), pairs("tune")
    assert len(test) > 150
    assert not test & tune


def test_who_knows_the_way_is_shown_it_cell_by_cell() -> None:
    """What is shown is what one who stands there sees, the distractor included."""

    def at(place: tuple[float, float]) -> four_room.FourRoom:
        env = four_room.FourRoom(rooms((True,) * 4))
        env.reset(seed=0, options={"start": place, "goal": (10.3, 8.6)})
        return env

    env = at((2.5, 2.5))  # eight cells down and six right
    places = [(10.5, c + 0.5) for c in range(2, 8)]
    for cells, place in enumerate(places, 8):
        assert np.array_equal(env.ahead(cells), at(place).render())
    for cells in (14, 99):
        assert np.array_equal(env.ahead(cells), at((10.3, 8.6)).render())


def test_a_goal_can_be_reached_in_time_by_who_knows_the_way(
    trials: dict[str, list[Trial]],
) -> None:
    task = FourRoomTask()
    for trial in (t for some in trials.values() for t in some[:4]):
        env = task.make(trial, 28)
        _, info = env.reset(seed=trial.seed, options=dict(trial.options))
        assert not info["success"]
        expert = four_room._Expert(trial.layout, np.random.default_rng(0))
        expert._field = layouts.distances(trial.layout, tuple(np.floor(trial.goal).astype(int)))
        for _ in range(210):
            _, _, _, _, info = env.step(expert.direction(info["state"][:2].tolist()))
            if info["success"]:
                break
        assert info["success"]


@pytest.mark.parametrize(
    ("split", "count", "says"), [("9-doors", 1, "there is no 9-doors"), ("1-door", 0, "nothing")]
)
def test_trials_that_there_are_none_of(split: str, count: int, says: str) -> None:
    with pytest.raises(EchelonError, match=says):
        make_trials(split, count, 0, "test")


# --- experience -----------------------------------------------------------------------------------


def test_collect(tmp_path: Path) -> None:
    config = FourRoomCollect(episodes=40, steps=60, image_size=56)
    collect(config, tmp_path / "a.h5", QUIET)
    read = Episodes.open(tmp_path / "a.h5")
    read.verify()
    assert read.lengths.tolist() == [61] * 40
    assert read.meta["task"] == "four-room"
    state = read.column("state").reshape(40, 61, 4)
    moved = np.linalg.norm(np.diff(state[..., :2], axis=1), axis=-1)
    assert moved.max() <= SPEED + 1e-5
    collect(config, tmp_path / "b.h5", QUIET)
    assert Episodes.open(tmp_path / "b.h5").sha256 == read.sha256


def test_experts_go_through_doors_more_often(tmp_path: Path) -> None:
    def entered(expert: float) -> int:
        config = FourRoomCollect(episodes=16, steps=300, expert=expert, image_size=8)
        collect(config, tmp_path / f"{expert}.h5", QUIET)
        place = Episodes.open(tmp_path / f"{expert}.h5").column("state")[:, :2].reshape(16, -1, 2)
        room = place > SIZE / 2
        return int((room[:, 1:] != room[:, :-1]).sum())

    assert entered(1.0) > 2 * entered(0.0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"episodes": 1}, "at least two episodes"),
        ({"image_size": 30}, "multiple of 8"),
        ({"expert": 1.5}, "a share"),
        ({"correlations": ()}, "at least one"),
    ],
)
def test_wrong_options(options: dict[str, Any], says: str) -> None:
    with pytest.raises(EchelonError, match=says):
        FourRoomCollect(**options)


def test_doors_are_sixteen_units_wide() -> None:
    for rows, columns in DOORS:
        spans = sorted(s.stop - s.start for s in (rows, columns))
        assert spans == [2, 2]
