"""Trials in mazes: starts and goals so many cells apart, in layouts trained in or never seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from echelon.envs import layouts
from echelon.envs.layouts import Layout
from echelon.envs.point_maze import SUCCESS_RADIUS, PointMaze
from echelon.envs.task import Env, Role, Trial
from echelon.types import EchelonError

BINS = ("1-4", "5-8", "9+")
"""shortest path in cells"""
ENDLESS = 10**6
HELD_OUT_LAYOUTS = "held-out-layouts"


@dataclass(frozen=True)
class MazeTask:
    """The ball of :class:`PointMaze` in any layout."""

    name: str = "point-maze"
    action_repeat: int = 4
    """simulator steps that an action is held"""
    radius: float = SUCCESS_RADIUS
    """cells from the goal that count as there"""

    def make(self, trial: Trial, image_size: int) -> Env:
        return PointMaze(trial.layout, image_size, self.action_repeat, self.radius)

    def meta(self, some: Sequence[Layout]) -> dict[str, Any]:
        """What episodes that were collected in some layouts say of that."""
        return {
            "task": self.name,
            "env": PointMaze.__name__,
            "action_repeat": self.action_repeat,
            "radius": self.radius,
            "layouts": [layout.tolist() for layout in some],
        }

    @staticmethod
    def of(meta: Mapping[str, Any]) -> MazeTask | None:
        """The task that episodes with such words were collected in; None is another one."""
        if meta.get("env") != PointMaze.__name__:
            return None
        return MazeTask(meta["task"], meta["action_repeat"], meta["radius"])

    @staticmethod
    def layouts_of(meta: Mapping[str, Any]) -> list[Layout]:
        """The layouts that they were collected in; column "layout" numbers them where there are
        several.
        """
        return [np.array(layout, np.int8) for layout in meta["layouts"]]


def make_trials(
    layout: Layout, per_split: int, seed: int, role: Role, splits: Sequence[str]
) -> list[Trial]:
    """Trials of some distance bins.

    Every (start cell, goal cell) pair belongs to one role for good, by a draw that depends on the
    layout alone, so that what settings were tuned on is never what they are tested on.
    """
    if per_split < 1:
        raise EchelonError(f"trials: {per_split} measure nothing; use at least 1")
    cells, length = layouts.free_cells(layout), layouts.between(layout)
    rng = np.random.default_rng((seed, role == "test"))
    trials: list[Trial] = []
    for split in splits:
        pairs = _pairs(length, role, split)
        if len(pairs) == 0:
            raise EchelonError(
                f"trials: no two cells of this layout are {split.replace('+', ' or more')} cells "
                "apart; use another maze"
            )
        for i, j in pairs[rng.integers(len(pairs), size=per_split)]:
            start, goal = (cells[k] + 0.5 + rng.uniform(-0.25, 0.25, 2) for k in (i, j))
            trials.append(Trial(split, layout, start, goal, int(length[i, j])))
    return trials


def farthest(some: Sequence[Layout], role: Role) -> str | None:
    """The farthest of `BINS` that every layout has trials in; None where there is no such."""
    lengths = [layouts.between(layout) for layout in some]
    found = (split for split in reversed(BINS) if all(len(_pairs(x, role, split)) for x in lengths))
    return next(found, None)


def _pairs(length: NDArray[np.int64], role: Role, split: str) -> NDArray[np.int64]:
    """``[N, 2]`` of the start and goal cells, so many apart, that belong to a role."""
    low, high = _cells(split)
    is_test = np.random.default_rng(2026).random(length.shape) < 0.5
    mine = is_test if role == "test" else ~is_test
    return np.argwhere(mine & (length >= low) & (length <= high))


def spread_trials(
    some: Sequence[Layout], per_split: int, seed: int, role: Role, splits: Sequence[str]
) -> list[Trial]:
    """As many trials a split, spread evenly over layouts; at least one in each."""
    if per_split < len(some):
        raise EchelonError(
            f"trials: {per_split} are too few for {len(some)} layouts; use a multiple of that"
        )
    shares = [len(share) for share in np.array_split(np.arange(per_split), len(some))]
    return [
        trial
        for layout, share in zip(some, shares, strict=True)
        for trial in make_trials(layout, share, seed, role, splits)
    ]


def _cells(split: str) -> tuple[int, int]:
    """The least and the longest shortest path of a split such as "3", "5-8" or "9+"; any, of other
    names.
    """
    low, _, high = split.removesuffix("+").partition("-")
    if not low.isdigit():
        return 1, ENDLESS
    return int(low), ENDLESS if split.endswith("+") else int(high or low)
