"""How far from the goal a predicted trajectory stays, and which distance says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from echelon.config import PlannerConfig
from echelon.types import Cost, DistanceKind, EchelonError, LevelModel, State, tree_map

Distance = Callable[[State, State], Tensor]


@dataclass(frozen=True)
class DistanceCost:
    """Distance to the goal along a plan: shares of its minimum, its last and its mean.

    The minimum lets a plan pass the goal at any time; the mean rewards getting there early and
    staying; the last alone is the terminal value of a search, and measures no other state.
    """

    distance: Distance
    """such as a level's, of its latents or learned"""
    minimum: float = 0.7
    last: float = 0.0

    def __call__(self, states: State, goal: State) -> Tensor:
        """``states [B, K, H, ...], goal [B, ...] -> [B, K]``"""
        if self.last == 1:
            states = tree_map(lambda x: x[:, :, -1:], states)
        distance = self.distance(states, tree_map(lambda x: x[:, None, None], goal))
        mean = 1 - self.minimum - self.last
        cost = self.minimum * distance.amin(-1) + mean * distance.mean(-1)
        return cost + self.last * distance[..., -1] if self.last else cost


def cost_of(levels: Sequence[LevelModel], configs: Sequence[PlannerConfig], index: int) -> Cost:
    """What the search at a level descends, as its configuration says."""
    config = configs[index]
    above = configs[index + 1] if index + 1 < len(configs) else None
    if above is not None and above.hand_down == "lift":
        if above.cost == "upper":
            raise EchelonError(
                "hand_down: 'lift' judges by a distance of the level's own, not 'upper'"
            )
        distance = lifted(levels[index + 1], above.cost)
    elif config.cost == "upper":
        if index + 1 == len(levels):
            raise EchelonError("cost: 'upper' needs a level above the one that plans")
        distance = lifted(levels[index + 1], "level")
    else:
        distance = levels[index].measure(config.cost)
    return DistanceCost(distance, config.minimum, config.last)


def lifted(upper: LevelModel, kind: DistanceKind) -> Distance:
    """The distance of the level above, for states of this one; a goal is lifted too, where it does not
    say already what it is "above".
    """
    measure = upper.measure(kind)

    def distance(state: State, goal: State) -> Tensor:
        asked = goal["above"] if "above" in goal else upper.place(goal)
        return measure(upper.place(state), asked)

    return distance
