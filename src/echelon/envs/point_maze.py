"""Gymnasium-Robotics' PointMaze, seen from above.

A force-driven ball (MuJoCo physics) in a walled layout. Observations and goals are 64 x 64 images
drawn from the simulator's state, since software rendering is a thousand times slower. The true
position is given in `info` for judging success and for logging; no model or planner sees it.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from echelon.envs import layouts
from echelon.envs.layouts import Layout
from echelon.envs.task import Array, Image
from echelon.types import EchelonError

FLOOR, WALL, BALL = (236, 236, 230), (62, 68, 84), (214, 58, 44)
_BALL = np.array(BALL)
BALL_RADIUS = 0.3
"""in cells; drawn larger than the simulated ball (0.1), which would be half a pixel"""
SUCCESS_RADIUS = 0.45
"""in cells; PointMaze's own"""


def draw_background(layout: Layout, size: int) -> Image:
    """The layout without the ball, ``[size, size, 3]``; a non-square one is centred."""
    cell = size / max(layout.shape)
    index = np.floor((np.arange(size) + 0.5) / cell).astype(int)
    rows = np.minimum(index, layout.shape[0] - 1)[:, None]
    columns = np.minimum(index, layout.shape[1] - 1)[None, :]
    return np.where(layout[rows, columns][..., None] == 1, WALL, FLOOR).astype(np.uint8)


def draw(background: Image, cells: Array, layout: Layout) -> Image:
    """Images ``[N, size, size, 3]`` of the ball at ``cells [N, 2]`` (row, column; centres at .5)."""
    images = np.broadcast_to(background, (len(cells), *background.shape)).copy()
    size = background.shape[0]
    scale = size / max(layout.shape)
    reach = math.ceil(BALL_RADIUS * scale) + 1
    for i, (row, column) in enumerate((cells * scale).tolist()):
        # One at a time: on so few pixels, numpy's fancy indexing takes longer than Python.
        top, left = max(int(row) - reach, 0), max(int(column) - reach, 0)
        patch = images[i, top : int(row) + reach + 1, left : int(column) + reach + 1]
        down, right = np.arange(top, size)[: len(patch)], np.arange(left, size)[: patch.shape[1]]
        distance = np.hypot((down + 0.5 - row)[:, None], (right + 0.5 - column)[None])
        cover = np.minimum(np.maximum(BALL_RADIUS * scale + 0.5 - distance, 0), 1)[..., None]
        patch[:] = (patch + cover * (_BALL - patch)).round()
    return images


class PointMaze(gym.Env[Image, Array]):
    """Reach the goal image. One step applies one force for `action_repeat` simulator steps;
    success is to be within `radius` cells of the goal.

    `reset(options={"start": cells, "goal": cells})` sets both in (row, column) cells; otherwise they
    are drawn from the free cells. "velocity", in cells a second, is 0 where it is not given. `info`
    has "goal" (an image), "success", and "state": row, column and their velocities, in cells and
    cells a second.
    """

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(
        self,
        layout: Layout,
        image_size: int = 64,
        action_repeat: int = 4,
        radius: float = SUCCESS_RADIUS,
    ) -> None:
        layouts.check(layout)
        self.layout = layout
        self.render_mode = "rgb_array"
        self._physics = _physics(tuple(map(tuple, layout.tolist())), action_repeat)
        self._data = type(self._physics.data)(self._physics.model)
        self._origin = np.array([layout.shape[0] / 2, layout.shape[1] / 2])
        self._background = draw_background(layout, image_size)
        self._cells = layouts.free_cells(layout)
        self._goal, self._radius = np.zeros(2), radius
        self.observation_space = gym.spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Image, dict[str, Any]]:
        super().reset(seed=seed)
        options = options or {}
        start = np.asarray(options.get("start", self._random_place()))
        self._goal = np.asarray(options.get("goal", self._random_place()))
        for name, place in (("start", start), ("goal", self._goal)):
            cell = np.floor(place).astype(int)
            inside = (cell >= 0).all() and (cell < self.layout.shape).all()
            if not inside or self.layout[tuple(cell)]:
                raise EchelonError(
                    f"{name}: {place.tolist()} lies in a wall or outside; choose a free cell"
                )
        self._physics.data = self._data
        down, right = options.get("velocity", (0.0, 0.0))
        self._physics.set_state(self._to_xy(start), np.array([right, -down]))
        self._data.time = 0.0
        observation = self.render()
        goal = draw(self._background, self._goal[None], self.layout)[0]
        return observation, {"goal": goal, **self._info(self.state)}

    def step(self, action: Array) -> tuple[Image, float, bool, bool, dict[str, Any]]:
        state = self.advance(action)
        return self._look(state), 0.0, False, False, self._info(state)

    def advance(self, action: Array) -> Array:
        """The physics of one step without drawing; returns the state."""
        self._physics.data = self._data
        self._physics.step(action)
        return self.state

    def render(self) -> Image:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._look(self.state)

    def _look(self, state: Array) -> Image:
        return draw(self._background, state[None, :2], self.layout)[0]

    def ahead(self, cells: int) -> Image:
        """See :class:`echelon.envs.task.KnowsTheWay`."""
        there = layouts.ahead(self.layout, self.state[:2], self._goal, cells)
        return draw(self._background, there[None], self.layout)[0]

    @property
    def state(self) -> Array:
        """``[4]`` row, column, and their velocities."""
        (x, y), (vx, vy) = self._data.qpos, self._data.qvel
        return np.array([self._origin[0] - y, self._origin[1] + x, -vy, vx])

    def _info(self, state: Array) -> dict[str, Any]:
        near = math.dist(state[:2], self._goal) <= self._radius
        return {"success": near, "state": state}

    def _random_place(self) -> Array:
        cell = self._cells[self.np_random.integers(len(self._cells))]
        return cell + 0.5 + self.np_random.uniform(-0.25, 0.25, 2)

    def _to_xy(self, place: Array) -> Array:
        return np.array([place[1] - self._origin[1], self._origin[0] - place[0]])


@functools.lru_cache(64)
def _physics(layout: tuple[tuple[int, ...], ...], action_repeat: int) -> Any:
    """The simulator of a layout. One compiled model, of 14 MB, serves all environments in that layout;
    each puts its own data in before it steps, so they may not be stepped from several threads.
    """
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a notice about other environments
            from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv
    except ImportError as error:
        raise EchelonError(
            "PointMaze needs Gymnasium-Robotics: pip install 'echelon[tasks]'"
        ) from error
    made: Any = PointMazeEnv(maze_map=[list(row) for row in layout])
    Path(made.tmp_xml_file_path).unlink()  # read by now; it would be left behind
    point = made.point_env
    point.frame_skip = action_repeat
    return point
