"""The cross-entropy method, with correlated noise and kept elites (iCEM, arXiv 2008.06389)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from echelon.config import OptimizerConfig
from echelon.planning.noise import correlated
from echelon.types import ActionPrior, Objective, never


@dataclass(frozen=True)
class CEM:
    """Sample, keep the elites, fit a Gaussian to them, again.

    Deviations from iCEM: the noise is first-order autoregressive instead of 1/f; one elite, the best
    so far, is kept between rounds; the fitted mean is itself a candidate of every round.
    """

    config: OptimizerConfig

    @property
    def candidates(self) -> int:
        return self.config.candidates

    @property
    def iterations(self) -> int:
        return self.config.iterations

    @property
    def evaluations(self) -> int:
        return self.config.candidates * self.config.iterations

    def scaled(self, effort):
        return self

    def minimize(
        self,
        objective: Objective,
        start: Tensor,
        warm: Tensor,
        prior: ActionPrior,
        generator: torch.Generator,
        keep: int = 1,
        stop=never,
    ) -> tuple[Tensor, Tensor]:
        """See :class:`echelon.types.Optimizer`."""
        c = self.config
        batch, horizon, size = start.shape
        mean = start.clamp(prior.low, prior.high)
        noise = torch.where(warm, c.warm_noise, c.noise)[:, None, None]
        std = noise * prior.std.expand(batch, horizon, size)
        best, best_cost = mean, torch.full((batch,), torch.inf, device=start.device)
        for _ in range(c.iterations):
            sample = correlated(batch, c.candidates, horizon, size, c.correlation, generator)
            candidates = mean[:, None] + std[:, None] * sample
            candidates[:, 0] = mean
            candidates = candidates.clamp(prior.low, prior.high)
            cost = objective(candidates)
            elite_cost, index = cost.topk(c.elites, largest=False)
            elites = torch.take_along_dim(candidates, index[:, :, None, None], 1)
            better = elite_cost[:, 0] < best_cost
            best = torch.where(better[:, None, None], elites[:, 0], best)
            best_cost = torch.where(better, elite_cost[:, 0], best_cost)
            mean = elites.mean(1)
            std = elites.std(1, correction=0) + 1e-3 * prior.std
        return (
            (best[:, None], best_cost[:, None])
            if keep == 1
            else (
                torch.cat([best[:, None], elites[:, : keep - 1]], 1),
                torch.cat([best_cost[:, None], elite_cost[:, : keep - 1]], 1),
            )
        )
