"""Model predictive path integral control (arXiv 1707.02342), in its sampling form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from echelon.config import OptimizerConfig
from echelon.planning.best import Best, finite
from echelon.planning.effort import settled, with_effort
from echelon.planning.proposal import noise_for, propose
from echelon.types import ActionPrior, Objective, never


@dataclass(frozen=True)
class MPPI:
    """Every candidate counts, weighted by ``exp(-cost / temperature)``.

    Deviations from the paper: costs are divided by their own deviation over the candidates, so that
    one temperature serves all cost scales; the control cost is left out (actions are bounded); the
    last mean is evaluated too, and returned where no candidate was cheaper. Candidates are evaluated
    inside the bounds, but the mean is that of what was drawn, up to a deviation beyond them: a mean of
    clipped actions never comes to a bound where that is best.
    """

    config: OptimizerConfig

    @property
    def evaluations(self) -> int:
        return self.config.candidates * self.config.iterations + 1

    def scaled(self, effort: float) -> MPPI:
        return MPPI(with_effort(self.config, effort, lambda config: MPPI(config).evaluations))

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
        noise = torch.where(warm, c.warm_noise, c.noise)[:, None, None, None]
        for number in range(c.iterations):
            inside = candidates.clamp(prior.low, prior.high)
            costs = finite(objective(inside))
            best.add(inside, costs)
            mean = torch.einsum("bk,bkha->bha", weights_of(costs, c.temperature), candidates)
            mean = mean.clamp(prior.low - prior.std, prior.high + prior.std)
            if stop():
                break
            moved = (mean - candidates[:, 0]).abs()
            last = number + 1 == c.iterations
            if last or (c.agreement and settled(moved, prior, c.agreement)):
                mean = mean.clamp(prior.low, prior.high)[:, None]
                best.add(mean, finite(objective(mean)))
                break
            sample = noise_for(c, len(mean), c.candidates, mean, generator)
            candidates = mean[:, None] + noise * prior.std * sample
            candidates[:, 0] = mean
        return best.result()


def weights_of(costs: Tensor, temperature: float) -> Tensor:
    """``[B, K] -> [B, K]``, adding up to 1; none where a cost is infinite, unless all are."""
    known = costs.isfinite()
    least = costs.amin(1, keepdim=True)
    above = torch.where(known, costs - least, 0)
    count = known.sum(1, keepdim=True).clamp_min(1)
    mean = above.sum(1, keepdim=True) / count
    variance = torch.where(known, above - mean, 0).square().sum(1, keepdim=True) / count
    scale = variance.sqrt().clamp_min(1e-9) * temperature
    lost = known.any(1, keepdim=True) & ~known
    return torch.softmax((-above / scale).masked_fill(lost, -torch.inf), 1)
