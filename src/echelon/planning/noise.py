"""Noise that is correlated along the horizon, which is what moves a system with momentum."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=64)
def _factor(horizon: int, correlation: float, device: torch.device) -> Tensor:
    """Cholesky factor [H, H] of the covariance ``correlation ** |i - j|``."""
    time = torch.arange(horizon, dtype=torch.float64)
    covariance = correlation ** (time[:, None] - time[None, :]).abs()
    return torch.linalg.cholesky(covariance).float().to(device)


@lru_cache(maxsize=64)
def _colour(horizon: int, beta: float, device: torch.device) -> Tensor:
    """Square root [H, H] of the circulant covariance whose spectrum is ``frequency ** -beta``."""
    frequency = torch.fft.rfftfreq(horizon, dtype=torch.float64).clamp_min(1 / horizon)
    amplitude = frequency ** (-beta / 2)
    power = torch.fft.irfft(amplitude**2, n=horizon)[0]  # variance of a step
    response = torch.fft.irfft(amplitude, n=horizon) / math.sqrt(power)
    time = torch.arange(horizon)
    return response[(time[:, None] - time) % horizon].float().to(device)


def correlated(
    batch: int, candidates: int, horizon: int, size: int, correlation: float, rng: torch.Generator
) -> Tensor:
    """``[B, K, H, A]`` standard normal in each entry, first-order autoregressive along H."""
    white = torch.randn(batch, candidates, horizon, size, generator=rng, device=rng.device)
    if correlation == 0 or horizon == 1:
        return white
    return torch.einsum("ts,bksa->bkta", _factor(horizon, correlation, rng.device), white)


def coloured(
    batch: int, candidates: int, horizon: int, size: int, beta: float, rng: torch.Generator
) -> Tensor:
    """``[B, K, H, A]`` standard normal in each entry, of power ``frequency ** -beta`` along H.

    The noise of iCEM (arXiv 2008.06389, section 3.1), after Timmer and Koenig (1995): the constant
    part has the power of the lowest frequency, and the end of a sequence is as near to its start as
    neighbours are. Deviation: the variance is exactly one, the constant part counted in.
    """
    white = torch.randn(batch, candidates, horizon, size, generator=rng, device=rng.device)
    if beta == 0 or horizon == 1:
        return white
    return torch.einsum("ts,bksa->bkta", _colour(horizon, beta, rng.device), white)
