"""Where the data's actions lie: how far a plan leaves them, and how to sample among them.

A model's predictions mean little for actions unlike those it was trained on, and a search finds just
the ones it errs on; see Hi-LeWM (arXiv 2607.12547) on the coarse level.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from echelon.types import ActionPrior, EchelonError

HELD = 0.95
"""share of the bank that lies in the support"""
JITTER = 1e-4
"""added to the variance of each dimension, as a share of it, where the data has no spread"""


def covariance_factor(prior: ActionPrior) -> Tensor:
    """``[A, A]`` lower triangular, in deviations of the prior: its product with itself is the
    correlation matrix of the data's actions.
    """
    if prior.covariance is None:
        raise EchelonError("proposal: this level's actions have no covariance; use gaussian")
    correlation = prior.covariance / (prior.std[:, None] * prior.std)
    jitter = JITTER * torch.eye(len(prior.std), device=prior.std.device)
    # The form without a check, which would wait for the device.
    return torch.linalg.cholesky_ex(correlation + jitter)[0]


def bank_sequences(
    prior: ActionPrior, shape: tuple[int, int, int], correlation: float, rng: torch.Generator
) -> Tensor:
    """``[B, K, H, A]`` random entries of the prior's bank for ``shape = (B, K, H)``.

    An entry is held for another step with probability `correlation`, which then is the correlation
    of neighbouring steps, as in first-order autoregressive noise.
    """
    if prior.bank is None:
        raise EchelonError("proposal: this level has no bank of actions; use gaussian")
    index = torch.randint(len(prior.bank), shape, generator=rng, device=rng.device)
    held = torch.rand(shape, generator=rng, device=rng.device) < correlation
    time = torch.arange(shape[-1], device=rng.device)
    drawn = torch.where(held, 0, time).cummax(-1).values
    return prior.bank[index.gather(-1, drawn)]


@dataclass(frozen=True)
class Support:
    """How far a plan's actions lie outside what the data holds: ``[B, K, H, A] -> [B, K]``.

    The mean over the horizon of ``max(0, d - r)``: d is an action's Mahalanobis distance from the
    data's mean, and r the radius that holds 95 % of the bank, so the unit is a deviation of the data
    and a plan among the data costs nothing. Where an ellipsoid fits the data badly it errs on the
    side of letting actions pass. Differentiable.
    """

    mean: Tensor
    """[A]"""
    whiten: Tensor
    """[A, A] of which a product with an action, less the mean, has the data's covariance for unit"""
    radius: Tensor
    """[] that holds 95 % of the bank"""

    @staticmethod
    def of(prior: ActionPrior) -> Support:
        """That of a prior, which needs a covariance and a bank. Made once: a call is one product."""
        if prior.covariance is None or prior.bank is None:
            raise EchelonError("support: this level's actions have no covariance and bank to go by")
        scale = prior.std.reciprocal().diag()
        whiten = torch.linalg.solve_triangular(covariance_factor(prior), scale, upper=False)
        support = Support(prior.mean, whiten.T, torch.zeros_like(prior.mean[0]))
        return replace(support, radius=support.away(prior.bank).quantile(HELD))

    def __call__(self, actions: Tensor) -> Tensor:
        return (self.away(actions) - self.radius).clamp_min(0).mean(-1)

    def away(self, actions: Tensor) -> Tensor:
        """``[..., A] -> [...]`` Mahalanobis distance from the data's mean."""
        white = (actions - self.mean) @ self.whiten
        # At the mean the root has no slope.
        return white.square().sum(-1).clamp_min(1e-12).sqrt()
