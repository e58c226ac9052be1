"""The maze: what is seen is where the ball is, and what is logged can be logged again."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from echelon.collect import CollectConfig, collect
from echelon.data.episodes import Episodes
from echelon.envs import layouts, point_maze
from echelon.envs.mazes import MazeTask
from echelon.envs.point_maze import (
    BALL,
    FLOOR,
    SUCCESS_RADIUS,
    WALL,
    PointMaze,
    draw,
    draw_background,
)
from echelon.progress import Progress
from echelon.types import EchelonError

CORNER = np.array([[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 1, 1, 0, 1], [1, 1, 1, 1, 1]], np.int8)


@pytest.fixture(scope="module")
def env() -> Generator[PointMaze]:
    made = PointMaze(CORNER, image_size=40)
    yield made
    made.close()


def test_gymnasium_has_no_complaints() -> None:
    env = PointMaze(layouts.generate(2, 0), image_size=16)
    check_env(env, skip_render_check=True)


def test_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    point_maze._physics.__wrapped__(((1, 1, 1), (1, 0, 1), (1, 1, 1)), 1)
    assert not list(tmp_path.iterdir())


def test_reset_at_given_places(env: PointMaze) -> None:
    image, info = env.reset(options={"start": (1.5, 1.75), "goal": (2.5, 3.5)})
    assert info["state"] == pytest.approx([1.5, 1.75, 0, 0])
    assert not info["success"]
    assert env.observation_space.contains(image)
    assert np.array_equal(image, env.render())
    at_goal, there = env.reset(options={"start": (2.5, 3.5), "goal": (2.5, 3.5)})
    assert there["success"]
    assert np.array_equal(info["goal"], at_goal)
    assert not np.array_equal(image, at_goal)


def test_who_knows_the_way_is_shown_it_cell_by_cell(env: PointMaze) -> None:
    _, info = env.reset(options={"start": (1.5, 1.75), "goal": (2.4, 3.6)})
    way = [(1.5, 2.5), (1.5, 3.5)]  # the goal is three cells away
    for cells, place in enumerate(way, 1):
        seen = draw(draw_background(CORNER, 40), np.array([place]), CORNER)[0]
        assert np.array_equal(env.ahead(cells), seen)
    for cells in (3, 9):
        assert np.array_equal(env.ahead(cells), info["goal"])


def test_random_places_are_free_and_seeded(env: PointMaze) -> None:
    seen = [env.reset(seed=seed)[1]["state"] for seed in range(20)]
    assert not any(env.layout[int(state[0]), int(state[1])] for state in seen)
    assert len({(int(state[0]), int(state[1])) for state in seen}) == 4
    assert np.array_equal(env.reset(seed=7)[1]["state"], seen[7])


@pytest.mark.parametrize("name", ["start", "goal"])
@pytest.mark.parametrize("place", [(0.5, 0.5), (2.5, 1.5), (-0.5, 1.5), (1.5, 5.0), (99, 99)])
def test_a_place_that_is_not_free(env: PointMaze, name: str, place: tuple[float, float]) -> None:
    with pytest.raises(EchelonError, match=f"{name}: .*choose a free cell"):
        env.reset(options={"start": (1.5, 1.5), "goal": (1.5, 1.5), name: place})


@pytest.mark.parametrize(("offset", "success"), [(0.0, True), (-0.01, True), (0.01, False)])
def test_success_is_within_the_radius(env: PointMaze, offset: float, success: bool) -> None:
    away = 0.0 if offset == 0 else SUCCESS_RADIUS + offset
    info = env.reset(options={"start": (1.5, 1.5 + away), "goal": (1.5, 1.5)})[1]
    assert info["success"] is success


def test_forces_push_the_ball_their_way(env: PointMaze) -> None:
    """The first force points along the columns, the second up the rows."""
    for action, column in (((1, 0), 1), ((-1, 0), -1)):
        env.reset(options={"start": (1.5, 2.5)})
        for _ in range(5):
            state = env.advance(np.array(action))
        assert np.sign(state[1] - 2.5) == np.sign(state[3]) == column
        assert state[0] == pytest.approx(1.5)
    env.reset(options={"start": (2.5, 3.5)})
    for _ in range(5):
        state = env.advance(np.array((0, 1)))
    assert state[0] < 2.45
    assert state[2] < 0


def test_no_force_leaves_the_ball_at_rest(env: PointMaze) -> None:
    env.reset(options={"start": (1.4, 2.6)})
    for _ in range(20):
        state = env.advance(np.zeros(2))
    assert state == pytest.approx([1.4, 2.6, 0, 0], abs=1e-3)


def test_the_same_forces_give_the_same_images(env: PointMaze) -> None:
    forces = np.random.default_rng(0).uniform(-1, 1, (30, 2))

    def images(forces: np.ndarray) -> list[np.ndarray]:
        first = env.reset(seed=5)[0]
        return [first, *(env.step(force)[0] for force in forces)]

    once = np.array(images(forces))
    assert np.array_equal(once, images(forces))
    assert not np.array_equal(once, images(-forces))


@pytest.mark.parametrize("seed", range(3))
def test_the_ball_stays_out_of_the_walls(seed: int) -> None:
    layout = layouts.generate(3, seed)
    env = PointMaze(layout, image_size=16)
    state = env.reset(seed=seed)[1]["state"]
    rng = np.random.default_rng(seed)
    cells = set()
    for _ in range(60):
        force = rng.uniform(-1, 1, 2)
        for _ in range(5):
            state = env.advance(force)
            cell = (int(state[0]), int(state[1]))
            assert layout[cell] == 0
            cells.add(cell)
    env.close()
    assert len(cells) > 1


def test_a_drawing_shows_walls_floor_and_ball() -> None:
    background = draw_background(CORNER, 40)
    for row, column in np.ndindex(CORNER.shape):
        colour = WALL if CORNER[row, column] else FLOOR
        patch = background[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        assert (patch == colour).all()
    cells = np.array([[1.5, 2.5], [2.5, 3.5]])
    both = draw(background, cells, CORNER)
    for image, (row, column) in zip(both, cells, strict=True):
        assert tuple(image[int(8 * row), int(8 * column)]) == BALL
        changed = np.argwhere((image != background).any(-1)) + 0.5
        assert changed.mean(0) == pytest.approx([8 * row, 8 * column])
        assert np.array_equal(image, draw(background, np.array([[row, column]]), CORNER)[0])
    assert (draw(background, cells, CORNER) == both).all()


class Counting(Progress):
    """Counts what it is told; raises KeyboardInterrupt at a step if asked."""

    def __init__(self, stop: int = -1) -> None:
        super().__init__(quiet=True)
        self.count, self.stop = 0, stop

    @contextmanager
    def task(
        self, name: str, total: int, start: int = 0
    ) -> Generator[Callable[[float | None], None]]:
        def advance(loss: float | None = None) -> None:
            self.count += 1
            if self.count == self.stop:
                raise KeyboardInterrupt

        yield advance


TINY = CollectConfig(episodes=3, steps=4, maze_size=2, image_size=16)


def test_collect(tmp_path: Path) -> None:
    path, progress = tmp_path / "a.h5", Counting()
    collect(TINY, path, progress)
    assert progress.count == 3
    read = Episodes.open(path)
    read.verify()
    assert read.lengths.tolist() == [5, 5, 5]
    assert MazeTask.of(read.meta) == MazeTask(action_repeat=4)
    assert np.array_equal(MazeTask.layouts_of(read.meta), [TINY.layout])
    state = read.column("state")
    background = draw_background(TINY.layout, 16)
    assert np.array_equal(read.pixels, draw(background, state[:, :2], TINY.layout))
    inside = np.isfinite(read.actions).all(1)
    assert inside.sum() == 12
    assert (abs(read.actions[inside]) <= 1).all()
    starts = state[read.offsets]
    assert (starts[:, 2:] == 0).all()
    assert len({tuple(start) for start in starts}) == 3


def test_collect_is_a_function_of_its_options(tmp_path: Path) -> None:
    def sha256(**changes: Any) -> str:
        path = tmp_path / "a.h5"
        collect(dataclasses.replace(TINY, **changes), path, Counting())
        return Episodes.open(path).sha256

    first = sha256()
    assert len(first) == len(hashlib.sha256().hexdigest())
    assert sha256() == first
    others = [sha256(seed=1), sha256(action_repeat=5), sha256(correlations=(0.1,))]
    assert len({first, *others}) == 4


def test_collect_in_several_layouts_takes_turns(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    config = dataclasses.replace(TINY, kind="open", maze_size=5, mazes=2, episodes=5, speed=3.0)
    collect(config, path, Counting())
    read = Episodes.open(path)
    found = MazeTask.layouts_of(read.meta)
    assert np.array_equal(found, config.layouts)
    which, state = read.column("layout"), read.column("state")
    assert which.reshape(5, 5).tolist() == [[0] * 5, [1] * 5, [0] * 5, [1] * 5, [0] * 5]
    for number, layout in enumerate(found):
        rows = which == number
        drawn = draw(draw_background(layout, 16), state[rows, :2], layout)
        assert np.array_equal(read.pixels[rows], drawn)
    speed = np.linalg.norm(state[read.offsets, 2:], axis=1)
    assert (speed > 0).all()
    assert (speed <= 3).all()


def test_an_episode_may_begin_in_motion() -> None:
    env = PointMaze(layouts.scatter(5, 0), 16, 4)
    start = layouts.free_cells(env.layout)[0] + 0.5
    env.reset(options={"start": start, "velocity": (0.5, -1.0)})
    assert np.allclose(env.state, [*start, 0.5, -1.0])
    down, right = env.advance(np.zeros(2))[:2] - start
    assert down > 0 > right


def test_success_is_to_be_within_the_radius() -> None:
    places = {"start": np.array([1.5, 1.5]), "goal": np.array([1.5, 2.2])}
    for radius, there in ((0.69, False), (0.71, True)):
        _, info = PointMaze(CORNER, 16, 4, radius).reset(options=places)
        assert info["success"] is there


def test_collect_stopped_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    collect(TINY, path, Counting())
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        collect(dataclasses.replace(TINY, seed=1), path, Counting(stop=2))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.h5"]
