"""How much a search does: the same one with more or less work, and when it has done enough."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from echelon.config import OptimizerConfig
from echelon.types import ActionPrior, EchelonError

FLOOR = 8
"""candidates below which rounds are given up first"""


def with_effort(
    config: OptimizerConfig, effort: float, evaluations: Callable[[OptimizerConfig], int]
) -> OptimizerConfig:
    """The largest search that evaluates at most `effort` times what `config` does.

    It has as many rounds as that pays for with `FLOOR` candidates, and then as many candidates as
    it pays for; at least 2 candidates and one round, whatever they cost.
    """
    if effort < 0:
        raise EchelonError(f"effort: {effort} must not be negative")
    budget = int(effort * evaluations(config))
    rounds = config.iterations + (config.steps if config.kind == "refine" else 0)
    least = 2 if config.kind == "refine" else 1
    floor = min(FLOOR, config.candidates)
    while rounds > least and evaluations(_resized(config, rounds, floor)) > budget:
        rounds -= 1
    smallest = min(2, config.candidates)
    larger = bisect_right(
        range(smallest + 1, budget + 1),
        budget,
        key=lambda candidates: evaluations(_resized(config, rounds, candidates)),
    )
    return _resized(config, rounds, smallest + larger)


def settled(difference: Tensor, prior: ActionPrior, agreement: float) -> bool:
    """Whether a difference ``[B, H, A]``, in deviations of the prior and averaged over H and A, is
    below `agreement` in every row. Waits for the device.
    """
    return bool(((difference / prior.std).mean((-1, -2)) < agreement).all())


def _resized(config: OptimizerConfig, rounds: int, candidates: int) -> OptimizerConfig:
    """With the elites in proportion; of refine, both kinds of rounds, at least one of each."""
    fewest = 2 if config.agreement and config.kind != "mppi" else 1
    elites = round(config.elites * candidates / config.candidates)
    elites = min(max(elites, fewest), candidates)
    config = replace(config, candidates=candidates, elites=elites)
    if config.kind != "refine":
        return replace(config, iterations=rounds)
    share = config.iterations / (config.iterations + config.steps)
    sampled = min(max(round(share * rounds), 1), rounds - 1)
    return replace(config, iterations=sampled, steps=rounds - sampled)
