"""The cross-entropy method, and its improved form, iCEM (arXiv 2008.06389)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from echelon.config import OptimizerConfig
from echelon.planning.best import Best, finite, take
from echelon.planning.effort import settled, with_effort
from echelon.planning.proposal import noise_for, propose
from echelon.types import ActionPrior, Objective, never


@dataclass(frozen=True)
class CEM:
    """Sample, keep the elites, fit a Gaussian to them, again.

    iCEM differs in the colour of the noise, in a share of the elites that competes in the next round
    with the cost it already has, and in rounds that may shrink.

    Deviations from the paper: cem has first-order autoregressive noise; the fitted mean is a
    candidate of every round, not of the last alone; elites are kept between rounds but not from one
    plan to the next, since a search has no memory: a warm start is the best plan, shifted; the fit
    is not averaged with the one before.
    """

    config: OptimizerConfig

    @property
    def evaluations(self) -> int:
        return sum(self._sizes)

    def scaled(self, effort: float) -> CEM:
        return CEM(with_effort(self.config, effort, lambda config: CEM(config).evaluations))

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
        return self.sample(objective, start, warm, prior, generator, keep, stop).result()

    @torch.no_grad()
    def sample(
        self,
        objective: Objective,
        start: Tensor,
        warm: Tensor,
        prior: ActionPrior,
        generator: torch.Generator,
        keep: int,
        stop: Callable[[], bool],
    ) -> Best:
        """All rounds, before anybody looks whether any cost was finite, which waits for the device."""
        c = self.config
        best = Best(keep, c.candidates)
        candidates = propose(c, start, warm, prior, generator)
        kept = round(c.kept * c.elites) if c.kind == "icem" else 0
        elites, elite_cost = candidates[:, :0], start.new_empty(len(start), 0)
        for size in self._sizes:
            if best.found is not None:
                mean, std = elites.mean(1), elites.std(1, correction=0)
                if stop() or (c.agreement and settled(std, prior, c.agreement)):
                    break
                std = std + 1e-3 * prior.std
                sample = noise_for(c, len(mean), size, mean, generator)
                candidates = mean[:, None] + std[:, None] * sample
                candidates[:, 0] = mean
                candidates = candidates.clamp(prior.low, prior.high)
            cost = finite(objective(candidates))
            best.add(candidates, cost)
            pool = torch.cat([candidates, elites[:, :kept]], 1)
            elite_cost, index = torch.cat([cost, elite_cost[:, :kept]], 1).topk(
                c.elites, largest=False
            )
            # One without a finite cost has no say: the best stands in for it.
            elites = take(pool, torch.where(elite_cost.isfinite(), index, index[:, :1]))
        return best

    @property
    def _sizes(self) -> list[int]:
        """Candidates of each round."""
        c = self.config
        if c.kind != "icem":
            return [c.candidates] * c.iterations
        least = min(2 * c.elites, c.candidates)
        return [max(int(c.candidates / c.decay**i), least) for i in range(c.iterations)]
