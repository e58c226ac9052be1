"""When a plan is followed, when its next subgoal's turn comes, and when it is given up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from echelon.config import PlannerConfig
from echelon.types import Plan, State, tree_at


def tick(
    plan: Plan,
    state: State,
    now: int,
    config: PlannerConfig,
    duration: int,
    distance: Callable[[State, State], Tensor],
) -> tuple[Plan, Tensor, Tensor]:
    """The plans of one level as they stand now; ``[B]`` bool, whose subgoal is another one than before;
    and who must search again.

    state: [B, ...] where the level sees each environment.
    duration: environment steps in one step of the level.
    """
    due = now - plan.made >= config.replan
    if plan.below is None:
        return plan, torch.zeros_like(due), due
    elapsed = now - plan.since
    steps = elapsed // duration
    if config.watched:
        left = distance(state, tree_at(plan.states, plan.aim))
        if config.watchdog is not None:
            ahead = (1 - elapsed / duration).clamp_min(0)
            lost = (left > (ahead + config.watchdog) * plan.gap) & ~plan.direct
            plan = replace(plan, lost=plan.lost + lost)
            due = due | lost
        early = (left <= config.reached * plan.gap) & (steps == 0)
        steps = steps + early.long()
        plan = replace(plan, since=torch.where(early, now - duration, plan.since))
    steps = steps * ~plan.direct
    plan = replace(plan, aim=plan.aim + steps, since=plan.since + steps * duration)
    if config.watched:
        gap = distance(state, tree_at(plan.states, plan.aim))
        plan = replace(plan, gap=torch.where(steps > 0, gap, plan.gap))
    done = plan.aim >= config.horizon
    return replace(plan, lost=plan.lost * ~done), steps > 0, due | done
