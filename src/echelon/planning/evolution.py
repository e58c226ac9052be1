"""Evolution: every elite is varied by itself, so that ways that differ are not averaged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from echelon.config import OptimizerConfig
from echelon.planning.best import Best, finite, take
from echelon.planning.effort import settled, with_effort
from echelon.planning.noise import correlated
from echelon.planning.proposal import propose
from echelon.types import ActionPrior, Objective, never

FINER = 0.6
"""of a round's variation, what the next one has"""


@dataclass(frozen=True)
class Evolution:
    """Sample, keep the elites, vary each of them a little, again: a (mu + lambda) evolution strategy.

    Where there are several ways, such as around a block on either side, the mean of the elites that
    `cem` is fitted to is none of them. Children of a round differ from their parents by noise as
    correlated as the first round's, of `warm_noise` deviations of the prior at first, then less.
    """

    config: OptimizerConfig

    @property
    def evaluations(self) -> int:
        return self.config.candidates * self.config.iterations

    def scaled(self, effort: float) -> Evolution:
        return Evolution(
            with_effort(self.config, effort, lambda config: Evolution(config).evaluations)
        )

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
        """See :class:`echelon.types.Optimizer`."""
        c = self.config
        best = Best(keep, c.candidates)
        candidates = propose(c, start, warm, prior, generator)
        elites, costs = candidates[:, :0], start.new_empty(len(start), 0)
        batch, (horizon, size) = len(start), start.shape[1:]
        for number in range(c.iterations):
            if number:
                spread = elites.std(1, correction=0)
                if stop() or (c.agreement and settled(spread, prior, c.agreement)):
                    break
                which = torch.arange(c.candidates, device=start.device) % c.elites
                noise = correlated(batch, c.candidates, horizon, size, c.correlation, generator)
                step = c.warm_noise * FINER ** (number - 1) * prior.std
                candidates = (elites[:, which] + step * noise).clamp(prior.low, prior.high)
            cost = finite(objective(candidates))
            best.add(candidates, cost)
            pool = torch.cat([elites, candidates], 1)
            costs, index = torch.cat([costs, cost], 1).topk(c.elites, largest=False)
            elites = take(pool, torch.where(costs.isfinite(), index, index[:, :1]))
        return best.result()
