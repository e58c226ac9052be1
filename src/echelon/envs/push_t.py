"""Push-T, seen from above: an agent pushes a T-shaped block to where an image shows it.

The world is gym-pusht's (pymunk): its table, bodies and damping, and its agent, which a controller
drives to a target ten times a second. It is drawn here, without the target region that gym-pusht
draws. Its agent is as strong as can be and would press the block through a wall; here it stops (see
`PushT`). Lengths are px of the table, of which a side has 512; x is right, y is down, and angles are
radians, clockwise as seen.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from echelon.data.episodes import Episodes
from echelon.envs.logged import LoggedTrial, of_role
from echelon.envs.t_block import (
    BOXES,
    HIGH,
    LOW,
    OVER,
    PRESSED,
    RADIUS,
    SIDE,
    draw,
    fits,
    gap,
    gap_between,
)
from echelon.envs.task import Array, Env, Image, Role, Trial, check_action
from echelon.types import EchelonError

REACH = 100.0
"""px of an action of 1; stable-worldmodel's `action_scale`"""
FAR_APART = (50.0, 50.0, 256.0, 256.0, 0.0)
"""agent and block, while a world is made"""

NEAR, TURNED = 20.0, math.pi / 9
"""px and radians from the goal, less than which count as there; stable-worldmodel's `eval_state`"""

PACE = 5
"""logged steps that count as a cell of the way, where one is shown"""
CELL = 32
"""px; pictures of trials show where the block is in cells of this size"""


def reached(states: Array, goal: Array, agent_counts: bool = True) -> NDArray[np.bool_]:
    """Whether states ``[..., 7]`` are at goals ``[..., 7]``: less than 20 px and pi / 9 away.

    As stable-worldmodel judges, the px are of agent and block in one: the length of the vector of their
    four numbers. Without `agent_counts` they are the block's. Velocities never count.
    """
    places = slice(0 if agent_counts else 2, 4)
    away = np.linalg.norm(states[..., places] - goal[..., places], axis=-1)
    turn = np.abs((states[..., 4] - goal[..., 4] + np.pi) % (2 * np.pi) - np.pi)
    return (away < NEAR) & (turn < TURNED)


def random_state(rng: np.random.Generator) -> Array:
    """Anywhere on the table, at rest, the agent beside the block."""
    while True:
        state = np.concatenate([rng.uniform(0, SIDE, 4), [rng.uniform(0, 2 * np.pi), 0, 0]])
        if fits(state) and gap(state)[0] > 0:
            return state


class PushT(gym.Env[Image, Array]):
    """Bring block and agent to where the goal image shows them.

    An action is where the agent is to go from where it is, right and down, in parts of 100 px. It has
    a tenth of a second, enough for three tenths of the way from rest, and four tenths at speed.
    `reset(options={"start": state, "goal": state})` sets both, else they are drawn; "way", states that
    once led from one to the other, is what `ahead` shows. `info` has
    "goal" (an image), "success" (`reached`), "place" (row and column of the block, in cells of 32 px)
    and "state": x and y of the agent, x, y and angle of the block, x and y of the agent's velocity, in
    px, radians and px a second.

    Unlike gym-pusht's, this agent keeps to the table, the block is put back where it is over a wall,
    and the agent where it is pressed into the block; and the state says all there is to know.
    """

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, image_size: int = 64, agent_counts: bool = True) -> None:
        self.render_mode = "rgb_array"
        self._size, self._agent_counts = image_size, agent_counts
        self._simulation = _simulation()
        self._state = self._goal = np.zeros(7)
        self._way, self._passed = np.zeros((1, 7)), 0
        self.observation_space = gym.spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Image, dict[str, Any]]:
        super().reset(seed=seed)
        states: dict[str, Array] = {}
        for name in ("start", "goal"):
            given = (options or {}).get(name)
            state = random_state(self.np_random) if given is None else np.array(given, np.float64)
            if state.shape != (7,) or not np.isfinite(state).all() or not fits(state):
                raise EchelonError(
                    f"{name}: {state.round(2).tolist()} is no state of agent and block beside each "
                    "other on the table; take seven numbers that 'info' or episodes give"
                )
            states[name] = state
        self._state, self._goal = states["start"], states["goal"]
        way = (options or {}).get("way")
        self._way = self._goal[None] if way is None else np.asarray(way, np.float64)
        self._passed = 0
        goal = draw(self._goal[None], self._size)[0]
        return self.render(), {"goal": goal, **self._info()}

    def step(self, action: Array) -> tuple[Image, float, bool, bool, dict[str, Any]]:
        self.advance(action)
        return self.render(), 0.0, False, False, self._info()

    def advance(self, action: Array) -> Array:
        """The physics of one step without drawing; returns the state."""
        check_action(action)
        world = self._simulation
        self._build()
        agent, block = world.agent, world.block
        move = REACH * np.clip(np.asarray(action, np.float64), -1, 1)
        target = np.clip(np.array(agent.position) + move, LOW + RADIUS, HIGH - RADIUS).tolist()
        for _ in range(round(1 / (world.dt * world.control_hz))):
            now = zip(agent.position, agent.velocity, target, strict=True)
            agent.velocity = tuple(self._steer(*axis) for axis in now)
            world.space.step(world.dt)
            self._keep()
        angle = block.angle % (2 * math.pi)
        self._state = np.array([*agent.position, *block.position, angle, *agent.velocity])
        return self.state

    def ahead(self, cells: int) -> Image:
        """See :class:`echelon.envs.task.KnowsTheWay`; the way is what was logged, on which it has come
        to the state that is most like this one, never back.
        """
        left = self._way[self._passed :]
        apart = np.linalg.norm(left[:, :4] - self._state[:4], axis=1)
        turn = np.abs((left[:, 4] - self._state[4] + np.pi) % (2 * np.pi) - np.pi)
        self._passed += int((apart + NEAR / TURNED * turn).argmin())
        there = min(self._passed + PACE * cells, len(self._way) - 1)
        return draw(self._way[there][None], self._size)[0]

    def render(self) -> Image:  # pyright: ignore[reportIncompatibleMethodOverride]
        return draw(self.state[None], self._size)[0]

    @property
    def state(self) -> Array:
        """``[7]`` as in `info`. It is all that the next one depends on."""
        return self._state.copy()

    def _steer(self, place: float, velocity: float, target: float) -> float:
        """The agent's next velocity along one axis: gym-pusht's controller, within the table."""
        world = self._simulation
        velocity += (world.k_p * (target - place) - world.k_v * velocity) * world.dt
        low, high = LOW + RADIUS - place, HIGH - RADIUS - place
        return min(max(velocity, low / world.dt), high / world.dt)

    def _keep(self) -> None:
        """Put the block back onto the table, and the agent out of the block."""
        agent, block = self._simulation.agent, self._simulation.block
        (block_x, block_y), angle = block.position, block.angle
        cos, sin = math.cos(angle), math.sin(angle)
        for middle_x, middle_y, half_x, half_y in BOXES:
            x = block_x + cos * middle_x - sin * middle_y
            y = block_y + sin * middle_x + cos * middle_y
            reach_x = abs(cos) * half_x + abs(sin) * half_y - OVER
            reach_y = abs(sin) * half_x + abs(cos) * half_y - OVER
            block_x += max(LOW + reach_x - x, 0) - max(x - HIGH + reach_x, 0)
            block_y += max(LOW + reach_y - y, 0) - max(y - HIGH + reach_y, 0)
        if (block_x, block_y) != tuple(block.position):
            block.position = block_x, block_y
        x, y = agent.position
        away, out_x, out_y = gap_between(x - block_x, y - block_y, cos, sin)
        if away < -PRESSED:
            back = -PRESSED - away
            x, y = x + back * out_x, y + back * out_y
            agent.position = tuple(min(max(z, LOW + RADIUS), HIGH - RADIUS) for z in (x, y))
            agent.velocity = 0, 0

    def _build(self) -> None:
        """Make the world as the state has it, for each step anew: pymunk takes up a contact where it
        left off, and what comes of a push would hang on more than the state.
        """
        world, state = self._simulation, self._state.tolist()
        world.reset(options={"reset_to_state": FAR_APART})
        world.agent.position, world.agent.velocity = tuple(state[:2]), tuple(state[5:])
        world.block.angle = state[4]  # about its centre of gravity, which moves its place
        world.block.position = tuple(state[2:4])

    def _info(self) -> dict[str, Any]:
        state = self.state
        success = bool(reached(state, self._goal, self._agent_counts))
        return {"success": success, "state": state, "place": _place(state)}


def _place(state: Array) -> Array:
    """Row and column of the block, in cells."""
    return state[3:1:-1] / CELL


def _simulation() -> Any:
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pygame's greeting
            from gym_pusht.envs.pusht import PushTEnv
    except ImportError as error:
        raise EchelonError("Push-T needs gym-pusht: pip install 'echelon[tasks]'") from error
    return PushTEnv()


# ------------------------------------------------------------------ the task

SPLITS = ("25", "50", "75")
"""steps from start to goal, as logged"""
BUDGETS: Mapping[str, int] = {"25": 50, "50": 100, "75": 150}
"""environment steps of a trial: twice the steps to the goal, as LeWM (config/eval/pusht.yaml) and, for
farther goals, Hi-LeWM allow"""
H_JEPA_BUDGET = 90
"""environment steps that H-JEPA allows where the goal is 75 ahead (its config/eval/pusht_flat.yaml)"""


@dataclass(frozen=True)
class PushTTask:
    """Poses that were pushed to, some steps later."""

    name: str = "push-t"
    agent_counts: bool = True
    """whether the agent's place is part of the goal, as in published work"""

    def make(self, trial: Trial, image_size: int) -> Env:
        return PushT(image_size, self.agent_counts)


def make_trials(
    episodes: Episodes, ids: NDArray[np.int64], per_split: int, seed: int, role: Role
) -> list[LoggedTrial]:
    """Trials of each split, from episodes `ids` that no model was trained on: a state, and the one
    that was reached so many steps later.

    The block has to be moved in each: where its own pose is near enough at the start, there is none.
    An episode, and so every moment in it, belongs to one role for good, since what follows on one
    another in it is much alike. Trials are spread evenly over episodes.
    """
    mine = of_role(episodes, ids, per_split, role, PushT.__name__, "Push-T")
    states = episodes.column("state").astype(np.float64)
    rng = np.random.default_rng((seed, role == "test"))
    trials: list[LoggedTrial] = []
    for split in SPLITS:
        ahead = int(split)
        found: list[tuple[float, int, int]] = []
        for episode in mine:
            first, length = int(episodes.offsets[episode]), int(episodes.lengths[episode])
            own = states[first : first + length]
            open_ = ~reached(own[:-ahead], own[ahead:], agent_counts=False)
            moments = rng.permutation(np.flatnonzero(open_))
            found += [(turn + rng.random(), episode, int(t)) for turn, t in enumerate(moments)]
        if len(found) < per_split:
            raise EchelonError(
                f"trials: {per_split} are too many for the {len(found)} goals {split} steps ahead in "
                f"{len(mine)} episodes held out to {role}; hold out more or longer ones"
            )
        for _, episode, t in sorted(found)[:per_split]:
            way = states[episodes.offsets[episode] + t + np.arange(ahead + 1)]
            start, goal = _place(way[0]), _place(way[-1])
            empty = np.zeros((SIDE // CELL, SIDE // CELL), np.int8)
            trials.append(
                LoggedTrial(split, empty, start, goal, ahead, states=way, source=(episode, t))
            )
    return trials
