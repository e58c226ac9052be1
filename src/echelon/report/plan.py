"""One plan as a picture: where it goes, how sure that looks, how steep the way is, what it took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import figure as mpl_figure
from numpy.typing import NDArray

from echelon.report.style import LIGHT, Axes, Figure, dress, level_colour, name_axes

Image = NDArray[np.uint8]


def plan_picture(
    levels: Sequence[Mapping[str, Any]],
    observation: Image,
    goal: Image,
    shown: Mapping[str, Mapping[int, Sequence[Image]]],
    out: Path,
) -> Path:
    """Write a PNG and return its path.

    levels: as `Agent.explain` gives them, the highest first.
    shown: images that stand for each predicted state, by what they are called, then by level; there
        is a row for each.
    """
    rows = [
        (level, name, images[level["level"]])
        for level in levels
        for name, images in shown.items()
        if level["level"] in images
    ]
    widest = max((len(images) for _, _, images in rows), default=0)
    columns = max(4, 2 + widest)
    made: Figure = mpl_figure.Figure(
        figsize=(1.7 * columns + 1.2, 2.2 * max(1, len(rows)) + 3.6),
        layout="constrained",
        facecolor="white",
    )
    above, below = made.subfigures(2, 1, height_ratios=(2.2 * max(1, len(rows)), 3.6))
    grid: Any = above.subplots(max(1, len(rows)), columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    _show(grid[0][0], observation, "now")
    _show(grid[0][-1], goal, "goal")
    for axes_row, (level, name, images) in zip(grid[: len(rows)], rows, strict=True):
        _subgoals(axes_row[1:-1], level, images)
        left = axes_row[1]
        beside = {"rotation": 90, "ha": "right", "va": "center", "transform": left.transAxes}
        left.text(-0.05, 0.5, name, fontsize=10, color=LIGHT["soft"], **beside)
    ways: Any = below.subplots(1, len(levels) + 1, width_ratios=[1.0] * len(levels) + [0.9])
    for axes, level in zip(ways, levels, strict=False):
        _way(axes, level)
    _spent(ways[-1], levels)
    made.savefig(out, dpi=110, metadata={"Software": None})
    return out


def _show(axes: Axes, image: Image, title: str, colour: str = LIGHT["ink"]) -> None:
    axes.imshow(image, interpolation="nearest")
    axes.set_title(title, fontsize=11, color=colour)


def _subgoals(row: Sequence[Axes], level: Mapping[str, Any], frames: Sequence[Image]) -> None:
    """The predicted states of a level, each with the share of the way that would be left."""
    for step, (axes, frame) in enumerate(zip(row, frames, strict=False)):
        time = f"+{(step + 1) * level['duration']} steps"
        pursued = step == level.get("pursued")
        left = f"\n{level['left'][step]:.0%} left" if "left" in level else ""
        colour = level_colour(level["level"]) if pursued else LIGHT["soft"]
        _show(axes, frame, f"{time}{left}" + (" ◂" if pursued else ""), colour)


def _way(axes: Axes, level: Mapping[str, Any]) -> None:
    """Distance to the goal of this level along its plan, and along sequences drawn at random."""
    dress(axes, 10)
    steps = [level["duration"] * t for t in range(len(level["distance"]) + 1)]
    colour = level_colour(level["level"])
    band = level["distance_at_random"]
    axes.fill_between(
        steps[1:], band["low"], band["high"], color=LIGHT["line"], alpha=0.7, linewidth=0
    )
    axes.plot(steps, [level["distance_now"], *level["distance"]], "o-", color=colour, ms=4)
    axes.set_ylim(bottom=0)
    name_axes(axes, "environment steps", "distance to its goal", 10)
    axes.set_title(
        f"level {level['level']} (grey: 8 in 10 at random)",
        fontsize=11,
        color=LIGHT["ink"],
        loc="left",
    )


def _spent(axes: Axes, levels: Sequence[Mapping[str, Any]]) -> None:
    """What each level took."""
    dress(axes, 10)
    names = [f"level {level['level']}" for level in levels]
    values = [level["spent"]["gflops"] for level in levels]
    colours = [level_colour(level["level"]) for level in levels]
    axes.barh(names, values, color=colours, height=0.55)
    for row, level in enumerate(levels):
        spent = level["spent"]
        says = f" {spent['predictor_calls']} calls, {1e3 * spent['seconds']:.0f} ms"
        axes.text(values[row], row, says, va="center", fontsize=9, color=LIGHT["soft"])
    axes.set_xlim(0, 1.9 * max([*values, 1e-9]))
    axes.invert_yaxis()
    name_axes(axes, "GFLOPs", "", 10)
    axes.set_title("compute", fontsize=11, color=LIGHT["ink"], loc="left")
