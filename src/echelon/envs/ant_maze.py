"""OGBench's ant maze: an ant of four legs and eight motors walks to where an image shows it.

The world is OGBench's (MuJoCo): its medium maze, and its ant, which is told ten times a second how hard
each motor is to turn. It is drawn here from the state, since software rendering is a hundred times
slower than the physics (see `ant_views.py`). Lengths are metres in OGBench's axes, angles are radians,
and places are (row, column) in cells of the maze, which are 4 m wide.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from echelon.envs import layouts, mazes
from echelon.envs.ant_views import DOWN, JOINTS, PLACE, TURN, cells, draw, metres
from echelon.envs.layouts import Layout
from echelon.envs.task import Array, Env, Image, Role, Trial, check_action, sound
from echelon.types import EchelonError

NEAR = 1.0
"""metres from the goal, up to which the torso counts as there; H-JEPA's, OGBench's own is 0.5"""
NUMBERS = 29
"""of a state: MuJoCo's 15 positions, then its 14 velocities"""
POSITIONS, VELOCITIES = slice(0, 15), slice(15, 29)
PROPRIO = slice(2, 29)
"""of a state: all but the place, as H-JEPA's models are told"""
HEIGHT = 0.55
"""of the torso of an ant that stands"""
KNEES = np.deg2rad(50.0)
"""down from level, where it stands; halfway between what an ankle can do"""


def reached(places: Array, goal: Array) -> NDArray[np.bool_]:
    """Whether places x, y ``[..., 2]`` are at goals' ``[..., 2]``: up to 1 m away."""
    return np.linalg.norm(places - goal, axis=-1) <= NEAR


def standing(place: Array) -> Array:
    """``[2] -> [29]``: an ant that stands at a place, in cells, at rest, facing along x."""
    state = np.zeros(NUMBERS)
    state[PLACE], state[2], state[TURN] = metres(place), HEIGHT, (1.0, 0.0, 0.0, 0.0)
    state[JOINTS] = np.stack([np.zeros(4), KNEES * DOWN], 1).ravel()
    return state


class AntMaze(gym.Env[Image, Array]):
    """Walk to where the goal image shows the ant.

    An action is how hard each of eight motors turns for a tenth of a second, in parts of the most that
    it can: hip and ankle of the front right leg, then of the others, counter-clockwise.
    `reset(options={"start": place, "goal": place})` sets both in (row, column) cells, where it stands
    at first; otherwise they are drawn from the free cells. A start may also be a whole state. `info`
    has "goal" (an image), "success" (`reached`), "place" (row and column of the torso), "state":
    MuJoCo's 15 positions, of which the first 7 are the torso's pose and the others joints, and 14
    velocities; and "proprio", all of that but x and y.

    Unlike OGBench's, the state says all there is to know: the solver starts anew at every step, and
    nothing ends an episode.
    """

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, image_size: int = 64) -> None:
        self.render_mode = "rgb_array"
        self._size = image_size
        self._simulation = simulation()
        self._layout = layout()
        self._state, self._goal = np.zeros(NUMBERS), np.zeros(2)
        self.observation_space = gym.spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (8,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Image, dict[str, Any]]:
        super().reset(seed=seed)
        given = options or {}
        start = np.array(given.get("start", self._random_place()), np.float64)
        self._goal = np.array(given.get("goal", self._random_place()), np.float64)
        self._state = standing(start) if start.shape == (2,) else start
        if self._state.shape != (NUMBERS,) or not sound(self._state, TURN):
            raise EchelonError(
                f"start: these {start.size} numbers are no state of the ant; take a place, or "
                f"{NUMBERS} that 'info' or episodes give"
            )
        for name, place in (("start", cells(self._state[PLACE])), ("goal", self._goal)):
            if place.shape != (2,) or not _free(self._layout, place):
                raise EchelonError(
                    f"{name}: {place.tolist()} lies in a wall or outside; choose a free cell"
                )
        return self.render(), {"goal": self._shown(self._goal), **self._info()}

    def step(self, action: Array) -> tuple[Image, float, bool, bool, dict[str, Any]]:
        self.advance(action)
        return self.render(), 0.0, False, False, self._info()

    def advance(self, action: Array) -> Array:
        """The physics of one step without drawing; returns the state."""
        check_action(action)
        self._state = advance(self._simulation, self._state, action)
        return self.state

    def ahead(self, cells: int) -> Image:
        """See :class:`echelon.envs.task.KnowsTheWay`."""
        return self._shown(layouts.ahead(self._layout, self._place, self._goal, cells))

    def render(self) -> Image:  # pyright: ignore[reportIncompatibleMethodOverride]
        return draw(self._state[None], self._layout, self._size)[0]

    @property
    def state(self) -> Array:
        """``[29]`` as in `info`. It is all that the next one depends on."""
        return self._state.copy()

    @property
    def _place(self) -> Array:
        return cells(self._state[PLACE])

    def _shown(self, place: Array) -> Image:
        return draw(standing(place)[None], self._layout, self._size)[0]

    def _random_place(self) -> Array:
        return random_place(self._layout, self.np_random)

    def _info(self) -> dict[str, Any]:
        state = self.state
        success = bool(reached(state[PLACE], metres(self._goal)))
        return {
            "success": success,
            "state": state,
            "place": self._place,
            "proprio": state[PROPRIO],
        }


def _free(layout: Layout, place: Array) -> bool:
    row, column = np.floor(place).astype(int)
    inside = 0 <= row < layout.shape[0] and 0 <= column < layout.shape[1]
    return bool(inside and not layout[row, column])


def random_place(layout: Layout, rng: np.random.Generator) -> Array:
    """Up to a metre from the middle of a free cell, along each side, as OGBench draws them."""
    free = layouts.free_cells(layout)
    return free[rng.integers(len(free))] + 0.5 + rng.uniform(-0.25, 0.25, 2)


# ------------------------------------------------------------------ the world


@functools.lru_cache(1)
def simulation() -> Any:
    """OGBench's world, which serves all environments: each puts its own state in before it steps, so
    they may not be stepped from several threads.
    """
    try:
        with warnings.catch_warnings():  # of windows that there are none of
            warnings.simplefilter("ignore")
            from ogbench.locomaze.maze import make_maze_env
    except ImportError as error:
        raise EchelonError("the ant maze needs OGBench: pip install 'echelon[tasks]'") from error
    made: Any = make_maze_env("ant", "maze", maze_type="medium")
    Path(made.fullpath).unlink()  # read by now; it would be left behind
    return made


@functools.lru_cache(1)
def layout() -> Layout:
    """OGBench's medium maze. Not to be written to."""
    found = np.array(simulation().maze_map, np.int8)
    found.setflags(write=False)
    return found


def advance(world: Any, state: Array, action: Array) -> Array:
    """The state one step later."""
    import mujoco

    physics: Any = mujoco  # whose functions are compiled, and unknown to type checkers
    data = world.data
    data.qpos[:], data.qvel[:] = state[POSITIONS], state[VELOCITIES]
    # With the last step's forces to start from, the next state would hang on more than this one.
    data.qacc_warmstart[:] = 0
    data.ctrl[:] = np.clip(np.asarray(action, np.float64), -1, 1)
    physics.mj_step(world.model, data, nstep=world.frame_skip)
    return np.concatenate([data.qpos, data.qvel])


# ------------------------------------------------------------------ the task

SPLITS = ("3", "6")
"""cells of the shortest path from start to goal; H-JEPA's are 3"""
BUDGETS: Mapping[str, int] = {"3": 350, "6": 700}
"""environment steps of a trial; H-JEPA allows 350 for 3 (its config/eval/ant_flat.yaml)"""


@dataclass(frozen=True)
class AntMazeTask:
    """Places that the ant is to walk to."""

    name: str = "ant-maze"

    def make(self, trial: Trial, image_size: int) -> Env:
        return AntMaze(image_size)


def make_trials(per_split: int, seed: int, role: Role) -> list[Trial]:
    """Trials of each split. A pair of start and goal cell belongs to one role for good."""
    return mazes.make_trials(layout(), per_split, seed, role, SPLITS)
