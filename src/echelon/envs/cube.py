"""OGBench's single cube: an arm grasps a cube and brings it to where an image shows it.

The world is OGBench's (MuJoCo): its UR5e arm with a Robotiq gripper, its controller, which is told
twenty times a second where the gripper is to go, and its cube. It is drawn here from the state, since
software rendering is two hundred times slower than the physics (see `cube_views.py`). Lengths are
metres in OGBench's axes, angles are radians.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from echelon.data.episodes import Episodes
from echelon.envs.cube_views import LEFTMOST, NEAREST, PLACE, TURN, WIDE, draw
from echelon.envs.logged import LoggedTrial, of_role
from echelon.envs.task import Array, Env, Image, Role, Trial, check_action, sound
from echelon.types import EchelonError

NEAR = 0.04
"""metres from the goal, up to which the cube counts as there; OGBench's own"""
NUMBERS = 47
"""of a state"""
TOUCH, POSITIONS, VELOCITIES = 5, slice(6, 27), slice(27, 47)
"""of a state: how hard the right pad is pressed, and MuJoCo's positions and velocities"""

LIFTED = 0.02
"""metres above where it lay, from which a cube counts as lifted; H-JEPA's `pickup_height_delta`"""
TOUCHED = 0.5
"""of a touch, from which it is a grasp; H-JEPA's `pickup_contact_threshold`"""
PACE = 5
"""logged steps that count as a cell of the way, where one is shown"""
CELLS = (8, 16)
"""rows and columns of the empty layout in which pictures of trials show the cube from above"""


def reached(states: Array, goal: Array) -> NDArray[np.bool_]:
    """Whether in states ``[..., 47]`` the cube is at goals' ``[..., 47]``: up to 4 cm away."""
    return np.linalg.norm(states[..., PLACE] - goal[..., PLACE], axis=-1) <= NEAR


class Cube(gym.Env[Image, Array]):
    """Bring the cube to where the goal image shows it.

    An action is where the gripper is to be from where it is, in a twentieth of a second: x, y, z in
    parts of 5 cm, its turn in parts of 0.3 radians, and how much it closes, 1 being all the way.
    `reset(options={"start": state, "goal": state})` sets both, else they are drawn; "way", states that
    once led from one to the other, is what `ahead` shows. `info` has "goal" (an image), "success"
    (`reached`), "place" (row and column of the cube from above, in cells of 5 cm) and "state": x, y and
    z of the middle between the gripper's pads; x and y from its right to its left pad; how hard it is
    pressed, 1 being 50 N and more; and MuJoCo's 21 positions, of which the last 7 are the cube's pose,
    and 20 velocities.

    Unlike OGBench's, the state says all there is to know: solver and controller start anew at every
    step, and nothing ends an episode.
    """

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, image_size: int = 64) -> None:
        self.render_mode = "rgb_array"
        self._size = image_size
        self._simulation = simulation()
        self._state = self._goal = np.zeros(NUMBERS)
        self._way, self._passed = np.zeros((1, NUMBERS)), 0
        self.observation_space = gym.spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (5,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Image, dict[str, Any]]:
        super().reset(seed=seed)
        states: dict[str, Array] = {}
        for name in ("start", "goal"):
            given = (options or {}).get(name)
            state = self._random_state() if given is None else np.array(given, np.float64)
            if state.shape != (NUMBERS,) or not sound(state, TURN):
                raise EchelonError(
                    f"{name}: these {state.size} numbers are no state of arm and cube; take "
                    f"{NUMBERS} that 'info' or episodes give"
                )
            states[name] = state
        self._state, self._goal = states["start"], states["goal"]
        way = (options or {}).get("way")
        self._way = self._goal[None] if way is None else np.asarray(way, np.float64)
        self._passed = 0
        return self.render(), {"goal": draw(self._goal[None], self._size)[0], **self._info()}

    def step(self, action: Array) -> tuple[Image, float, bool, bool, dict[str, Any]]:
        self.advance(action)
        return self.render(), 0.0, False, False, self._info()

    def advance(self, action: Array) -> Array:
        """The physics of one step without drawing; returns the state."""
        check_action(action)
        self._state = advance(self._simulation, self._state, action)
        return self.state

    def ahead(self, cells: int) -> Image:
        """See :class:`echelon.envs.task.KnowsTheWay`; the way is what was logged, on which it has come
        to the state that is most like this one, never back.
        """
        left = self._way[self._passed :]
        apart = np.linalg.norm(left[:, :3] - self._state[:3], axis=1)
        moved = np.linalg.norm(left[:, PLACE] - self._state[PLACE], axis=1)
        self._passed += int((apart + moved).argmin())
        there = min(self._passed + PACE * cells, len(self._way) - 1)
        return draw(self._way[there][None], self._size)[0]

    def render(self) -> Image:  # pyright: ignore[reportIncompatibleMethodOverride]
        return draw(self._state[None], self._size)[0]

    @property
    def state(self) -> Array:
        """``[47]`` as in `info`. It is all that the next one depends on."""
        return self._state.copy()

    def _random_state(self) -> Array:
        return random_state(self._simulation, int(self.np_random.integers(2**31)))

    def _info(self) -> dict[str, Any]:
        state = self.state
        success = bool(reached(state, self._goal))
        return {"success": success, "state": state, "place": _place(state)}


def _place(state: Array) -> Array:
    """Row and column of the cube from above, in cells."""
    return (state[PLACE][:2] - (NEAREST, LEFTMOST)) / (WIDE / CELLS[1])


# ------------------------------------------------------------------ the world


@functools.lru_cache(1)
def simulation() -> Any:
    """OGBench's world, which takes a second to make and serves all environments: each puts its own
    state in before it steps, so they may not be stepped from several threads.
    """
    try:
        with warnings.catch_warnings():  # of windows that there are none of
            warnings.simplefilter("ignore")
            from ogbench.manipspace.envs.cube_env import CubeEnv
    except ImportError as error:
        raise EchelonError("the cube needs OGBench: pip install 'echelon[tasks]'") from error
    world = CubeEnv("single", mode="data_collection", visualize_info=False, terminate_at_goal=False)
    world.reset(seed=0)
    return world


def random_state(world: Any, seed: int) -> Array:
    """As OGBench begins episodes: the gripper open above the table, the cube anywhere on it."""
    world.reset(seed=seed)
    return _state_of(world)


def advance(world: Any, state: Array, action: Array) -> Array:
    """The state one step later."""
    import mujoco

    physics: Any = mujoco  # whose functions are compiled, and unknown to type checkers
    model, data = world.model, world.data
    data.qpos[:], data.qvel[:] = state[POSITIONS], state[VELOCITIES]
    # With the last step's forces to start from, the next state would hang on more than this one.
    data.qacc_warmstart[:] = data.ctrl[:] = 0
    physics.mj_forward(model, data)
    world.set_control(np.clip(np.asarray(action, np.float64), -1, 1))
    physics.mj_step(model, data, nstep=round(world.control_timestep() / world.physics_timestep()))
    physics.mj_kinematics(model, data)
    physics.mj_rnePostConstraint(model, data)
    return _state_of(world)


def _state_of(world: Any) -> Array:
    data, known = world.data, world.compute_ob_info()
    left, right = (data.body(f"ur5e/robotiq/{side}_pad").xpos for side in ("left", "right"))
    seen = [known["proprio/effector_pos"], (left - right)[:2], known["proprio/gripper_contact"]]
    return np.concatenate([*seen, data.qpos, data.qvel])


# ------------------------------------------------------------------ the task

SPLITS = ("20", "40")
"""steps from start to goal, as logged; H-JEPA's are 20"""
BUDGETS: Mapping[str, int] = {"20": 30, "40": 60}
"""environment steps of a trial; H-JEPA allows 30 for 20 (its config/eval/cube_flat.yaml)"""


@dataclass(frozen=True)
class CubeTask:
    """Places that a cube was brought to, some steps later."""

    name: str = "cube"

    def make(self, trial: Trial, image_size: int) -> Env:
        return Cube(image_size)


def grasps(states: Array) -> list[int]:
    """The steps of an episode ``[T, 47]`` at which a grasp began after which the cube was lifted.

    As H-JEPA finds an episode's first: back from where the cube is 2 cm above where it lay, while the
    pads are pressed. Here an episode may have several.
    """
    lifted = states[:, PLACE][:, 2] >= states[0, PLACE][2] + LIFTED
    pressed = states[:, TOUCH] >= TOUCHED
    found: list[int] = []
    for lift in np.flatnonzero(lifted[1:] & ~lifted[:-1]) + 1:
        (before,) = np.nonzero(pressed[: lift + 1])
        if len(before):
            (loose,) = np.nonzero(~pressed[: before[-1]])
            began = int(loose[-1]) + 1 if len(loose) else 0
            if began not in found:
                found.append(began)
    return found


def make_trials(
    episodes: Episodes, ids: NDArray[np.int64], per_split: int, seed: int, role: Role
) -> list[LoggedTrial]:
    """Trials of each split, from episodes `ids` that no model was trained on: a state, and the one
    that was reached so many steps later, with the beginning of a grasp halfway.

    The cube has to be moved in each: where it is near enough at the start, there is none. An episode,
    and so every moment in it, belongs to one role for good.
    """
    mine = of_role(episodes, ids, per_split, role, Cube.__name__, "cube")
    states = episodes.column("state").astype(np.float64)
    own = {i: states[episodes.offsets[i] : episodes.offsets[i] + episodes.lengths[i]] for i in mine}
    held = [(i, grasp) for i in mine for grasp in grasps(own[i])]
    rng = np.random.default_rng((seed, role == "test"))
    empty = np.zeros(CELLS, np.int8)
    trials: list[LoggedTrial] = []
    for split in SPLITS:
        steps = int(split)
        starts = [(i, grasp - steps // 2) for i, grasp in held]
        windows = [(i, t, own[i][t : t + steps + 1]) for i, t in starts if t >= 0]
        found = [w for w in windows if len(w[2]) > steps and not reached(w[2][0], w[2][-1])]
        if len(found) < per_split:
            raise EchelonError(
                f"trials: {per_split} are too many for the {len(found)} grasps {split} steps long in "
                f"{len(mine)} episodes held out to {role}; hold out more or longer ones"
            )
        for number in sorted(rng.permutation(len(found))[:per_split]):
            episode, t, way = found[number]
            start, goal = _place(way[0]), _place(way[-1])
            trials.append(
                LoggedTrial(split, empty, start, goal, steps, states=way, source=(episode, t))
            )
    return trials
