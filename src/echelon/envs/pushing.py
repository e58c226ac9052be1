"""Experience in Push-T: scripted pushing with contact and noise, without a goal and without reward."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from echelon.data.episodes import EpisodeWriter
from echelon.envs.noise import correlated
from echelon.envs.push_t import REACH, PushT, PushTTask, random_state
from echelon.envs.t_block import BOXES, HIGH, LOW, MIDDLE, RADIUS, draw, gap
from echelon.envs.task import Array, check_collection
from echelon.progress import Progress
from echelon.types import EchelonError

AROUND = 105.0
"""px from the block's centre of gravity at which the agent goes around it"""
BEHIND = 8.0
"""px between agent and block where a push begins"""
ROOM = 85.0
"""px from the walls that the block's centre of gravity is to keep"""
TRIES = 30
"""pushes to draw, for one that has room"""
PATIENCE = 40
"""steps that may be spent on the way to a push"""


@dataclass(frozen=True)
class PushTCollect:
    """Logged pushing: to a point of the block's outline, on through it for a while, then to another."""

    episodes: int = 1000
    steps: int = 150
    """actions an episode, each a tenth of a second"""
    speeds: tuple[float, float] = (0.15, 0.4)
    """least and most of an action that pushes, in parts of 100 px; each push draws one"""
    pushes: tuple[int, int] = (10, 35)
    """least and most steps of a push"""
    slant: float = 0.8
    """radians, the most that a push is off the block's edge's normal"""
    noise: float = 0.1
    """of every action, in parts of 100 px"""
    correlations: tuple[float, ...] = (0.5, 0.8, 0.95)
    """of the noise, from one step to the next; each episode draws one"""
    image_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        check_collection(self.episodes, self.steps, self.image_size, self.correlations)
        if not 0 < self.speeds[0] <= self.speeds[1] <= 1:
            raise EchelonError("speeds: the least and the most, above 0 and at most 1")
        if not 1 <= self.pushes[0] <= self.pushes[1]:
            raise EchelonError("pushes: the least and the most steps, at least 1")
        if self.noise < 0 or not 0 <= self.slant < np.pi / 2:
            raise EchelonError("noise: must not be below 0; and slant must be below pi / 2")


def collect(config: PushTCollect, path: Path, progress: Progress) -> None:
    """Write the episodes of `config` to an HDF5 file, with the true state as a column of its own.

    Columns "action" and "state" are what :class:`PushT` says of them; "state" is in the order of
    stable-worldmodel's, and in double precision, so that pushing can be repeated from it.
    """
    env = PushT(config.image_size)
    meta = {"task": PushTTask().name, "env": PushT.__name__}
    with (
        EpisodeWriter(path, meta) as writer,
        progress.task("collect", config.episodes) as advance,
    ):
        for episode in range(config.episodes):
            states, actions = _explore(config, env, np.random.default_rng((config.seed, episode)))
            writer.add(
                {"pixels": draw(states, config.image_size), "action": actions, "state": states}
            )
            advance(None)


def _explore(
    config: PushTCollect, env: PushT, rng: np.random.Generator
) -> tuple[Array, NDArray[np.float32]]:
    """States [T + 1, 7] and actions [T, 2] of one episode."""
    start = random_state(rng)
    env.reset(options={"start": start, "goal": start})
    pusher = _Pusher(config, rng)
    noise = correlated(rng, rng.choice(config.correlations), (2,))
    states, actions = [env.state], list[NDArray[np.float32]]()
    for extra in islice(noise, config.steps):
        action = pusher.action(states[-1]) + config.noise * extra
        actions.append(np.clip(action, -1, 1).astype(np.float32))
        states.append(env.advance(actions[-1]))
    return np.array(states), np.array(actions)


class _Pusher:
    """Knows where things are, and pushes one point of the block's outline after the other."""

    def __init__(self, config: PushTCollect, rng: np.random.Generator) -> None:
        self._config, self._rng = config, rng
        self._left = self._waited = 0
        self._pushing = False
        self._point = self._way = np.zeros(2)
        self._speed = 0.0

    def action(self, state: Array) -> Array:
        """What to do next, without noise."""
        if self._left <= 0 or self._waited > PATIENCE:
            self._choose(state)
        if not self._pushing:
            self._waited += 1
            there = _to_table(state, self._point - self._way * (RADIUS + BEHIND))
            if np.linalg.norm(there - state[:2]) > 12:
                return self._go(state, there)
            self._pushing = True
        self._left -= 1
        lost = gap(state)[0] > 4 * BEHIND
        at_wall = np.minimum(state[:2] - LOW, HIGH - state[:2]).min() < RADIUS + 1
        if lost or at_wall:
            self._left = 0
        return self._speed * _turned(self._way, state[4])

    def _choose(self, state: Array) -> None:
        """Draw pushes until there is room behind the block to begin and before it to end."""
        rng, config = self._rng, self._config
        self._pushing, self._waited = False, 0
        for _ in range(TRIES):
            self._point, normal = _on_outline(rng)
            self._way = _turned(normal, rng.uniform(-config.slant, config.slant))
            self._speed = rng.uniform(*config.speeds)
            self._left = int(rng.integers(config.pushes[0], config.pushes[1] + 1))
            begin = _to_table(state, self._point - self._way * (RADIUS + BEHIND))
            middle = _to_table(state, np.array([0.0, MIDDLE]))
            end = middle + _turned(self._way, state[4]) * 0.4 * REACH * self._speed * self._left
            if _inside(begin, RADIUS) and _inside(end, ROOM):
                return

    def _go(self, state: Array, there: Array) -> Array:
        """At full speed to a place beside the block, around it where it is in the way."""
        agent, middle = state[:2], _to_table(state, np.array([0.0, MIDDLE]))
        way, out = there - agent, agent - middle
        along = np.clip(-(out @ way) / (way @ way), 0, 1)
        nearest = gap(np.concatenate([agent + along * way, state[2:]]))[0]
        if nearest < BEHIND / 2 and along < 1:
            side = np.sign(out[0] * way[1] - out[1] * way[0]) or 1.0
            around = _turned(out / max(float(np.linalg.norm(out)), 1e-6), side * 0.7)
            way = middle + AROUND * around - agent
            way = np.clip(agent + way, LOW + RADIUS, HIGH - RADIUS) - agent
        return 1.5 * way / max(float(np.linalg.norm(way)), REACH)


def _on_outline(rng: np.random.Generator) -> tuple[Array, Array]:
    """A point of the block's outline and the direction into the block there, in its own axes."""
    while True:
        x, y, half_x, half_y = BOXES[rng.integers(2)]
        turn = int(rng.integers(4))
        normal = np.array([(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)][turn])
        half = np.array([half_x, half_y])
        place = np.where(normal == 0, rng.uniform(-1, 1, 2), -normal)
        point = np.array([x, y]) + half * place
        touching = np.concatenate([point - normal * (RADIUS + 1), np.zeros(5)])
        if gap(touching)[0] > 0:
            return point, normal


def _to_table(state: Array, place: Array) -> Array:
    """From the block's axes."""
    return state[2:4] + _turned(place, state[4])


def _turned(vector: Array, angle: float) -> Array:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([cos * vector[0] - sin * vector[1], sin * vector[0] + cos * vector[1]])


def _inside(place: Array, room: float) -> bool:
    return bool((place > LOW + room).all() and (place < HIGH - room).all())
