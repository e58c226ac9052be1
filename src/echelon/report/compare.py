"""What the records say: who is compared with whom, and the words for each outcome.

No sentence here is a claim until the numbers choose it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from echelon.records import CONTROL, FLAT, HIERARCHICAL, Pooled, Record, method_key, pool, split_key
from echelon.report.intervals import clopper_pearson, fisher_p
from echelon.types import EchelonError

EQUAL_COMPUTE = 1.1
"""flat planning may spend this much of the hierarchy's compute and still count as equal"""
SIGNIFICANT = 0.05
"""two methods differ where a test of their counts gives a smaller p"""
ENOUGH_EPISODES, ENOUGH_SEEDS = 100, 3

Verdict = Literal["better", "same", "worse"]


@dataclass(frozen=True)
class Comparison:
    """One split: the hierarchy's main setting, and what it is held against."""

    split: str
    hierarchical: Pooled | None
    """its setting "default", or the first one"""
    equal: Pooled | None
    """the most successful flat setting with at most 1.1 x the hierarchy's compute"""
    equal_is_dearer: bool
    """no flat setting was as cheap, so `equal` is the cheapest there is"""
    best: Pooled | None
    """the most successful flat setting at any compute; of equals, the cheapest"""
    controls: tuple[Pooled, ...]
    """the most successful setting of each control"""
    everything: tuple[Pooled, ...]

    @property
    def held_out(self) -> bool:
        return "held-out" in self.split

    def of(self, method: str) -> list[Pooled]:
        """All settings of a method."""
        return [p for p in self.everything if p.method == method]

    @property
    def shown(self) -> tuple[tuple[str, Pooled], ...]:
        """What a plot by split shows, under the names of its legend."""
        named = [(HIERARCHICAL, self.hierarchical), ("flat, equal compute", self.equal)]
        named += [("flat, best", self.best)] + [(c.method, c) for c in self.controls]
        return tuple((name, pooled) for name, pooled in named if pooled is not None)


def compare(records: Iterable[Record]) -> list[Comparison]:
    """One comparison per split, from near to far."""
    pooled = pool(records)
    if not pooled:
        raise EchelonError("records: the list is empty; evaluate something first")
    if len(tasks := sorted({p.task for p in pooled})) > 1:
        raise EchelonError(f"records: a report shows one task, not {', '.join(tasks)}")
    splits = sorted({p.split for p in pooled}, key=split_key)
    return [_compare(s, tuple(p for p in pooled if p.split == s)) for s in splits]


def _compare(split: str, everything: tuple[Pooled, ...]) -> Comparison:
    ours = [p for p in everything if p.method == HIERARCHICAL]
    flat = [p for p in everything if p.method == FLAT]
    main = next((p for p in ours if p.setting == "default"), ours[0] if ours else None)
    equal, dearer = at_equal_compute(main, flat)
    names = sorted({p.method for p in everything if p.method.startswith(CONTROL)}, key=method_key)
    controls = [_most_successful([p for p in everything if p.method == name]) for name in names]
    return Comparison(
        split=split,
        hierarchical=main,
        equal=equal,
        equal_is_dearer=dearer,
        best=_most_successful(flat),
        controls=tuple(c for c in controls if c is not None),
        everything=everything,
    )


def at_equal_compute(main: Pooled | None, choices: Sequence[Pooled]) -> tuple[Pooled | None, bool]:
    """The most successful choice with at most 1.1 x the compute of `main`; where there is none, the
    cheapest, and that it is dearer.
    """
    if main is None or not choices:
        return None, False
    limit = EQUAL_COMPUTE * main.tflops_per_episode
    if cheap := [p for p in choices if p.tflops_per_episode <= limit]:
        return _most_successful(cheap), False
    return min(choices, key=lambda p: p.tflops_per_episode), True


def _most_successful(choices: Sequence[Pooled]) -> Pooled | None:
    return min(choices, key=lambda p: (-p.rate, p.tflops_per_episode), default=None)


def farthest(comparisons: Sequence[Comparison]) -> Comparison:
    """The split that a report leads with: the farthest one on layouts that were trained on."""
    seen = [c for c in comparisons if not c.held_out]
    return (seen or comparisons)[-1]


def verdict(ours: Pooled, theirs: Pooled) -> Verdict:
    """Whether the difference in success is more than chance explains."""
    p = fisher_p(ours.successes, ours.episodes, theirs.successes, theirs.episodes)
    if p >= SIGNIFICANT:
        return "same"
    return "better" if ours.rate > theirs.rate else "worse"


def percent(pooled: Pooled) -> str:
    """The success rate, as text."""
    return f"{100 * pooled.rate:.0f}%"


def interval(pooled: Pooled) -> str:
    """The 95% interval of the success rate, in percent, as text."""
    low, high = clopper_pearson(pooled.successes, pooled.episodes)
    return f"{100 * low:.0f}–{100 * high:.0f}"


def summed_up(pooled: Pooled) -> str:
    """Success, its interval and TFLOPs, as a table's cell."""
    return f"{percent(pooled)} [{interval(pooled)}] · {number(pooled.tflops_per_episode)}"


def number(value: float) -> str:
    """Three significant digits, never in powers of ten."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    text = f"{value:#.3g}"
    return f"{value:.6f}".rstrip("0") if "e" in text else text.rstrip(".")


def span(values: Sequence[int]) -> str:
    """The least and the greatest of some counts, or the one that all are."""
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}–{high}"


def compute(numerator: Pooled, denominator: Pooled) -> str:
    """What the one spends, measured by the other, in words that fit after "with"."""
    if denominator.tflops_per_episode <= 0:
        return f"{number(numerator.tflops_per_episode)} TFLOPs an episode"
    ratio = numerator.tflops_per_episode / denominator.tflops_per_episode
    if 1 / EQUAL_COMPUTE <= ratio <= EQUAL_COMPUTE:
        return "the same compute"
    return f"{ratio:.0f} times the compute" if ratio >= 9.95 else f"{ratio:.2g} times the compute"


def place(split: str) -> str:
    """A split in words that fit after "goals"."""
    if split[:1].isdigit():
        last = split.split("-")[-1]
        return f"{split.replace('-', '–')} cell{'' if last == '1' else 's'} away"
    return {"held-out-layouts": "in mazes never trained in"}.get(split, f"({split})")


def headline(comparisons: Sequence[Comparison]) -> str:
    """The answer in one sentence, for the farthest goals."""
    far = farthest(comparisons)
    ours, equal, best, where = far.hierarchical, far.equal, far.best, place(far.split)
    if ours is None and best is None:
        return f"Neither hierarchical nor flat planning was tried on goals {where}."
    if ours is None and best is not None:
        return (
            f"Flat planning reaches {percent(best)} of the goals {where}; "
            "hierarchical planning was not tried."
        )
    assert ours is not None
    if equal is None or best is None:
        return (
            f"Hierarchical planning reaches {percent(ours)} of the goals {where}; "
            "no flat planner was tried, so there is nothing to compare it with."
        )
    # As a doer in a sentence, and with its result in brackets.
    doer = "flat planning with the same compute"
    bracket = f"{doer} ({percent(equal)})"
    if far.equal_is_dearer:
        doer = f"flat planning at its cheapest, with {compute(equal, ours)},"
        bracket = f"flat planning at its cheapest ({percent(equal)}, with {compute(equal, ours)})"
    outcome = verdict(ours, equal)
    if outcome == "better":
        first = f"Hierarchical planning reaches {percent(ours)} of the goals {where}; {doer} "
        first += f"reaches {percent(equal)}"
    elif outcome == "worse":
        first = f"Flat planning is better here: {doer} reaches {percent(equal)} of the goals "
        first += f"{where}, hierarchical planning {percent(ours)}"
    else:
        first = f"On goals {where}, hierarchical planning ({percent(ours)}) and {bracket} "
        first += "cannot be told apart"
    return f"{first}, {_at_best(ours, equal, best, outcome)}."


def _at_best(ours: Pooled, equal: Pooled, best: Pooled, outcome: Verdict) -> str:
    if best is equal:
        return "and no flat setting that was tried reaches more"
    cost = compute(best, ours)
    match verdict(ours, best):
        case "better":
            return f"and flat planning's best, {percent(best)} with {cost}, is still below it"
        case "same":
            return (
                f"and flat planning's best is {percent(best)}, as good within chance, with {cost}"
            )
        case "worse":
            return f"while flat planning's best, with {cost}, reaches more: {percent(best)}"


def notes(comparisons: Sequence[Comparison]) -> list[str]:
    """What a reader of the headline must know as well: controls, other splits, thin evidence."""
    far = farthest(comparisons)
    out: list[str] = []
    ours = far.hierarchical
    if ours is not None:
        for control in far.controls:
            outcome = verdict(ours, control)
            if outcome == "better":
                continue
            how = "does as well within chance" if outcome == "same" else "does better"
            out.append(
                f"The control “{control.method.removeprefix(CONTROL)}” {how}: {percent(control)} "
                f"of the goals {place(far.split)}, with {compute(control, ours)}."
            )
    others = [c for c in comparisons if c is not far]
    words: tuple[tuple[Verdict, str], ...] = (
        ("better", "hierarchical planning is ahead"),
        ("same", "flat planning is as good within chance"),
        ("worse", "flat planning is ahead"),
    )
    for dearer, budget in ((False, "At equal compute"), (True, "At flat's cheapest,")):
        for outcome, text in words:
            which = [
                f"{place(c.split)} ({percent(c.hierarchical)} against {percent(c.equal)})"
                for c in others
                if c.hierarchical and c.equal and c.equal_is_dearer == dearer
                if verdict(c.hierarchical, c.equal) == outcome
            ]
            if which:
                out.append(f"{budget} {text} on goals {'; '.join(which)}.")
    ahead = [
        f"{place(c.split)} ({percent(c.best)} with {compute(c.best, c.hierarchical)})"
        for c in others
        if c.hierarchical and c.best and c.best is not c.equal
        if verdict(c.hierarchical, c.best) == "worse"
    ]
    if ahead:
        out.append(f"Flat planning at its best reaches more on goals {'; '.join(ahead)}.")
    if any(c.equal_is_dearer for c in comparisons):
        where = ", ".join(place(c.split) for c in comparisons if c.equal_is_dearer)
        out.append(
            f"No flat setting was as cheap as the hierarchy on goals {where}: “equal compute” "
            "there is flat planning's cheapest setting, which spends more."
        )
    shown = [pooled for c in comparisons for _, pooled in c.shown]
    seeds = min(len(p.seeds) for p in shown)
    episodes = min(p.episodes for p in shown)
    if seeds < ENOUGH_SEEDS or episodes < ENOUGH_EPISODES:
        out.append(
            f"Preliminary: some numbers rest on {episodes} trials and {seeds} model seed"
            f"{'' if seeds == 1 else 's'}; {ENOUGH_EPISODES} and {ENOUGH_SEEDS} are the least "
            "that this project calls a result."
        )
    return out
