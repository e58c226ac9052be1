"""Which planner setting to use: the cheapest that succeeds as often as asked, by measurement.

Settings are raced on trials that nothing else uses, the same for all, in rounds of more and more of
them. A setting leaves the race when it surely succeeds too seldom, or when one that costs less than
half as much succeeds as often as asked; or as often as it, where it surely falls short of that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from echelon.envs.task import Trial
from echelon.evaluation import Method, Outcome
from echelon.report.intervals import clopper_pearson
from echelon.types import EchelonError

Run = Callable[[Method, Sequence[Trial]], Outcome]
"""tries a method on some trials, such as :func:`echelon.evaluation.run_trials` with a model"""


@dataclass(frozen=True)
class Raced:
    """What one setting did in a race."""

    method: Method
    episodes: int
    successes: int
    tflops: float
    """an episode"""
    left_after: int | None = None
    """trials after which it left the race; None stayed to the end"""

    @property
    def rate(self) -> float:
        return self.successes / self.episodes


@dataclass(frozen=True)
class Choice:
    """The setting to use, and why."""

    chosen: Raced
    asked: float
    """share of successes"""
    race: tuple[Raced, ...]
    """all settings, in the order given"""

    @property
    def reached(self) -> bool:
        """Whether the chosen setting succeeded as often as was asked."""
        return self.chosen.rate >= self.asked

    @property
    def frontier(self) -> tuple[Raced, ...]:
        """Those that stayed to the end and succeed more often than all cheaper ones, cheapest first."""
        found: list[Raced] = []
        whole = [raced for raced in self.race if raced.left_after is None]
        for raced in sorted(whole, key=lambda r: (r.tflops, -r.successes)):
            if not found or raced.successes > found[-1].successes:
                found.append(raced)
        return tuple(found)

    def in_words(self) -> str:
        """One line: what is used, and what it was chosen from."""
        mine = self.chosen
        says = "the cheapest that reaches" if self.reached else "the best there is; none reaches"
        return (
            f"planner: {mine.method.setting}, {says} {self.asked:.0%}: {mine.successes} of "
            f"{mine.episodes} at {mine.tflops:.3g} TFLOPs an episode, of {len(self.race)} settings"
        )


def race(
    methods: Sequence[Method],
    trials: Sequence[Trial],
    run: Run,
    asked: float = 0.95,
    rounds: int = 3,
) -> Choice:
    """Try settings on more and more of the trials, each round twice as many as the one before.

    trials: drawn at random, so that the first ones stand for all.
    asked: share of successes that is wanted; the best there is, where none reaches it.
    """
    if not methods:
        raise EchelonError("planner: there is no setting to choose from")
    if not 0 < asked <= 1:
        raise EchelonError(f"success: {asked} is not a share above 0")
    if len(trials) < 2**rounds:
        raise EchelonError(
            f"trials: {len(trials)} are too few to choose by; use at least {2**rounds}"
        )
    ends = [len(trials) // 2**left for left in reversed(range(rounds))]
    wins = {m: np.zeros(0, bool) for m in methods}
    spent = {m: np.zeros(0) for m in methods}
    left: dict[Method, int] = {}
    for begin, end in zip([0, *ends[:-1]], ends, strict=True):
        for method in methods:
            if method in left:
                continue
            outcome = run(method, trials[begin:end])
            wins[method] = np.concatenate([wins[method], outcome.success])
            spent[method] = np.concatenate([spent[method], 2e-12 * outcome.macs])
        stayed = [m for m in methods if m not in left]
        best = max(stayed, key=lambda m: (wins[m].mean(), -spent[m].mean()))
        floor = min(asked, clopper_pearson(int(wins[best].sum()), end)[0])
        for method in stayed if end < len(trials) else ():
            high = clopper_pearson(int(wins[method].sum()), end)[1]
            cheaper = [m for m in stayed if 2 * spent[m].mean() < spent[method].mean()]
            enough = min(asked, wins[method].mean()) if high < asked else asked
            dear = any(wins[m].mean() >= enough for m in cheaper)
            if method != best and (high < floor or dear):
                left[method] = end
    found = tuple(
        Raced(m, len(wins[m]), int(wins[m].sum()), float(spent[m].mean()), left.get(m))
        for m in methods
    )
    whole = [raced for raced in found if raced.left_after is None]
    good = [raced for raced in whole if raced.rate >= asked]
    if good:
        chosen = min(good, key=lambda r: r.tflops)
    else:
        chosen = max(whole, key=lambda r: (r.rate, -r.tflops))
    return Choice(chosen, asked, found)
