"""Our success beside published figures: a table, and a picture with what it costs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from matplotlib import figure as mpl_figure
from matplotlib.lines import Line2D

from echelon.records import CONTROL, Pooled, Record, pool
from echelon.report.compare import (
    at_equal_compute,
    compare,
    interval,
    number,
    percent,
    span,
    summed_up,
)
from echelon.report.plots import dot, percent_axis, tick
from echelon.report.style import LIGHT, Axes, Figure, Series, dress, label, name_axes, series

Name = tuple[str, str]
"""method, setting"""


Published: TypeAlias = Mapping[str, Mapping[str, float]]
"""success in %, by name and split"""


def published_table(records: Sequence[Record], published: Published, splits: Sequence[str]) -> str:
    """Markdown: a row a method and setting, then those that were published. Times are means over
    splits, of one environment's decision among many that are planned for at once.
    """
    pooled = {(p.method, p.setting, p.split): p for p in pool(records)}
    names = list(dict.fromkeys((method, setting) for method, setting, _ in pooled))
    header = ["Method", *splits, *(f"TFLOPs, {split}" for split in splits), "ms a decision"]
    lines = ["| " + " | ".join(header) + " |", "|---" + "|--:" * (2 * len(splits) + 1) + "|"]
    for method, setting in names:
        here = [pooled.get((method, setting, split)) for split in splits]
        success = ["–" if p is None else f"{percent(p)} [{interval(p)}]" for p in here]
        spent = ["–" if p is None else number(p.tflops_per_episode) for p in here]
        took = [1e3 * p.seconds_per_decision for p in here if p is not None]
        cells = [f"{method} `{setting}`", *success, *spent, f"{sum(took) / len(took):.2g}"]
        lines.append("| " + " | ".join(cells) + " |")
    for name, figures in published.items():
        cells = [f"{figures[split]:g}%" if split in figures else "–" for split in splits]
        cells += ["–"] * (len(splits) + 1)
        lines.append("| " + " | ".join([f"*{name}*", *cells]) + " |")
    return "\n".join(lines)


def overview(tasks: Mapping[str, tuple[Sequence[Record], Published]]) -> str:
    """Markdown: every split of some tasks, by the title that each goes under, in a row."""
    header = ("Goals", "Hierarchical", "Flat, same cost, equal compute", "Flat, best", "Random")
    lines = [f"| {' | '.join(header)} | Published |", "|---|--:|--:|--:|--:|---|"]
    for title, (records, published) in tasks.items():
        for c in compare(records):
            same, dearer = at_equal_compute(c.hierarchical, c.of(f"{CONTROL}flat-same-cost"))
            random = next(iter(c.of(f"{CONTROL}random")), None)
            chosen = (c.hierarchical, same, c.best, random)
            cells = ["–" if p is None else summed_up(p) for p in chosen]
            cells[1] += " \\*" if dearer else ""
            theirs = [f"{n} {f[c.split]:g}%" for n, f in published.items() if c.split in f]
            lines.append(f"| {title}, {c.split} | {' | '.join(cells)} | {'; '.join(theirs)} |")
    trials = span([p.episodes for records, _ in tasks.values() for p in pool(records)])
    lines += [
        "",
        f"Success [95% exact interval] · TFLOPs per episode; {trials} paired trials a cell.",
    ]
    if any(" \\* |" in line for line in lines):
        lines.append("\\* no setting was as cheap as the hierarchy; this is the cheapest.")
    return "\n".join(lines)


def published_picture(
    records: Sequence[Record],
    published: Published,
    splits: Sequence[str],
    unit: str,
    path: Path,
) -> Path:
    """A wide PNG: success at each of the `splits`, beside what was published; success against compute
    at the last one.

    unit: what splits tell apart
    """
    pooled = [p for p in pool(records) if p.split in splits]
    looks = _looks(list(dict.fromkeys((p.method, p.setting) for p in pooled)))
    made: Figure = mpl_figure.Figure(figsize=(14, 6.4), layout="constrained", facecolor="white")
    left, right = made.subplots(1, 2, width_ratios=(1.25, 1))
    for axes in (left, right):
        dress(axes, 14)
        percent_axis(axes, 14)
    _by_split(left, pooled, looks, splits, unit)
    by_number = {
        name: {splits.index(split): y for split, y in figures.items()}
        for name, figures in published.items()
    }
    _published(left, by_number, splits)
    far = [p for p in pooled if p.split == splits[-1]]
    _by_compute(right, far, looks)
    title = {"fontsize": 15, "color": LIGHT["ink"], "loc": "left"}
    trials = span([p.episodes for p in pooled])
    left.set_title(f"{trials} trials a mark, with 95% exact intervals", **title)
    right.set_title(f"{unit}: {_dashed(splits[-1])}", **title)
    handles = [_handle(name, look, looks) for name, look in looks.items()]
    columns = len(handles) if len(handles) <= 5 else 3
    style = {"fontsize": 14, "frameon": False, "labelcolor": LIGHT["ink"]}
    made.legend(handles=handles, loc="outside lower center", ncols=columns, **style)
    made.get_layout_engine().set(w_pad=0.2, h_pad=0.12)
    made.savefig(path, dpi=110, metadata={"Software": None})
    return path


def _dashed(split: str) -> str:
    return re.sub(r"(\d)-(\d)", r"\1–\2", split)


def _looks(names: Sequence[Name]) -> dict[Name, Series]:
    """The first setting of a method looks as everywhere; further ones are hollow."""
    methods = [method for method, _ in names]
    controls = [m for m in dict.fromkeys(methods) if m.startswith(CONTROL)]
    looks: dict[Name, Series] = {}
    for index, name in enumerate(names):
        look = series(name[0], controls)
        before = methods[:index].count(name[0])
        looks[name] = (
            replace(look, filled=False, marker="DpXh*8"[(before - 1) % 6]) if before else look
        )
    return looks


def _handle(name: Name, look: Series, looks: Mapping[Name, Series]) -> Line2D:
    """An entry of the legend; a setting is named where its method has several."""
    method, setting = name
    several = sum(other == method for other, _ in looks) > 1
    colour = LIGHT[look.colour]
    return Line2D(
        [],
        [],
        color=colour,
        marker=look.marker,
        markerfacecolor=colour if look.filled else LIGHT["panel"],
        markeredgewidth=1.8,
        markersize=10,
        linestyle="none",
        label=f"{label(method)}, {setting}" if several else label(method),
    )


def _by_split(
    axes: Axes,
    pooled: Sequence[Pooled],
    looks: Mapping[Name, Series],
    splits: Sequence[str],
    unit: str,
) -> None:
    step = min(0.6 / len(looks), 0.14)
    for index, (name, look) in enumerate(looks.items()):
        offset = (index - (len(looks) - 1) / 2) * step
        own = [p for p in pooled if (p.method, p.setting) == name]
        places = [splits.index(p.split) + offset for p in own]
        rates = [100 * p.rate for p in own]
        axes.plot(places, rates, color=LIGHT[look.colour], alpha=0.3, linewidth=1.6, zorder=2)
        for x, found in zip(places, own, strict=True):
            dot(axes, x, found, look, 10)
    axes.set_xticks(range(len(splits)), [_dashed(split) for split in splits])
    axes.tick_params(axis="x", length=0, labelcolor=LIGHT["ink"])
    axes.grid(False, axis="x")
    axes.set_xlim(-0.5, len(splits) - 0.6)
    name_axes(axes, unit, "goals reached", 14)


def _published(
    axes: Axes, published: Mapping[str, Mapping[int, float]], splits: Sequence[str]
) -> None:
    """Dashed lines over splits, by their numbers, each named beside the axes; names keep apart."""
    grey, room, end = LIGHT["soft"], 6.5, len(splits) - 1
    style = {"color": grey, "fontsize": 13, "va": "center", "annotation_clip": False}
    free = 100 - room
    for name, figures in sorted(published.items(), key=lambda p: -p[1][max(p[1])]):
        (x, y), last = zip(*sorted(figures.items()), strict=True), max(figures)
        alone = len(figures) == 1
        x, y = ((last - 0.4, last + 0.4), (*y, *y)) if alone else (x, y)
        axes.plot(x, y, "--", color=grey, linewidth=1.8, zorder=1)
        axes.plot((x[-1], end + 0.4), (y[-1], y[-1]), ":", color=grey, linewidth=0.8, zorder=1)
        at = min(figures[last], free)
        free = at - room
        text = name if alone else name.replace(", ", ",\n")
        axes.annotate(text, (end + 0.45, at), **style)


def _by_compute(axes: Axes, pooled: Sequence[Pooled], looks: Mapping[Name, Series]) -> None:
    """On a log axis; what computes nothing stands left of it."""
    spent = [p.tflops_per_episode for p in pooled if p.tflops_per_episode > 0] or [1.0]
    low, high = min(spent) / 1.6, max(spent) * 1.4
    nothing = low / (high / low) ** 0.18
    axes.set_xscale("log")
    for found in pooled:
        x = found.tflops_per_episode or nothing
        dot(axes, x, found, looks[found.method, found.setting], 11)
    steps = [m * 10.0**e for e in range(-9, 6) for m in ((1,) if high / low > 100 else (1, 2, 5))]
    shown = [step for step in steps if low <= step <= high]
    zero = [nothing] if len(spent) < len(pooled) else []
    axes.set_xticks([*zero, *shown], [*("0" for _ in zero), *map(tick, shown)])
    axes.set_xticks([], minor=True)
    if zero:
        axes.axvline(low, color=LIGHT["soft"], linewidth=0.8, linestyle=(0, (2, 3)))
    axes.set_xlim((nothing**2 / low) if zero else low, high)
    name_axes(axes, "TFLOPs per episode (log)", "goals reached", 14)
