"""How long things last in logged experience and in a model's mind: what is measured of the scales.

Pure functions of numbers. :mod:`echelon.measure` takes the numbers from episodes and models, and
:mod:`echelon.proposal` makes strides of them. All times are environment steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from echelon.data.windows import survival
from echelon.types import EchelonError

SATURATED = 0.9
"""share of its plateau at which a distance has stopped growing"""
FLAT = 0.05
"""growth over the last doubling of time below which a distance is on its plateau"""
MINOR = 0.05
"""share of the variance below which a direction is not asked how slow it is"""


@dataclass(frozen=True)
class Survival:
    """How many clips hold a window."""

    clips: int
    spans: tuple[int, ...]
    """steps of a window"""
    share: tuple[float, ...]
    """of the clips that hold it"""
    longest: int
    """the longest span that keeps `KEPT` of them"""


@dataclass(frozen=True)
class Direction:
    """One principal direction of what was measured."""

    share: float
    """of the variance"""
    time: float | None
    """correlation time; None where it is longer than the clips show"""


@dataclass(frozen=True)
class Distance:
    """How far apart moments are that lie some time apart."""

    level: int
    gaps: tuple[int, ...]
    mean: tuple[float, ...]
    apart: float
    """mean distance of moments of different clips"""
    saturates: float | None
    """gap where it stops growing; None where it still grows at the longest"""


@dataclass(frozen=True)
class Error:
    """How wrong a rollout is, in distances of level 0, by steps ahead."""

    name: str
    level: int | None
    """None for a baseline"""
    steps: tuple[int, ...]
    error: tuple[float, ...]


@dataclass(frozen=True)
class Scales:
    """All that was measured."""

    source: str
    """what the directions and distances are those of"""
    measured: int
    """steps of the stretches that all but `survival` was measured on"""
    survival: Survival
    directions: tuple[Direction, ...]
    """most variance first"""
    distances: tuple[Distance, ...]
    """level 0 first"""
    errors: tuple[Error, ...] = ()
    """levels from 0 up, then baselines; empty without a model"""

    @property
    def slowest(self) -> float | None:
        """Correlation time of the slowest direction that matters; None is longer than the clips."""
        first, *others = self.directions
        times = [d.time for d in [first, *(d for d in others if d.share >= MINOR)]]
        known = [time for time in times if time is not None]
        return max(known) if len(known) == len(times) else None

    @property
    def crossings(self) -> tuple[float | None, ...]:
        """For each level and the next: steps ahead from which on the next errs less."""
        levels = [e for e in self.errors if e.level is not None]
        return tuple(crossing(a.steps, a.error, b.steps, b.error) for a, b in pairwise(levels))

    @property
    def beaten(self) -> dict[str, float | None]:
        """For each baseline: steps ahead from which on it errs less than the fine rollout."""
        return {
            e.name: crossing(self.errors[0].steps, self.errors[0].error, e.steps, e.error)
            for e in self.errors
            if e.level is None
        }


def correlation_times(series: np.ndarray, longest: int | None = None) -> tuple[Direction, ...]:
    """Principal directions of ``series [W, T, D]`` and the time in which each forgets.

    The time is where the autocorrelation, around the mean of all clips, falls to 1/e; of an AR(1)
    process with coefficient rho it is ``-1 / ln(rho)``. Between lags it is read off linearly in the
    logarithm. longest: the last lag; None takes three quarters of the clips' length, since few pairs
    of moments lie further apart.
    """
    x = series.astype(np.float64) - series.mean((0, 1), dtype=np.float64)
    flat = x.reshape(-1, x.shape[-1])
    variance, basis = np.linalg.eigh(flat.T @ flat / len(flat))
    variance, x = np.maximum(variance[::-1], 0), x @ basis[:, ::-1]
    kept = variance > 1e-9 * max(float(variance.sum()), 1e-30)
    if not kept.any():
        raise EchelonError("nothing moves: all the frames or latents that were measured are equal")
    x, share = x[..., kept], variance[kept] / variance.sum()
    lags = range(1, 1 + (longest or max(1, 3 * (x.shape[1] - 1) // 4)))
    rho = np.stack([(x[:, k:] * x[:, :-k]).mean((0, 1)) for k in lags]) / variance[kept]
    return tuple(
        Direction(float(part), _time(column)) for part, column in zip(share, rho.T, strict=True)
    )


def _time(rho: np.ndarray) -> float | None:
    """Lag at which ``rho [lags]``, beginning at lag 1, falls to 1/e."""
    below = np.flatnonzero(rho < math.exp(-1))
    if not len(below):
        return None
    lag = int(below[0])
    before = 0.0 if lag == 0 else math.log(rho[lag - 1])
    after = math.log(max(float(rho[lag]), 1e-9))
    return lag + (before + 1) / (before - after)


def saturation(gaps: Sequence[float], mean: Sequence[float], apart: float) -> float | None:
    """Gap at which a distance reaches `SATURATED` of its plateau; None where it still grows.

    The plateau is where the curve ends, if it grew by less than `FLAT` over its last doubling;
    otherwise what moments of different clips are `apart`, since time cannot part them further.
    """
    middle = float(np.interp(gaps[-1] / 2, gaps, mean))
    plateau = mean[-1] if mean[-1] <= (1 + FLAT) * middle else apart
    reached = np.flatnonzero(np.asarray(mean) >= SATURATED * plateau)
    if not len(reached):
        return None
    i = int(reached[0])
    if i == 0:
        return float(gaps[0])
    part = (SATURATED * plateau - mean[i - 1]) / (mean[i] - mean[i - 1])
    return float(gaps[i - 1] + part * (gaps[i] - gaps[i - 1]))


def crossing(
    fine_steps: Sequence[float],
    fine: Sequence[float],
    coarse_steps: Sequence[float],
    coarse: Sequence[float],
) -> float | None:
    """Steps from which on the coarse error lies below the fine one; None if it never does.

    Read off between the measured points of both, linearly in the logarithm of time where it can be.
    """
    begin = max(min(fine_steps), min(coarse_steps))
    end = min(max(fine_steps), max(coarse_steps))
    steps = sorted({s for s in (*fine_steps, *coarse_steps) if begin <= s <= end})
    gap = [
        float(np.interp(s, coarse_steps, coarse) - np.interp(s, fine_steps, fine)) for s in steps
    ]
    if not gap or gap[-1] >= 0:
        return None
    above = [i for i, value in enumerate(gap) if value >= 0]
    if not above:
        return float(steps[0])
    i = above[-1]
    share = gap[i] / (gap[i] - gap[i + 1])
    if steps[i] > 0:
        return float(steps[i] * (steps[i + 1] / steps[i]) ** share)
    return float(steps[i] + share * (steps[i + 1] - steps[i]))


def survival_of(lengths: np.ndarray, longest: int) -> Survival:
    """Survival at every length that occurs. lengths: [E] in frames. longest: see `longest_span`."""
    spans = sorted({1, longest, *(int(x) for x in np.unique(lengths - 1) if x > 0)})
    return Survival(len(lengths), tuple(spans), tuple(survival(lengths, s) for s in spans), longest)
