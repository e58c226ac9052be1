"""Counting what planning spends, and keeping to what it may spend."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from echelon.types import EchelonError

MOST = 1024.0
"""times its usual effort that a search is raised to, at most"""
AIM = 0.95
"""share of the time allowed that a plan is made to take, so that most take no more"""


def macs_of(function: Callable[..., Any], *inputs: Any) -> int:
    """Multiply-accumulates of one call, by PyTorch's own counter."""
    with torch.no_grad(), flop_counter() as counter:
        function(*inputs)
    return counter.get_total_flops() // 2


def flop_counter() -> FlopCounterMode:
    """PyTorch's own counter, with the products that it leaves out: those that oneDNN does."""

    def flops(x: list[int], weight: list[int], *_: Any, **__: Any) -> int:
        return 2 * math.prod(x) * weight[0]

    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.mkldnn_linear: flops})


class Meter:
    """Counts each thing once, by its name: what is counted again and again takes the same again."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def __call__(self, name: str, function: Callable[..., Any], *inputs: Any) -> int:
        if name not in self._known:
            self._known[name] = macs_of(function, *inputs)
        return self._known[name]


@dataclass(frozen=True)
class Budget:
    """What one call of a planner may take. Searches are scaled to it, up as well as down."""

    tflops: float | None = None
    """2 x multiply-accumulates for each environment, in 1e12"""
    ms: float | None = None
    """milliseconds of wall time, of all environments together"""

    def __post_init__(self) -> None:
        for name in ("tflops", "ms"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise EchelonError(f"budget-{name}: {value} buys nothing; it must be above 0")


def effort_within(macs: Callable[[float], int], budget: float) -> float:
    """The largest effort whose `macs`, which grow with it, are within the budget; 0 if none are."""
    low, high = 0.0, 1.0
    while macs(high) <= budget and high < MOST:
        low, high = high, 2 * high
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if macs(middle) <= budget else (low, middle)
    return low


class Pace:
    """Seconds that a call takes, as a straight line of its multiply-accumulates, by the least call
    there is and by the last ones.
    """

    def __init__(self, macs: int, seconds: float) -> None:
        """What the least call takes."""
        self.least = seconds
        self._macs = macs
        self._slope = seconds / max(macs, 1)

    def learn(self, macs: int, seconds: float, weight: float = 0.3) -> None:
        """What another call took, of which the slope takes on a share."""
        if macs > 2 * self._macs:
            slope = max(seconds - self.least, 0.0) / (macs - self._macs)
            self._slope += weight * (slope - self._slope)

    def affords(self, seconds: float) -> float:
        """Multiply-accumulates that are done in time."""
        return self._macs + max(AIM * seconds - self.least, 0.0) / max(self._slope, 1e-18)


def deadline(seconds: float) -> Callable[[], bool]:
    """Whether so many seconds have passed since now."""
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() > end
