"""The rule that turns measured scales into depth and strides. All times are environment steps.

Start and goal are worth planning between as long as the data still connects them: up to
the span that `KEPT` of the clips hold, or `FORGOTTEN` times the slowest direction's correlation time
if that is less. The fewest levels are taken with which no level plans more than `MOST` steps over
that span, and they share it evenly: two levels plan its square root each. Level 1 steps no further
than the fine level can be trusted to reach. Every window keeps `KEPT` of the clips.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from echelon.config import ModelConfig, StageConfig, TrainConfig
from echelon.data.windows import KEPT, lost_clips
from echelon.scales import Scales
from echelon.types import EchelonError

FORGOTTEN = 4
"""correlation times after which less than 2 % of a correlation is left"""
MOST = 12
"""steps that one level plans at most, and of the level below that one of its steps takes"""
DEEPEST = 4
"""levels that are ever proposed"""


@dataclass(frozen=True)
class Proposal:
    """Depth and strides, and why."""

    model: ModelConfig
    span: int
    """steps that a plan should bridge"""
    reasons: tuple[str, ...]
    """one sentence each"""


def deepest(longest: int) -> int:
    """Levels that clips of `longest` steps carry: each at least twice as long as the one below, and
    two steps of the top one in a window.
    """
    return max((n for n in range(1, DEEPEST + 1) if 2**n + 1 <= longest), default=0)


def strides(span: int, longest: int, reach: float, depth: int | None = None) -> tuple[int, ...]:
    """Strides of level 1 and up; none is one level.

    span: steps to bridge. longest: steps that a window may span. reach: steps that the fine level
    can be trusted with. depth: levels; None takes the fewest with which none plans over `MOST` steps.
    """
    limit = deepest(longest)
    first = rest = float(span)
    count = 1
    while count < limit if depth is None else count < depth:
        if depth is None and rest <= MOST and first <= MOST:
            break
        count += 1
        first = min(span ** (1 / count), max(reach, 2.0))
        rest = (span / first) ** (1 / (count - 1))
    made = [max(2, round(x)) for x in [first, *[rest] * (count - 2)][: count - 1]]
    if depth is None:
        made = [min(x, MOST) for x in made]
    while 2 * math.prod(made) + 1 > longest and max(made, default=2) > 2:
        made[made.index(max(made))] -= 1
    return tuple(made)


def propose(scales: Scales, base: ModelConfig | None = None, depth: int | None = None) -> Proposal:
    """Depth and strides by the rule above, each with its reason.

    base: everything but strides and rollouts; levels that it lacks are made like its last.
    depth: levels wanted; None lets the rule choose.
    """
    longest = scales.survival.longest
    limit = deepest(longest)
    if limit == 0:
        raise EchelonError(
            f"{_held(scales)}, and one level needs 3: record longer episodes, or drop the short ones"
        )
    if depth is not None and not 1 <= depth <= limit:
        raise EchelonError(
            f"depth: {depth} is not what the data carries ({_held(scales)}): use 1 to {limit}"
        )
    slow = scales.slowest
    span = scales.measured if slow is None else max(2, min(longest, round(FORGOTTEN * slow)))
    reach, cause = _reach(scales)
    base = base or ModelConfig()
    upper = base.levels[1:] or ModelConfig().levels[1:2]
    chosen = strides(span, longest, reach, depth)
    levels = [base.levels[0]]
    levels += [
        replace(upper[min(i, len(upper) - 1)], stride=stride) for i, stride in enumerate(chosen)
    ]
    duration = 1
    for i, level in enumerate(levels):
        duration *= level.stride
        levels[i] = replace(level, rollout=max(1, min(level.rollout, (longest - 1) // duration)))
    model = replace(base, levels=tuple(levels))
    shown = (
        _why_span(scales, span),
        cause,
        _why_depth(model, span, depth),
        _why_windows(model, scales),
    )
    return Proposal(model, span, tuple(reason for reason in shown if reason))


def _reach(scales: Scales) -> tuple[float, str]:
    """Steps that the fine level can be trusted with, and what ends them."""
    ends: list[tuple[float, str]] = []
    if (gap := scales.distances[0].saturates) is not None:
        ends.append((gap, "the distance to a subgoal stops growing"))
    if scales.crossings and (at := scales.crossings[0]) is not None:
        ends.append((at, "level 1 errs less than the fine rollout"))
    ends += [
        (at, f"“{name}” errs less than the fine rollout")
        for name, at in scales.beaten.items()
        if at is not None
    ]
    if not ends:
        return math.inf, ""
    reach, what = min(ends)
    return reach, f"A step of level 1 may take up to {_steps(reach)}: from there on {what}."


def _why_span(scales: Scales, span: int) -> str:
    if scales.slowest is None:
        return (
            f"The slowest direction has not forgotten its start in the {scales.measured} steps "
            f"measured: plans should bridge all {span}."
        )
    forgets = (
        f"The slowest direction forgets its start in {_steps(scales.slowest)}, and beyond "
        f"{FORGOTTEN} times that nothing connects start and goal"
    )
    if span == scales.survival.longest:
        return f"{forgets}; the clips end before: plans should bridge all their {span} steps."
    return f"{forgets}: plans should bridge {span} steps."


def _why_depth(model: ModelConfig, span: int, depth: int | None) -> str:
    wanted = " as you asked" if depth else ""
    if len(model.levels) == 1:
        return f"One level{wanted}: it can plan {span} steps by itself."
    top = math.ceil(span / model.durations[-1])
    made = " x ".join(str(x) for x in (*(level.stride for level in model.levels[1:]), top))
    return (
        f"{len(model.levels)} levels{wanted}, one step of each lasting "
        f"{', '.join(map(str, model.durations))}: {span} steps are about {made}, so no level plans "
        f"more than {max(top, *(level.stride for level in model.levels))} steps at a time."
    )


def _why_windows(model: ModelConfig, scales: Scales) -> str:
    window = 1 + model.window(range(len(model.levels)))
    return f"Training windows span up to {window} steps; {_held(scales)}."


def _held(scales: Scales) -> str:
    """How long the clips are."""
    share = f"{KEPT:.0%}".replace("%", " %")
    return f"{share} of the {scales.survival.clips} clips hold {scales.survival.longest} steps"


def _steps(value: float) -> str:
    return f"{value:.1f} steps" if value < 9.95 else f"{value:.0f} steps"


def fit_stages(train: TrainConfig, depth: int) -> TrainConfig:
    """The same training for a model of `depth` levels: stages of upper levels train all there are."""

    def fit(stage: StageConfig) -> StageConfig:
        lower = tuple(level for level in stage.levels if level == 0)
        upper = tuple(range(1, depth)) if max(stage.levels, default=0) > 0 else ()
        return replace(stage, levels=lower + upper)

    return replace(train, stages=tuple(fit(stage) for stage in train.stages))


def lost_in_training(model: ModelConfig, train: TrainConfig, lengths: np.ndarray) -> list[str]:
    """A sentence for each stage whose windows more than a tenth of the clips are too short for."""
    spans = {
        model.encoder.frames + train.window(model, stage)
        for stage in train.stages
        if max(stage.levels, default=0) < len(model.levels)
    }
    return [said for span in sorted(spans) if (said := lost_clips(lengths, span)) is not None]


def explain(scales: Scales, proposal: Proposal) -> str:
    """What was measured and what follows, for a terminal."""
    lines = [f"measured on {scales.source}, in environment steps"]
    times = ["longer" if d.time is None else f"{d.time:.0f}" for d in scales.directions[:8]]
    lines.append(f"  clips:      {_held(scales)}")
    lines.append(f"  directions: forget their start after {', '.join(times)} (most variance first)")
    for d in scales.distances:
        found = f"stops growing after {d.saturates:.0f}" if d.saturates else "grows to the end"
        lines.append(f"  distance:   of level {d.level} {found}")
    for i, at in enumerate(scales.crossings):
        found = "at no span measured" if at is None else f"from {at:.0f} ahead"
        lines.append(f"  error:      level {i + 1} errs less than level {i} {found}")
    for name, at in scales.beaten.items():
        found = "throughout" if at is None else f"up to {at:.0f} ahead"
        lines.append(f"  error:      the fine rollout is better than “{name}” {found}")
    lines.append("proposed")
    lines += [f"  {reason}" for reason in proposal.reasons]
    return "\n".join(lines)
