"""What a task is to those who judge planners: trials, and the environment that each is held in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from echelon.types import EchelonError

Array = NDArray[np.floating[Any]]
Image = NDArray[np.uint8]
Env = gym.Env[Image, Array]
Role = Literal["test", "tune"]
"""what trials are for: nothing is judged by those that it was chosen by"""


@dataclass(frozen=True)
class Trial:
    """One start and goal, as the environment's `reset` takes them."""

    split: str
    layout: NDArray[np.int8]
    """what stands still, as a grid of 1 (wall) and 0 (free)"""
    start: Array
    goal: Array
    distance: int
    """how far the goal is, in the task's own unit, such as cells of the shortest path"""
    seed: int = 0
    """of what happens by chance"""

    @property
    def options(self) -> Mapping[str, Any]:
        """What `reset` is given."""
        return {"start": self.start, "goal": self.goal}


def check_collection(
    episodes: int,
    steps: int,
    image_size: int,
    correlations: Sequence[float],
    noise: tuple[float, float] = (0.0, 0.0),
) -> None:
    """What every collection must keep to; EchelonError otherwise."""
    if episodes < 2 or steps < 1:
        raise EchelonError("collect: at least two episodes of at least one step are needed")
    if image_size % 8 or image_size < 8:
        raise EchelonError("image-size: must be a multiple of 8")
    if not correlations or not all(0 <= c < 1 for c in correlations):
        raise EchelonError("correlations: at least one, each at least 0 and below 1")
    if not 0 <= noise[0] <= noise[1]:
        raise EchelonError("noise: the least and the most, at least 0")


def sound(state: Array, turn: slice) -> bool:
    """Whether a body's state is all finite, and its turn a unit quaternion."""
    return bool(np.isfinite(state).all() and abs(np.linalg.norm(state[turn]) - 1) < 1e-3)


def check_action(action: Array) -> None:
    """EchelonError where physics could not go on from it."""
    if not np.isfinite(action).all():
        raise EchelonError(f"action: {np.asarray(action).tolist()} is not finite")


@runtime_checkable
class KnowsTheWay(Protocol):
    """An environment that can tell the way, for controls alone: no model or planner is told."""

    def ahead(self, cells: int) -> Image:
        """What would be seen so many cells farther along the shortest way to the goal, at rest; the
        goal, where that is no farther.
        """
        ...


class Task(Protocol):
    """What trials are held in. An environment observes by images; its `info` has "success" and
    "state", whose first two numbers are the place that pictures show, in (row, column) cells of the
    layout, unless "place" is, and, after `reset`, "goal", an image. "proprio", where it is, is what a
    body senses of itself; a model that was trained with it is told it beside images.
    """

    @property
    def name(self) -> str:
        """What records call it."""
        ...

    def make(self, trial: Trial, image_size: int) -> Env:
        """The environment of one trial, to be reset with the trial's seed and options."""
        ...
