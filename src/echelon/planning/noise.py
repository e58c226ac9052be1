"""Noise that is correlated along the horizon, which is what moves a system with momentum."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=64)
def _factor(horizon: int, correlation: float) -> Tensor:
    """Cholesky factor [H, H] of the covariance ``correlation ** |i - j|``."""
    time = torch.arange(horizon, dtype=torch.float64)
    covariance = correlation ** (time[:, None] - time[None, :]).abs()
    return torch.linalg.cholesky(covariance).float()


def correlated(
    batch: int, candidates: int, horizon: int, size: int, correlation: float, rng: torch.Generator
) -> Tensor:
    """``[B, K, H, A]`` standard normal in each entry, first-order autoregressive along H."""
    white = torch.randn(batch, candidates, horizon, size, generator=rng, device=rng.device)
    if correlation == 0 or horizon == 1:
        return white
    return torch.einsum("ts,bksa->bkta", _factor(horizon, correlation).to(rng.device), white)
