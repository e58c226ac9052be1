"""The models as figures: how far ahead each level can see, and how it uses its latent space."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.ticker import FuncFormatter, NullFormatter

from echelon import scales
from echelon.report.inputs import Curve, DistanceByGap, DistanceMap, Grid, Latent, OpenLoop
from echelon.report.plots import tick
from echelon.report.style import LIGHT, Axes, Figure, figure, level_colour, name_axes

_BASELINES = ((0, (5, 3)), (0, (1, 2)), (0, (5, 2, 1, 2)))


def open_loop(data: OpenLoop, width: float) -> Figure:
    """Error against time ahead, one curve a level, baselines in grey."""
    made, axes = figure(width, 310)
    positive = all(e > 0 for c in data.curves for e in c.error)
    later = all(s > 0 for c in data.curves for s in c.steps)
    if later:
        axes.set_xscale("log")
    if positive:
        axes.set_yscale("log")
    baselines = iter(_BASELINES * len(data.curves))
    for curve in data.curves:
        colour = level_colour(curve.level)
        if curve.level is None:
            axes.plot(
                curve.steps, curve.error, color=colour, linewidth=1.5, linestyle=next(baselines)
            )
        else:
            marker = "osD^"[curve.level % 4]
            axes.plot(
                curve.steps, curve.error, color=colour, linewidth=2, marker=marker, markersize=5
            )
            if curve.low:
                floor = min(curve.error) / 10 if positive else -math.inf
                low = [max(value, floor) for value in curve.low]
                axes.fill_between(
                    curve.steps, low, curve.high, color=colour, alpha=0.18, linewidth=0
                )
    for level, at in crossings(data):
        fine = next(c for c in data.curves if c.level == level)
        y = float(np.interp(at, fine.steps, fine.error))
        axes.plot([at], [y], "o", markersize=13, markerfacecolor="none", color=LIGHT["ink"])
        axes.annotate(
            f"cross at {at:.0f}",
            (at, y),
            (0, -22),
            textcoords="offset points",
            ha="center",
            fontsize=11,
            color=LIGHT["ink"],
        )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(tick))
        axis.set_minor_formatter(NullFormatter())
    spans = [s for c in data.curves for s in c.steps]
    if later and spans:
        ticks = [t for e in range(5) for t in (10**e, 2 * 10**e, 5 * 10**e)]
        axes.set_xticks([t for t in ticks if min(spans) <= t <= max(spans)])
    errors = [e for c in data.curves for e in c.error]
    if positive and errors:
        ticks = [m * 10.0**e for e in range(-4, 5) for m in (1, 2, 5)]
        axes.set_yticks([t for t in ticks if min(errors) / 1.3 <= t <= max(errors) * 1.3])
    name_axes(axes, "environment steps ahead (log)", f"mean error, {data.unit}")
    return made


def crossings(data: OpenLoop) -> list[tuple[int, float]]:
    """For neighbouring levels: (the finer one, steps ahead from which the coarser errs less)."""
    curves = {c.level: c for c in data.curves if c.level is not None}
    out: list[tuple[int, float]] = []
    for level in sorted(curves):
        if level + 1 in curves:
            at = crossing(curves[level], curves[level + 1])
            if at is not None:
                out.append((level, at))
    return out


def crossing(fine: Curve, coarse: Curve) -> float | None:
    """Steps ahead from which on the coarse curve lies below the fine one; None if it never does."""
    return scales.crossing(fine.steps, fine.error, coarse.steps, coarse.error)


def say_crossings(data: OpenLoop) -> str:
    """The figure's finding, in a sentence per pair of levels."""
    curves = {c.level: c for c in data.curves if c.level is not None}
    found = dict(crossings(data))
    out: list[str] = []
    for level in sorted(curves):
        if level + 1 not in curves:
            continue
        fine, coarse = curves[level], curves[level + 1]
        if level not in found:
            out.append(f"“{coarse.name}” never errs less than “{fine.name}” in the range measured.")
        elif found[level] <= max(min(fine.steps), min(coarse.steps)):
            out.append(f"“{coarse.name}” errs less than “{fine.name}” at every span both reach.")
        else:
            out.append(
                f"From about {found[level]:.0f} steps ahead, “{coarse.name}” errs less than "
                f"“{fine.name}”."
            )
    return " ".join(out)


def spread(latent: Latent) -> Figure:
    """Standard deviation of each latent dimension, largest first."""
    made, axes = figure(300, 252)
    values = sorted(latent.std, reverse=True)
    axes.bar(range(1, len(values) + 1), values, color=level_colour(latent.level), width=0.7)
    axes.grid(False, axis="x")
    last = len(values)
    axes.set_xticks(sorted({1, *range(4 if last < 40 else 16, last + 1, 4 if last < 40 else 16)}))
    axes.set_ylim(0, max([*values, 0.1]) * 1.12)
    name_axes(axes, "latent dimension, sorted", "standard deviation")
    return made


def distance_by_gap(level: int, data: DistanceByGap) -> Figure:
    """Latent distance between two moments, against the time between them."""
    made, axes = figure(300, 252)
    colour = level_colour(level)
    axes.plot(data.steps, data.mean, color=colour, linewidth=2)
    if data.low:
        axes.fill_between(data.steps, data.low, data.high, color=colour, alpha=0.2, linewidth=0)
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    name_axes(axes, "environment steps apart", "latent distance")
    return made


def distance_map(data: DistanceMap, layout: Grid | None) -> Figure:
    """Latent distance to the goal, over the places of a maze."""
    made, axes = figure(300, 252)
    maze = layout or _around(data)
    draw_maze(axes, maze, LIGHT["line"])
    cells = {(int(r), int(c)): d for (r, c), d in zip(data.places, data.distance, strict=True)}
    if len(cells) == len(data.places):
        # One place a cell is drawn as the cell; a cloud of places as dots.
        grid = np.full((len(maze), len(maze[0])), np.nan)
        for (r, c), distance in cells.items():
            grid[r, c] = distance
        shown = axes.pcolormesh(
            np.ma.masked_invalid(grid), cmap="viridis_r", edgecolors="face", linewidth=0.3, zorder=2
        )
    else:
        shown = axes.scatter(
            [c for _, c in data.places],
            [r for r, _ in data.places],
            c=data.distance,
            cmap="viridis_r",
            s=9,
            linewidths=0,
            rasterized=len(data.places) > 800,
            zorder=2,
        )
    row, column = data.goal
    axes.plot([column], [row], "*", markersize=15, color="#ffffff", markeredgecolor="#1b2131")
    bar = made.colorbar(shown, ax=axes, shrink=0.85, aspect=22, pad=0.03)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=10, color=LIGHT["line"], labelcolor=LIGHT["soft"])
    return made


def draw_maze(axes: Axes, layout: Grid, colour: str) -> None:
    """Walls as squares, one cell a unit, row 0 on top."""
    rows, columns = len(layout), len(layout[0])
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)
    axes.set_aspect("equal")
    axes.axis("off")
    for r, row in enumerate(layout):
        begin = 0
        while begin < columns:
            # A run of wall is one rectangle: fewer seams, a smaller file.
            length = next((i for i, v in enumerate(row[begin:]) if not v), columns - begin)
            if length:
                axes.fill_between(
                    [begin, begin + length], r, r + 1, color=colour, linewidth=0.3, zorder=1
                )
            begin += length + 1


def _around(data: DistanceMap) -> Grid:
    """An empty room that holds every place, where no layout was given."""
    size = 1 + math.ceil(max(max(place) for place in (*data.places, data.goal)))
    return tuple((0,) * size for _ in range(size))
