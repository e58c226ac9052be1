"""Noise on logged actions."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray


def correlated(
    rng: np.random.Generator, correlation: float | NDArray[np.floating[Any]], size: tuple[int, ...]
) -> Generator[NDArray[np.float64]]:
    """Standard normal noise, correlated from one step to the next: what is white goes nowhere.

    correlation: below 1, one for all or what can be broadcast to `size`.
    """
    noise = rng.normal(size=size)
    while True:
        noise = correlation * noise + np.sqrt(1 - correlation**2) * rng.normal(size=size)
        yield noise
