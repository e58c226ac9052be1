"""Descent on the actions themselves, through a model that is differentiable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from echelon.config import OptimizerConfig
from echelon.planning.best import Best, finite, take
from echelon.planning.cem import CEM
from echelon.planning.effort import settled, with_effort
from echelon.planning.proposal import propose
from echelon.types import ActionPrior, EchelonError, Objective, never

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
"""of Adam (arXiv 1412.6980)"""


@dataclass(frozen=True)
class Gradient:
    """Several sequences descend side by side, and the cheapest that any has been is the answer.

    After H-JEPA's planner (arXiv 2610.06805). Deviations: Adam without weight decay, a step measured
    in deviations of the prior, actions put back into their bounds after each one.
    """

    config: OptimizerConfig

    @property
    def evaluations(self) -> int:
        return self.config.candidates * (3 * self.config.iterations + 1)

    def scaled(self, effort: float) -> Gradient:
        return Gradient(with_effort(self.config, effort, lambda c: Gradient(c).evaluations))

    @torch.no_grad()
    def minimize(
        self,
        objective: Objective,
        start: Tensor,
        warm: Tensor,
        prior: ActionPrior,
        generator: torch.Generator,
        keep: int = 1,
        stop: Callable[[], bool] = never,
    ) -> tuple[Tensor, Tensor]:
        """See :class:`echelon.types.Optimizer`. Of each sequence one form alone is returned."""
        best = Best(keep, self.config.candidates)
        plans = propose(self.config, start, warm, prior, generator)
        best.add(*descend(self.config, objective, plans, prior, stop))
        return best.result()


@dataclass(frozen=True)
class Refine:
    """The cross-entropy method finds the valley, and gradient steps from its elites the floor.

    Agreement ends the rounds of sampling; the gradient steps follow all the same.
    """

    config: OptimizerConfig

    @property
    def evaluations(self) -> int:
        return self._sampling.evaluations + self.config.elites * (3 * self.config.steps + 1)

    def scaled(self, effort: float) -> Refine:
        return Refine(with_effort(self.config, effort, lambda c: Refine(c).evaluations))

    @torch.no_grad()
    def minimize(
        self,
        objective: Objective,
        start: Tensor,
        warm: Tensor,
        prior: ActionPrior,
        generator: torch.Generator,
        keep: int = 1,
        stop: Callable[[], bool] = never,
    ) -> tuple[Tensor, Tensor]:
        """See :class:`echelon.types.Optimizer`. Where `keep` asks for more than the elites, the
        others are as they were sampled.
        """
        c = self.config
        best = Best(keep, c.candidates)
        wanted = max(keep, c.elites)
        sampled = self._sampling.sample(objective, start, warm, prior, generator, wanted, stop)
        assert sampled.found is not None
        plans, costs = sampled.found
        if not stop():
            descent = replace(c, iterations=c.steps, agreement=0.0)
            lower, cost = descend(descent, objective, plans[:, : c.elites], prior, stop)
            plans = torch.cat([lower, plans[:, c.elites :]], 1)
            costs = torch.cat([cost, costs[:, c.elites :]], 1)
        best.add(plans, costs)
        return best.result()

    @property
    def _sampling(self) -> CEM:
        return CEM(replace(self.config, kind="cem"))


def descend(
    config: OptimizerConfig,
    objective: Objective,
    plans: Tensor,
    prior: ActionPrior,
    stop: Callable[[], bool],
) -> tuple[Tensor, Tensor]:
    """``iterations`` steps of Adam from `plans` [B, K, H, A], inside the bounds.

    Returns the cheapest that each sequence has been, [B, K, H, A], and its cost, [B, K]. A slope
    that is not a finite number is none.
    """
    c = config
    average = square = torch.zeros_like(plans)
    best, least = plans, torch.full(plans.shape[:2], torch.inf, device=plans.device)
    for step in range(1, c.iterations + 1):
        costs, slope = slope_of(objective, plans)
        best, least = cheaper(best, least, plans, costs)
        if stop() or (c.agreement and _agreed(plans, costs, prior, c)):
            return best, least
        average = BETA_1 * average + (1 - BETA_1) * slope
        square = BETA_2 * square + (1 - BETA_2) * slope.square()
        down = average / (1 - BETA_1**step)
        down = down / ((square / (1 - BETA_2**step)).sqrt() + EPSILON)
        plans = (plans - c.learning_rate * prior.std * down).clamp(prior.low, prior.high)
    return cheaper(best, least, plans, finite(objective(plans)))


def slope_of(objective: Objective, plans: Tensor) -> tuple[Tensor, Tensor]:
    """Cost ``[B, K]`` of `plans` and its slope ``[B, K, H, A]`` there, zero where it is no number.

    The slope is taken by the actions alone, so that no parameter of a model collects one, and also
    where the caller has gradients switched off.
    """
    with torch.enable_grad():
        leaf = plans.detach().requires_grad_()
        costs = objective(leaf)
        (slope,) = (
            torch.autograd.grad(costs.sum(), leaf, allow_unused=True)
            if costs.requires_grad
            else (None,)
        )
    if slope is None:
        raise EchelonError(
            "optimizer.kind: the cost cannot be differentiated by the actions; use cem, icem or mppi"
        )
    return finite(costs.detach()), slope.nan_to_num(0.0, 0.0, 0.0)


def cheaper(best: Tensor, least: Tensor, plans: Tensor, costs: Tensor) -> tuple[Tensor, Tensor]:
    """Of each sequence the cheaper form: ``[B, K, H, A]`` and its cost ``[B, K]``."""
    better = costs < least
    return torch.where(better[:, :, None, None], plans, best), torch.minimum(costs, least)


def _agreed(plans: Tensor, costs: Tensor, prior: ActionPrior, config: OptimizerConfig) -> bool:
    elites = take(plans, costs.topk(config.elites, largest=False).indices)
    return settled(elites.std(1, correction=0), prior, config.agreement)
