"""Levels that are planned with in reduced precision, on copies of their weights."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from echelon.models.hierarchy import ForeignLevel, LatentState, Level
from echelon.types import ActionPrior, DistanceKind, LevelModel


def in_precision(level: Level, precision: str) -> LevelModel:
    """The level, its predictor in another precision ("float32" is its own). Somebody's own model stays
    as it is.
    """
    if precision == "float32" or isinstance(level, ForeignLevel):
        return level
    return Reduced(level, getattr(torch, precision))


class Reduced:
    """A level with a copy of its predictor whose products are done in a smaller dtype.

    What a step changes is computed so, and added to a state that stays float32: steps are small, and
    a latent rounded at each of them would not move. Distances stay as they are, since a search goes by
    small differences of theirs; so do the level's own weights.
    """

    def __init__(self, level: Level, dtype: torch.dtype) -> None:
        self.stride, self.lower, self.place = level.stride, level.lower, level.place
        self.aim, self.recall, self.encode_action = level.aim, level.recall, level.encode_action
        self._level, self._dtype = level, dtype
        parts = (*level.children(), *level.buffers())
        shared = {id(part): part for part in parts if part is not level.predictor}
        self._copy = copy.deepcopy(level, shared)
        self._copy.predictor.to(dtype).requires_grad_(False)

    def predict(self, state: LatentState, action: Tensor) -> LatentState:
        """See :meth:`Level.predict`."""
        with torch.autocast(action.device.type, self._dtype, cache_enabled=False):
            return self._copy.predict(state, action)

    @property
    def prior(self) -> ActionPrior:
        return self._level.prior

    @property
    def neighbours(self) -> tuple[LatentState, LatentState]:
        return self._level.neighbours

    def measure(self, kind: DistanceKind) -> Callable[[LatentState, LatentState], Tensor]:
        """See :meth:`Level.measure`."""
        return self._level.measure(kind)
