"""Trials whose goals are states that episodes reached, which no model was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from echelon.data.episodes import Episodes
from echelon.envs.task import Array, Role, Trial
from echelon.types import EchelonError


@dataclass(frozen=True, kw_only=True)
class LoggedTrial(Trial):
    """`start` and `goal` are places of what is moved, in cells of an empty layout, for pictures."""

    states: Array
    """[T, S] from the start to the goal, as logged"""
    source: tuple[int, int]
    """the episode, and the step of it that is the start"""

    @property
    def options(self) -> Mapping[str, Any]:
        return {"start": self.states[0], "goal": self.states[-1], "way": self.states}


def of_role(
    episodes: Episodes, ids: NDArray[np.int64], per_split: int, role: Role, env: str, name: str
) -> list[int]:
    """Those of the episodes `ids` that are for a role. An episode, and so every moment in it, is for
    one for good. EchelonError where they are of another environment than `env`, which users know by
    `name`, or no trial is asked for.
    """
    if episodes.meta.get("env") != env:
        raise EchelonError(
            f"{episodes.path}: holds no {name}; record it with 'echelon collect {name.lower()}'"
        )
    if per_split < 1:
        raise EchelonError(f"trials: {per_split} measure nothing; use at least 1")
    return [int(i) for i in ids if _is_test(int(i)) == (role == "test")]


def _is_test(episode: int) -> bool:
    return bool(np.random.default_rng((2026, episode)).random() < 0.5)
