"""Why a plan is as it is, in plain types: where each level means to go and how sure that looks."""

from __future__ import annotations

from typing import Any

import torch

from echelon.planning.planner import Planner, rollout
from echelon.planning.reach import left_by_step
from echelon.types import Plan, State, tree_map

ALTERNATIVES = 64
"""sequences drawn from the prior, to say how steep the way to the goal is"""


@torch.no_grad()
def explain(
    planner: Planner, plan: Plan, states: tuple[State, ...], generator: torch.Generator
) -> list[dict[str, Any]]:
    """The plan of the first environment, a dictionary a level, the highest first.

    states: what is seen now, by levels 0 to that of the planner. What this takes is in no ledger.
    """
    plan, states = plan.select(torch.zeros(1, dtype=torch.int64)), tree_map(lambda x: x[:1], states)
    found: list[dict[str, Any]] = []
    upper: Planner | None = planner
    part: Plan | None = plan
    while upper is not None and part is not None:
        found.append(_level(upper, part, states, generator))
        upper, part, states = upper.below, part.below, states[:-1]
    return found


def _level(
    planner: Planner, plan: Plan, states: tuple[State, ...], generator: torch.Generator
) -> dict[str, Any]:
    goal, distance = plan.goals[-1], planner.cost.distance
    ahead = tree_map(lambda x: x[:, None, None], goal)
    low, high = planner.level.prior.low, planner.level.prior.high
    shape = (1, ALTERNATIVES, planner.config.horizon, len(low))
    chance = torch.rand(shape, generator=generator, device=generator.device)
    others = distance(rollout(planner.level, states[-1], low + (high - low) * chance), ahead)[0]
    spread = others.quantile(torch.tensor([0.1, 0.9], device=others.device), dim=0)
    found = {
        "level": len(plan.goals) - 1,
        "duration": planner.duration,
        "cost": plan.cost[0].item(),
        "actions": plan.actions[0].tolist(),
        "predicted": plan.states["z"][0].tolist(),
        "goal": goal["z"][0].tolist(),
        "distance_now": distance(states[-1], goal).item(),
        "distance": distance(plan.states, tree_map(lambda x: x[:, None], goal))[0].tolist(),
        "distance_at_random": {"low": spread[0].tolist(), "high": spread[1].tolist()},
        "spent": {
            "predictor_calls": int(plan.spent.calls),
            "gflops": 2e-9 * int(plan.spent.macs),
            "seconds": plan.spent.seconds,
        },
    }
    if planner.below is not None:
        found |= {
            "pursued": None if plan.direct else min(int(plan.aim), planner.config.horizon - 1),
            "left": left_by_step(planner, states[:-1], plan.states, generator)[0].tolist(),
        }
    return found
