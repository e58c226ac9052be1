"""Four rooms, seen from above, with doors that may be closed and a distractor that teleports.

After the FourRoom Distractors of H-JEPA (arXiv 2610.06805): a world of 224 x 224 units, an agent of
radius 3.5 that moves 2.5 units a step, doors of 16 units, each closed with probability 0.5, and one
distractor that jumps by a Poisson clock. Where walls and doors stand, what they look like, and when a
goal counts as reached, are our own. All lengths here are in cells of 8 units.

`FourRooms` advances and draws any number of worlds at once, on any device; `FourRoom` is one of them as
a Gymnasium environment.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from echelon.data.episodes import EpisodeWriter
from echelon.envs import layouts
from echelon.envs.layouts import Layout
from echelon.envs.noise import correlated
from echelon.envs.task import Array, Env, Image, Role, Trial, check_collection
from echelon.progress import Progress
from echelon.types import EchelonError

SIZE = 28
"""cells along a side"""
WALL = slice(13, 15)
"""rows, and columns, of the two walls within"""
DOORS = (
    (slice(6, 8), WALL),
    (WALL, slice(20, 22)),
    (slice(20, 22), WALL),
    (WALL, slice(6, 8)),
)
"""rows and columns of the door from the first room to the second, and so on, clockwise"""
RADIUS = 3.5 / 8
SPEED = 2.5 / 8
"""cells a step at most"""
CLOSED = 0.5
"""probability of each door"""
JUMP = 1 / 35
"""probability that the distractor is elsewhere after a step"""
REACHED = 1.0
"""cells from the goal that count as there"""
LONGEST = 50
"""cells of a trial's shortest way along rows and columns, which takes 160 steps; H-JEPA allows 210"""
SPLITS = ("1-door", "2-doors", "3-doors")
"""on the shortest way; the second is H-JEPA's task"""

FLOOR, STONE, AGENT, OTHER = (236, 236, 230), (62, 68, 84), (214, 58, 44), (52, 120, 200)
DRAWN = 0.75
"""cells; radius of what moves, drawn larger than it is, which would be a pixel"""

Closed: TypeAlias = Sequence[bool] | NDArray[np.bool_]
"""of each door"""


def rooms(closed: Closed) -> Layout:
    """The layout with some doors closed, ``[28, 28]``."""
    grid = np.zeros((SIZE, SIZE), np.int8)
    grid[[0, -1]] = grid[:, [0, -1]] = 1
    grid[WALL] = grid[:, WALL] = 1
    for door, shut in zip(DOORS, closed, strict=True):
        grid[door] = shut
    return grid


class FourRooms:
    """B worlds at once. Places are ``[B, 2]`` (row, column) in cells."""

    def __init__(
        self, some: NDArray[np.int8], image_size: int, seed: int, device: str = "cpu"
    ) -> None:
        """some: [B, 28, 28], the layouts."""
        self.generator = torch.Generator(device).manual_seed(seed)
        self._walls = torch.from_numpy(np.ascontiguousarray(some)).to(device).bool()
        self._rows = torch.arange(len(some), device=device)
        self._scale = image_size / SIZE
        cells = ((torch.arange(image_size, device=device) + 0.5) / self._scale).long()
        stone, floor = torch.tensor([STONE, FLOOR], dtype=torch.uint8, device=device)
        self._background = torch.where(self._walls[:, cells][:, :, cells, None], stone, floor)
        self.agent = self.random_places()
        self.other = self.random_places()

    def random_places(self) -> Tensor:
        """Middles of free cells."""
        free = (~self._walls).flatten(1).float()
        cell = torch.multinomial(free, 1, generator=self.generator)[:, 0]
        return torch.stack([cell // SIZE, cell % SIZE], 1) + 0.5

    def step(self, actions: Tensor) -> None:
        """actions ``[B, 2]``: parts of full speed, down and right; longer ones are shortened to 1. The
        agent slides along what it runs into, and passes the distractor.
        """
        move = SPEED * actions / actions.norm(dim=1, keepdim=True).clamp_min(1)
        for axis in range(2):
            ahead = self.agent.clone()
            ahead[:, axis] += move[:, axis]
            self.agent = torch.where(self.fits(ahead)[:, None], ahead, self.agent)
        jumps = torch.rand(len(actions), 1, generator=self.generator, device=actions.device) < JUMP
        self.other = torch.where(jumps, self.random_places(), self.other)

    def fits(self, places: Tensor) -> Tensor:
        """``[B]``: whether no corner of a square about the agent is in a wall."""
        free = torch.ones_like(self._rows, dtype=torch.bool)
        for down, right in itertools.product((-RADIUS, RADIUS), repeat=2):
            row, column = (places + places.new_tensor([down, right])).long().unbind(1)
            free &= ~self._walls[self._rows, row, column]
        return free

    def images(self, agent: Tensor | None = None) -> Tensor:
        """``[B, S, S, 3] uint8`` of now, or with the agent elsewhere."""
        images = self._background.clone()
        self._stamp(images, self.other, OTHER)
        self._stamp(images, self.agent if agent is None else agent, AGENT)
        return images

    def _stamp(self, images: Tensor, places: Tensor, colour: tuple[int, ...]) -> None:
        """Draw a disc into each image."""
        centre, reach = places * self._scale, math.ceil(DRAWN * self._scale) + 1
        span = torch.arange(-reach, reach + 1, device=places.device)
        pixels = centre.long()[:, :, None] + span
        row, column = (pixels + 0.5 - centre[:, :, None]).square().unbind(1)
        distance = (row[:, :, None] + column[:, None]).sqrt()
        cover = (DRAWN * self._scale + 0.5 - distance).clamp(0, 1)[..., None]
        rows, columns = pixels.clamp(0, images.shape[1] - 1).unbind(1)
        where = self._rows[:, None, None], rows[:, :, None], columns[:, None]
        under = images[where].float()
        images[where] = (under + cover * (under.new_tensor(colour) - under)).round().byte()


class FourRoom(gym.Env[Image, Array]):
    """One world. `reset(options={"start": cells, "goal": cells})` sets both, else they are drawn.

    `info` has "goal" (an image, in which the distractor is somewhere), "success", and "state": row and
    column of the agent, then of the distractor.
    """

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, layout: Layout, image_size: int = 56) -> None:
        self.layout, self.render_mode = layout, "rgb_array"
        self._size = image_size
        self._world = FourRooms(layout[None], image_size, 0)
        self._goal = np.zeros(2)
        self.observation_space = gym.spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Image, dict[str, Any]]:
        super().reset(seed=seed)
        drawn = int(self.np_random.integers(2**31))
        world = self._world = FourRooms(self.layout[None], self._size, drawn)
        places: dict[str, Tensor] = {}
        for name in ("start", "goal"):
            given = (options or {}).get(name)
            place = world.random_places() if given is None else torch.tensor(np.array(given))[None]
            inside = ((place >= 1) & (place <= SIZE - 1)).all() and world.fits(place).all()
            if not inside:
                raise EchelonError(
                    f"{name}: {place[0].tolist()} lies in a wall or outside; choose a free cell"
                )
            places[name] = place.float()
        self._goal = places["goal"][0].numpy()
        goal = world.images(places["goal"])[0].numpy()
        world.agent, world.other = places["start"], world.random_places()
        return self.render(), {"goal": goal, **self._info()}

    def step(self, action: Array) -> tuple[Image, float, bool, bool, dict[str, Any]]:
        self._world.step(torch.from_numpy(np.asarray(action, np.float32))[None])
        return self.render(), 0.0, False, False, self._info()

    def render(self) -> Image:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._world.images()[0].numpy()

    def ahead(self, cells: int) -> Image:
        """See :class:`echelon.envs.task.KnowsTheWay`."""
        there = layouts.ahead(self.layout, self._world.agent[0].numpy(), self._goal, cells)
        place = torch.tensor(there, dtype=torch.float32)[None]
        return self._world.images(place)[0].numpy()

    def _info(self) -> dict[str, Any]:
        agent, other = self._world.agent[0].numpy(), self._world.other[0].numpy()
        near = np.linalg.norm(agent - self._goal) <= REACHED
        return {"success": bool(near), "state": np.concatenate([agent, other])}


# ------------------------------------------------------------------ the task


@dataclass(frozen=True)
class FourRoomTask:
    """Ways through one, two or three doors."""

    name: str = "four-room"

    def make(self, trial: Trial, image_size: int) -> Env:
        return FourRoom(trial.layout, image_size)


def make_trials(split: str, count: int, seed: int, role: Role) -> list[Trial]:
    """Trials of one split, each in a layout of its own.

    Every pair of a start cell and a goal cell belongs to one role for good. No episode begins at such a
    start: those begin in the middle of a cell.
    """
    if split not in SPLITS:
        raise EchelonError(f"split: there is no {split}; use {', '.join(SPLITS)}")
    if count < 1:
        raise EchelonError(f"trials: {count} measure nothing; use at least 1")
    doors = SPLITS.index(split) + 1
    inside = np.stack(np.nonzero(rooms((True,) * len(DOORS)) == 0), 1)
    is_test = np.random.default_rng(2026).random((len(inside), len(inside))) < 0.5
    rng = np.random.default_rng((seed, role == "test", doors))
    found: list[Trial] = []
    while len(found) < count:
        closed = rng.random(len(DOORS)) < CLOSED
        pair = rng.integers(len(inside), size=2)
        start, goal = inside[pair]
        if is_test[tuple(pair)] != (role == "test") or doors_between(closed, start, goal) != doors:
            continue
        layout = rooms(closed)
        distance = layouts.distances(layout, (start[0], start[1]))[tuple(goal)]
        if distance > LONGEST:
            continue
        start, goal = np.stack([start, goal]) + 0.5 + rng.uniform(-0.05, 0.05, (2, 2))
        chance = int(rng.integers(2**31))
        found.append(Trial(split, layout, start, goal, int(distance), chance))
    return found


def doors_between(closed: Closed, start: NDArray[np.int64], goal: NDArray[np.int64]) -> int | None:
    """On the way from a cell to another that passes the fewest; None where there is no way."""
    first, last = (_room(cell) for cell in (start, goal))
    ways = [[(first + i) % 4 for i in range((last - first) % 4)]]  # clockwise, door by door
    ways += [[(last + i) % 4 for i in range((first - last) % 4)]]
    return min((len(way) for way in ways if not any(closed[door] for door in way)), default=None)


def _room(cell: NDArray[np.int64]) -> int:
    """Its number, clockwise from the first row and column."""
    down, right = (bool(x >= WALL.stop) for x in cell)
    return 3 - right if down else int(right)


# ------------------------------------------------------------------ experience

TOGETHER = 32
"""episodes that are collected at once"""
AHEAD = 3
"""cells along its way that the expert aims for"""


@dataclass(frozen=True)
class FourRoomCollect:
    """Logged episodes: a noisy expert on its way from goal to goal, or one that explores."""

    episodes: int = 600
    steps: int = 400
    """actions an episode"""
    expert: float = 0.5
    """share of the episodes"""
    noise: float = 0.5
    """of the expert's actions, in parts of full speed"""
    correlations: tuple[float, ...] = (0.9, 0.95, 0.98)
    """of what is random, from one step to the next; each episode draws one"""
    image_size: int = 56
    seed: int = 0

    def __post_init__(self) -> None:
        check_collection(self.episodes, self.steps, self.image_size, self.correlations)
        if not 0 <= self.expert <= 1 or self.noise < 0:
            raise EchelonError("expert: a share, between 0 and 1; and noise must not be below 0")


def collect(config: FourRoomCollect, path: Path, progress: Progress) -> None:
    """Write the episodes of `config` to an HDF5 file, with the true state as a column of its own."""
    meta = {"task": FourRoomTask().name, "env": FourRoom.__name__}
    order = np.random.default_rng(config.seed).permutation(config.episodes)
    with (
        EpisodeWriter(path, meta) as writer,
        progress.task("collect", config.episodes) as advance,
    ):
        for first in range(0, config.episodes, TOGETHER):
            expert = order[first : first + TOGETHER] < config.expert * config.episodes
            for episode in _episodes(config, first, expert):
                writer.add(episode)
                advance(None)


def _episodes(
    config: FourRoomCollect, first: int, expert: NDArray[np.bool_]
) -> list[dict[str, NDArray[Any]]]:
    """Some episodes, side by side, from number `first` on; `expert` says which of them are one's."""
    count = len(expert)
    rng = np.random.default_rng((config.seed, first))
    some = np.stack([rooms(rng.random(len(DOORS)) < CLOSED) for _ in range(count)])
    world = FourRooms(some, config.image_size, int(rng.integers(2**31)))
    experts = {int(i): _Expert(some[i], rng) for i in np.flatnonzero(expert)}
    correlation = rng.choice(config.correlations, count)[:, None]
    noise = correlated(rng, correlation, (count, 2))
    frames, states, actions = list[Tensor](), list[Tensor](), list[NDArray[np.float64]]()
    for step in range(config.steps + 1):
        frames.append(world.images())
        states.append(torch.cat([world.agent, world.other], 1))
        if step == config.steps:
            break
        action = next(noise).copy()
        places = world.agent.tolist()
        for i, guide in experts.items():
            action[i] = guide.direction(places[i]) + config.noise * action[i]
        actions.append(np.clip(action, -1, 1))
        world.step(torch.from_numpy(actions[-1]).float())
    pixels, state = torch.stack(frames, 1).numpy(), torch.stack(states, 1).numpy()
    action = np.stack(actions, 1).astype(np.float32)
    return [{"pixels": pixels[i], "action": action[i], "state": state[i]} for i in range(count)]


class _Expert:
    """Knows the layout, and goes from one goal to the next."""

    def __init__(self, layout: Layout, rng: np.random.Generator) -> None:
        self._layout, self._rng = layout, rng
        self._field = np.zeros(layout.shape, np.int64)

    def direction(self, place: list[float]) -> NDArray[np.float64]:
        """A vector of full speed along the shortest way."""
        cell = (int(place[0]), int(place[1]))
        if self._field[cell] == 0:
            self._field = layouts.distances(self._layout, self._goal(cell))
        way = np.array(layouts.onward(self._field, cell, AHEAD)) + 0.5 - place
        return way / max(float(np.linalg.norm(way)), 1e-6)

    def _goal(self, cell: tuple[int, int]) -> tuple[int, int]:
        """A free cell that can be reached."""
        reached = np.argwhere(layouts.distances(self._layout, cell) > 0)
        row, column = reached[self._rng.integers(len(reached))]
        return int(row), int(column)
