"""The evidence as figures: success by distance, and success against compute."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from echelon.records import FLAT, Pooled
from echelon.report.compare import Comparison
from echelon.report.intervals import clopper_pearson
from echelon.report.style import LIGHT, Axes, Figure, Series, figure, name_axes, series


def legend_names(comparisons: Sequence[Comparison]) -> list[str]:
    """The entries of the legend of success by distance, in the order in which they are drawn."""
    return list(dict.fromkeys(name for c in comparisons for name, _ in c.shown))


def control_names(comparisons: Sequence[Comparison]) -> list[str]:
    """Controls in the order in which they first appear."""
    return list(dict.fromkeys(p.method for c in comparisons for p in c.controls))


def by_distance(comparisons: Sequence[Comparison], width: float) -> Figure:
    """Success of each method on each split, with exact intervals; a faint tick per model seed."""
    made, axes = figure(width, 300)
    names, controls = legend_names(comparisons), control_names(comparisons)
    step = min(0.8 / max(len(names), 1), 0.16)
    for index, name in enumerate(names):
        look = series(name, controls)
        offset = (index - (len(names) - 1) / 2) * step
        line: list[tuple[float, float]] = []
        for at, comparison in enumerate(comparisons):
            pooled = dict(comparison.shown).get(name)
            if pooled is None:
                continue
            x = at + offset
            dot(axes, x, pooled, look, size=7.5 if width > 500 else 6)
            for record in pooled.records if len(pooled.records) > 1 else ():
                y = 100 * record.successes / record.episodes
                axes.plot(
                    [x - step * 0.32, x + step * 0.32],
                    [y, y],
                    color=LIGHT[look.colour],
                    alpha=0.45,
                    linewidth=1,
                    zorder=2,
                )
            if not comparison.held_out:
                line.append((x, 100 * pooled.rate))
        if look.filled and not look.dashed and len(line) > 1:
            axes.plot(*zip(*line, strict=True), color=LIGHT[look.colour], alpha=0.3, linewidth=1.4)
    seen = sum(not c.held_out for c in comparisons)
    if 0 < seen < len(comparisons):
        # Other layouts are not a distance: the line of distances stops here.
        axes.axvline(seen - 0.5, color=LIGHT["soft"], linewidth=0.8, linestyle=(0, (2, 3)))
    axes.set_xticks(range(len(comparisons)), [_tick(c.split) for c in comparisons])
    axes.tick_params(axis="x", length=0, labelcolor=LIGHT["ink"])
    axes.grid(False, axis="x")
    axes.set_xlim(-0.5, len(comparisons) - 0.5)
    percent_axis(axes)
    cells = any(c.split[:1].isdigit() for c in comparisons)
    name_axes(axes, "path from start to goal, in cells" if cells else "", "goals reached")
    return made


def _tick(split: str) -> str:
    if split[:1].isdigit():
        return split.replace("-", "–", 1)
    return split.replace("held-out-layouts", "held-out\nmazes")


def dot(axes: Axes, x: float, pooled: Pooled, look: Series, size: float) -> None:
    """A success rate at `x`, with its exact interval."""
    low, high = clopper_pearson(pooled.successes, pooled.episodes)
    colour = LIGHT[look.colour]
    axes.plot([x, x], [100 * low, 100 * high], color=colour, linewidth=1.8, zorder=3)
    axes.plot(
        [x],
        [100 * pooled.rate],
        look.marker,
        color=colour,
        markerfacecolor=colour if look.filled else LIGHT["panel"],
        markeredgewidth=1.6,
        markersize=size,
        zorder=4,
    )


def percent_axis(axes: Axes, size: float = 11.0) -> None:
    """From 0 to 100 %, with room for marks at either end."""
    axes.set_ylim(-3, 103)
    axes.set_yticks([0, 25, 50, 75, 100], ["0%", "25%", "50%", "75%", "100%"], fontsize=size)


def compute_range(comparisons: Sequence[Comparison]) -> tuple[float, float]:
    """Common limits of the compute axes, so that panels can be compared."""
    spent = [p.tflops_per_episode for c in comparisons for p in c.everything]
    spent = [value for value in spent if value > 0] or [1.0]
    return min(spent) / 1.5, max(spent) * 1.5


def against_compute(
    comparison: Comparison, controls: list[str], limits: tuple[float, float]
) -> Figure:
    """Success against TFLOPs per episode on one split: the settings of each method, and a line
    through those that reach more than all cheaper ones.
    """
    made, axes = figure(372, 270)
    draw_against_compute(axes, comparison, controls, limits)
    return made


def draw_against_compute(
    axes: Axes,
    comparison: Comparison,
    controls: list[str],
    limits: tuple[float, float],
    scale: float = 1.0,
) -> None:
    """Draw the panel of `against_compute` into `axes`; `scale` enlarges its marks and its text."""
    axes.set_xscale("log")
    low, high = limits
    methods = list(dict.fromkeys(p.method for p in comparison.everything))
    for method in reversed(methods):
        look = series(method, controls)
        if method == FLAT:
            look = Series("flat", "s")
        own = [p for p in comparison.everything if p.method == method]
        # A method that computes nothing has no place on a log axis; it stands at the left edge.
        points = sorted(((max(p.tflops_per_episode, low * 1.12), p) for p in own), key=_first)
        best = [(x, p) for i, (x, p) in enumerate(points) if _rises(points[: i + 1])]
        axes.plot(
            [x for x, _ in best],
            [100 * p.rate for _, p in best],
            color=LIGHT[look.colour],
            linewidth=1.6 * scale,
            linestyle=(0, (3, 2)) if look.dashed else "-",
            alpha=0.9,
            zorder=2,
        )
        for x, pooled in points:
            main = pooled is comparison.hierarchical
            dot(axes, x, pooled, look, size=(8.5 if main else 5.5) * scale)
    axes.set_xlim(low, high)
    percent_axis(axes, 11 * scale)
    axes.xaxis.set_major_formatter(FuncFormatter(tick))
    decades = high / low > 500
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if decades else (1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", labelsize=11 * scale)
    name_axes(axes, "TFLOPs per episode (log)", "goals reached", 11 * scale)


def _rises(points: Sequence[tuple[float, Pooled]]) -> bool:
    """Whether no cheaper setting reaches as much as the last one."""
    *cheaper, (_, last) = points
    return all(p.rate < last.rate for _, p in cheaper)


def tick(value: float, _: object = None) -> str:
    """A tick's label, without powers of ten."""
    return f"{value:,.6f}".rstrip("0").rstrip(".")


def _first(pair: tuple[float, Pooled]) -> float:
    return pair[0]
