"""What a search's candidates are before it has seen any cost."""

from __future__ import annotations

import torch
from torch import Tensor

from echelon.config import OptimizerConfig
from echelon.planning.noise import coloured, correlated
from echelon.planning.support import bank_sequences, covariance_factor
from echelon.types import ActionPrior


def noise_for(
    config: OptimizerConfig, batch: int, candidates: int, plan: Tensor, rng: torch.Generator
) -> Tensor:
    """``[B, K, H, A]`` standard normal in each entry, of the colour that a kind of search has.

    plan: [..., H, A] of the sequences sampled.
    """
    horizon, size = plan.shape[-2:]
    if config.kind == "icem":
        return coloured(batch, candidates, horizon, size, config.beta, rng)
    return correlated(batch, candidates, horizon, size, config.correlation, rng)


def propose(
    config: OptimizerConfig, start: Tensor, warm: Tensor, prior: ActionPrior, rng: torch.Generator
) -> Tensor:
    """The first round ``[B, K, H, A]``, inside the bounds: `start` [B, H, A], then samples.

    Samples lie around the start, and cold rows may be sampled otherwise: see
    ``OptimizerConfig.proposal``. Entries of the bank, and what is recalled, stand for themselves,
    wherever the start is.
    """
    c = config
    batch, horizon, _ = start.shape
    start = start.clamp(prior.low, prior.high)
    sample = noise_for(c, batch, c.candidates, start, rng)
    std = torch.where(warm, c.warm_noise, c.noise)[:, None, None] * prior.std.expand_as(start)
    candidates = start[:, None] + std[:, None] * sample
    if c.proposal == "recall":
        assert prior.recalled is not None, "the planner asks the level"
        which = torch.arange(c.candidates, device=start.device) % prior.recalled.shape[1]
        candidates = prior.recalled[:, which] + c.residual * prior.std * sample
    elif c.proposal != "gaussian":
        if c.proposal == "covariance":
            spread = c.noise * prior.std * (sample @ covariance_factor(prior).T)
            cold = start[:, None] + spread
        else:
            entries = bank_sequences(prior, (batch, c.candidates, horizon), c.correlation, rng)
            cold = entries + c.residual * prior.std * sample
        candidates = torch.where(warm[:, None, None, None], candidates, cold)
    candidates[:, 0] = start
    return candidates.clamp(prior.low, prior.high)
