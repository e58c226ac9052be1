"""Model predictive path integral control (arXiv 1707.02342), in its sampling form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from echelon.config import OptimizerConfig
from echelon.planning.noise import correlated
from echelon.types import ActionPrior, Objective, never


@dataclass(frozen=True)
class MPPI:
    """Every candidate counts, weighted by ``exp(-cost / temperature)``.

    Deviation from the paper: costs are divided by their own deviation over the candidates, so that
    one temperature serves all cost scales, and the control cost is left out (actions are bounded).
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
        """See :class:`echelon.types.Optimizer`; the cost is the weighted mean of the last round's."""
        c = self.config
        batch, horizon, size = start.shape
        mean = start.clamp(prior.low, prior.high)
        noise = torch.where(warm, c.warm_noise, c.noise)[:, None, None, None]
        cost = torch.zeros(batch, device=start.device)
        for _ in range(c.iterations):
            sample = correlated(batch, c.candidates, horizon, size, c.correlation, generator)
            candidates = mean[:, None] + noise * prior.std * sample
            candidates[:, 0] = mean
            candidates = candidates.clamp(prior.low, prior.high)
            costs = objective(candidates)
            scale = costs.std(1, keepdim=True, correction=0).clamp_min(1e-9) * c.temperature
            weights = torch.softmax(-(costs - costs.amin(1, keepdim=True)) / scale, 1)
            mean = torch.einsum("bk,bkha->bha", weights, candidates)
            mean = mean.clamp(prior.low, prior.high)  # weights add up to 1 but for rounding
            cost = (weights * costs).sum(1)
        return mean[:, None], cost[:, None]
