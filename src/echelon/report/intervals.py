"""Exact intervals and tests for counts of successes; no normal approximation anywhere."""

from __future__ import annotations

import functools
import math

from echelon.types import EchelonError


@functools.cache
def clopper_pearson(successes: int, episodes: int, level: float = 0.95) -> tuple[float, float]:
    """The exact interval of a success probability (Clopper and Pearson 1934).

    Every probability inside makes both "at least this many" and "at most this many" successes
    likelier than ``(1 - level) / 2``.
    """
    if episodes < 1 or not 0 <= successes <= episodes:
        raise EchelonError(f"{successes} successes of {episodes} episodes: no such count")
    if not 0 < level < 1:
        raise EchelonError(f"level: {level} must be between 0 and 1")
    tail = (1 - level) / 2
    return _lower(successes, episodes, tail), 1 - _lower(episodes - successes, episodes, tail)


def _lower(successes: int, episodes: int, tail: float) -> float:
    """The probability under which `successes` or more have probability `tail`."""
    if successes == 0:
        return 0.0
    log_choose = [
        math.lgamma(episodes + 1) - math.lgamma(k + 1) - math.lgamma(episodes - k + 1)
        for k in range(successes, episodes + 1)
    ]

    def upper_tail(p: float) -> float:
        log_p, log_q = math.log(p), math.log1p(-p)
        return math.fsum(
            math.exp(c + k * log_p + (episodes - k) * log_q)
            for k, c in enumerate(log_choose, successes)
        )

    # The tail grows with p, so bisection finds the one crossing; 50 halvings reach 1e-15.
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if upper_tail(middle) < tail:
            low = middle
        else:
            high = middle
    return low


def paired_p(wins: int, losses: int) -> float:
    """Exact two-sided McNemar test: how surprising `wins` against `losses` is for equal methods.

    wins, losses: trials that only the one, or only the other, succeeded in; the rest say nothing.
    """
    if wins < 0 or losses < 0:
        raise EchelonError(f"{wins} wins and {losses} losses: counts cannot be negative")
    trials = wins + losses
    tail = sum(math.comb(trials, k) for k in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / 2**trials)


@functools.cache
def fisher_p(successes: int, episodes: int, others: int, other_episodes: int) -> float:
    """Fisher's exact two-sided test of two counts, for when only totals are known.

    On paired trials whose outcomes go together it is the cautious choice: it finds fewer
    differences than `paired_p` would.
    """
    total = successes + others
    ways = {
        k: math.comb(episodes, k) * math.comb(other_episodes, total - k)
        for k in range(max(0, total - other_episodes), min(episodes, total) + 1)
    }
    seen = ways[successes]
    return sum(w for w in ways.values() if w <= seen) / sum(ways.values())
