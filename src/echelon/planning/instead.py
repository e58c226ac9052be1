"""Goals of a level below that may make for the goal itself, where it comes nearer to that than the plan
above promises to.
"""

from __future__ import annotations

import torch
from torch import Tensor

from echelon.types import Cost, State, tree_map

MISTRUST = 1.5
"""times as far from the goal as a level above means to come, which is the best of many guesses"""
PARTS = ("instead", "promise")


def judged(cost: Cost, states: State, goal: State) -> Tensor:
    """``states [B, K, H, ...], goal [B, ...] -> [B, K]``: how near plans come to the goal; or to what
    they may make for "instead", where a "promise" ``[B]`` says how near the goal would bring them.
    """
    asked = cost(states, goal)
    if not offers(goal):
        return asked
    return torch.minimum(asked + goal["promise"][:, None], cost(states, goal["instead"]))


def promised(cost: Cost, way: State, goal: State) -> Tensor:
    """``way [B, H, ...], goal [B, ...] -> [B]``: how near one plan is taken to come."""
    return MISTRUST * judged(cost, tree_map(lambda x: x[:, None], way), goal).squeeze(1)


def either(
    known: tuple[State, ...], new: tuple[State, ...], promise: Tensor
) -> tuple[tuple[State, ...], tuple[State, ...]]:
    """The goals of levels below, those they know and new ones on the way there ``[B, ...]``, each with
    what may be made for instead.
    """
    beyond = [goal.get("instead", plain(goal)) for goal in known]
    none = torch.zeros_like(promise)
    kept = tuple(
        goal | {"instead": there, "promise": goal.get("promise", none)}
        for goal, there in zip(known, beyond, strict=True)
    )
    lowered = tuple(
        goal | {"instead": there, "promise": promise}
        for goal, there in zip(new, beyond, strict=True)
    )
    return kept, lowered


def offers(goal: State) -> bool:
    """Whether something else than the goal may be made for; a state may be any tree."""
    return isinstance(goal, dict) and "instead" in goal


def plain(goal: State) -> State:
    """The goal alone."""
    return {part: goal[part] for part in goal if part not in PARTS} if offers(goal) else goal
