"""How far from the goal a predicted trajectory stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from echelon.types import Cost, State, tree_map


@dataclass(frozen=True)
class DistanceCost:
    """Distance to the goal along a plan: its minimum and its mean.

    The minimum lets a plan pass the goal at any time; the mean rewards getting there early and
    staying. With `minimum` = 1 a plan that arrives at once and one that arrives last cost the same.
    """

    distance: Callable[[State, State], Tensor]
    """such as a level's, of its latents or learned"""
    minimum: float = 0.7

    def __call__(self, states: State, goal: State) -> Tensor:
        """``states [B, K, H, ...], goal [B, ...] -> [B, K]``"""
        distance = self.distance(states, tree_map(lambda x: x[:, None, None], goal))
        return self.minimum * distance.amin(-1) + (1 - self.minimum) * distance.mean(-1)


@dataclass(frozen=True)
class LiftedCost:
    """A cost of the level above, for a search at this one: flat planning with the upper latent."""

    lift: Callable[[State], State]
    cost: Cost

    def __call__(self, states: State, goal: State) -> Tensor:
        return self.cost(self.lift(states), self.lift(goal))
