"""Whether the level below can reach what it would be asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from echelon.planning.subgoals import lower
from echelon.types import AROUND, Plan, Spent, State, never, tree_leading, tree_map, tree_rows

if TYPE_CHECKING:
    from echelon.planning.planner import Planner


@dataclass(frozen=True)
class Search:
    """What all searches of one call share."""

    now: int
    generator: torch.Generator
    effort: float = 1.0
    stop: Callable[[], bool] = never


def choose(
    planner: Planner,
    states: tuple[State, ...],
    predicted: State,
    below: Plan | None,
    search: Search,
) -> tuple[Tensor, Plan, Spent]:
    """``[B]`` which of a planner's plans ``predicted [B, M, H, ...]`` to take: the first, and so the
    cheapest, whose first subgoal the level below means to come near; else the one it means to come
    nearest. With how the level below would begin, and what it took to find out.

    states: of the levels below. below: the plans of the level below so far, to start from.
    """
    batch, options = tree_leading(predicted, 2)
    every = torch.arange(batch, device=search.generator.device).repeat_interleave(options)
    first = tree_map(lambda x: x[:, :, 0].flatten(0, 1), predicted)
    old = None if below is None else below.select(every)
    left, there = attempt(planner, tree_rows(states, every), first, old, search)
    left = left.unflatten(0, (batch, options))
    fits = left <= planner.config.reach
    best = torch.where(fits.any(1), fits.long().argmax(1), left.argmin(1))
    calls, macs = (
        x.unflatten(0, (batch, options)).sum(1) for x in (there.spent.calls, there.spent.macs)
    )
    mine = torch.arange(batch, device=best.device) * options + best
    macs = macs + options * planner.prices.attempt(states, there.goals[-1], first)
    return best, there.select(mine).at_rest(), Spent(calls, macs)


def attempt(
    planner: Planner, states: tuple[State, ...], subgoal: State, old: Plan | None, search: Search
) -> tuple[Tensor, Plan]:
    """``[B]`` the share of the way to a state of a planner's level that is left at the nearest place to
    which the level below would go from `states`; and its plan.
    """
    below, goals = planner.below, lower(planner, subgoal, states)
    assert below is not None
    there = below.find(states, goals, old, search, 1)
    goal = tree_map(lambda x: x[:, None], goals[-1])
    nearest = below.cost.distance(there.states, goal).amin(-1)
    away = below.cost.distance(states[-1], goals[-1]).maximum(below.step_distance)
    return nearest / away, there


def left_by_step(
    planner: Planner, states: tuple[State, ...], predicted: State, generator: torch.Generator
) -> Tensor:
    """``[B, H]`` of each predicted state ``[B, H, ...]`` the share of the way there that the level
    below would leave: from where it is for the first, from rest at the one before for the others.

    states: of the levels below.
    """
    search, shares = Search(0, generator), list[Tensor]()
    for step in range(planner.config.horizon):
        subgoal = tree_map(lambda x, t=step: x[:, t], predicted)
        share, _ = attempt(planner, states, subgoal, None, search)
        shares.append(share)
        goals = lower(planner, subgoal, states)
        states = tuple(_at_rest(*pair) for pair in zip(states, goals, strict=True))
    return torch.stack(shares, 1)


def _at_rest(state: State, goal: State) -> State:
    """At a goal and not moving, with the same around it as a state has."""
    around = {part: state[part] for part in AROUND if part in state}
    return tree_map(torch.zeros_like, state) | around | {"z": goal["z"]}
