"""What a level below is asked for: a state on the way, the goal itself, or either of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from echelon.types import Cost, Plan, State, tree_at, tree_map

if TYPE_CHECKING:
    from echelon.planning.planner import Planner

MISTRUST = 1.5
"""times as far from the goal as a level above means to come, which is the best of many guesses"""
PARTS = ("instead", "promise")


def hand_down(planner: Planner, plan: Plan, states: tuple[State, ...]) -> tuple[State, ...]:
    """The predicted state that is pursued, as each level below is asked for it, or the goal itself
    where it is near.

    states: ``[B, ...]`` where each of them sees the environments.
    """

    def nearer(goal: Tensor, subgoal: Tensor) -> Tensor:
        return torch.where(plan.direct.reshape(-1, *[1] * (goal.ndim - 1)), goal, subgoal)

    goals = known(planner, plan.goals)
    subgoals = lower(planner, tree_at(plan.states, plan.aim), states)
    if planner.config.hand_down == "either":
        goals, subgoals = either(goals, subgoals, promise(planner, plan.states, plan.goals))
    else:
        goals = tuple(plain(goal) for goal in goals)
    return tuple(tree_map(nearer, *pair) for pair in zip(goals, subgoals, strict=True))


def lower(planner: Planner, subgoal: State, states: tuple[State, ...]) -> tuple[State, ...]:
    """A state of a planner's level ``[B, ...]`` as the goal of each level below, level 0 first.

    states: ``[B, ...]`` where each of them sees the environments.
    """
    goals: list[State] = []
    for here in reversed(states):
        assert planner.below is not None
        lowered = planner.level.lower(subgoal)
        goals.insert(0, _asked(planner, near(planner.below, lowered, here), subgoal))
        planner, subgoal = planner.below, lowered
    return tuple(goals)


def known(planner: Planner, goals: tuple[State, ...]) -> tuple[State, ...]:
    """A goal that each level knows as the goal of each level below."""
    if planner.below is None:
        return ()
    return (*known(planner.below, goals[:-1]), _asked(planner, goals[-2], goals[-1]))


def near(planner: Planner, state: State, here: State) -> State:
    """A state of a planner's level ``[B, ...]`` as what a level above asks for. Only where there are
    levels below may that be far, and have the ways there measured.

    here: ``[B, ...]`` where the level sees each environment.
    """
    return planner.level.aim(planner.kind if planner.below else "latent", state, here)


def _asked(planner: Planner, lowered: State, goal: State) -> State:
    """What the level below is asked for: a state of its own, with that of the planner's level beside it
    where it is judged by that.
    """
    if planner.config.hand_down != "lift":
        return lowered
    said = {part: goal[part] for part in goal if part not in ("above", "field", *PARTS)}
    return lowered | {"above": said}


# ------------------------------------------------------------------ either a subgoal or the goal


def promise(planner: Planner, way: State, goals: tuple[State, ...]) -> Tensor:
    """``[B]`` how near states ``[B, H, ...]`` are taken to come to the goal, as the level below
    measures it.
    """
    assert planner.below is not None
    one = tree_map(lambda x: x[:, None], planner.level.lower(way))
    return MISTRUST * judged(planner.below.cost, one, goals[-2]).squeeze(1)


def judged(cost: Cost, states: State, goal: State) -> Tensor:
    """``states [B, K, H, ...], goal [B, ...] -> [B, K]``: how near plans come to the goal; or to what
    they may make for "instead", where a "promise" ``[B]`` says how near the goal would bring them.
    """
    asked = cost(states, goal)
    if not offers(goal):
        return asked
    return torch.minimum(asked + goal["promise"][:, None], cost(states, goal["instead"]))


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
