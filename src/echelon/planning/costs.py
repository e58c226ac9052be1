"""How far from the goal a predicted trajectory stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from echelon.types import Cost, State


def latent_distance(state: State, goal: State) -> Tensor:
    """Root mean squared difference over the latent, ``z [..., D], z [..., D] -> [...]``."""
    return (state["z"] - goal["z"]).square().mean(-1).sqrt()


def _along(distance: Tensor, minimum: float) -> Tensor:
    """``[B, K, H] -> [B, K]``"""
    return minimum * distance.amin(-1) + (1 - minimum) * distance.mean(-1)


@dataclass(frozen=True)
class LatentCost:
    """Latent distance along a plan: its minimum and its mean.

    The minimum lets a plan pass the goal at any time; the mean rewards getting there early and
    staying. With `minimum` = 1 a plan that arrives at once and one that arrives last cost the same.
    """

    minimum: float = 0.7

    def __call__(self, states: State, goal: State) -> Tensor:
        """``z [B, K, H, D], goal z [B, D] -> [B, K]``"""
        distance = latent_distance(states, {"z": goal["z"][:, None, None]})
        return _along(distance, self.minimum)


@dataclass(frozen=True)
class DistanceCost:
    """The same by a learned distance, such as time apart."""

    distance: Callable[[Tensor, Tensor], Tensor]
    """``z [..., D], goal [..., D] -> [...]``, leading dimensions broadcast"""
    minimum: float = 0.7

    def __call__(self, states: State, goal: State) -> Tensor:
        """``z [B, K, H, D], goal z [B, D] -> [B, K]``"""
        return _along(self.distance(states["z"], goal["z"][:, None, None]), self.minimum)


@dataclass(frozen=True)
class LiftedCost:
    """A cost of the level above, for a search at this one: flat planning with the upper latent."""

    lift: Callable[[State], State]
    cost: Cost = field(default_factory=LatentCost)

    def __call__(self, states: State, goal: State) -> Tensor:
        return self.cost(self.lift(states), self.lift(goal))
