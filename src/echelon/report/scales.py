"""The scales of a data set as one picture: what was measured, and where the proposed levels stand."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib import figure as mpl_figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from echelon.config import ModelConfig
from echelon.files import write_atomically
from echelon.report.plots import tick
from echelon.report.style import LIGHT, Axes, Figure, dress, level_colour, name_axes
from echelon.scales import Scales

_BASELINES = {"no change": (0, (5, 3)), "mean": (0, (1, 2))}
_TEXT = 11.0


def write_scales(scales: Scales, model: ModelConfig, path: Path) -> Path:
    """Write a PNG of three panels, and a fourth of rollouts where they were measured."""
    made: Figure = mpl_figure.Figure(figsize=(13, 8.6), layout="constrained", facecolor="white")
    made.get_layout_engine().set(w_pad=0.14, h_pad=0.14, wspace=0.04, hspace=0.06)
    panels: list[Axes] = list(made.subplots(2, 2).flat)
    draw = [_survival, _directions, _distances, _errors if scales.errors else _ladder]
    for axes, panel in zip(panels, draw, strict=True):
        dress(axes, _TEXT)
        panel(axes, scales, model)
    durations = " · ".join(str(d) for d in model.durations)
    plural = "one level" if len(model.levels) == 1 else f"{len(model.levels)} levels"
    made.suptitle(
        f"Proposed: {plural}, a step of each lasting {durations} environment steps",
        fontsize=16,
        color=LIGHT["ink"],
        x=0.012,
        ha="left",
        weight="bold",
    )
    buffer = io.BytesIO()
    made.savefig(buffer, format="png", dpi=110)
    write_atomically(path, buffer.getvalue())
    return path


def _closest(values: Sequence[float], to: float) -> int:
    return min(range(len(values)), key=lambda i: abs(values[i] - to))


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=12.5, color=LIGHT["ink"], pad=20)


def _time_axis(axes: Axes, last: float) -> None:
    """Environment steps in the logarithm, from 1, with round numbers for ticks."""
    axes.set_xscale("log")
    axes.set_xlim(0.9, max(last, 2) * 1.25)
    marks = [m * 10**e for e in range(7) for m in (1, 2, 5)]
    marks = [m for m in marks if m <= last * 1.2]
    axes.set_xticks(marks if len(marks) < 13 else marks[::3])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(tick))


def _levels(axes: Axes, model: ModelConfig) -> None:
    """A line where one step of each upper level ends, named above the panel."""
    for level, duration in enumerate(model.durations):
        if level == 0:
            continue
        colour = level_colour(level)
        axes.axvline(duration, color=colour, linewidth=1.4, alpha=0.8, zorder=1.5)
        axes.annotate(
            f"level {level}",
            (duration, 1),
            (0, 4),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            fontsize=9.5,
            color=colour,
        )


def _survival(axes: Axes, scales: Scales, model: ModelConfig) -> None:
    found = scales.survival
    spans = [1, *found.spans, found.spans[-1]]
    share = [100.0, *(100 * s for s in found.share), 0.0]
    axes.step(spans, share, where="pre", color=LIGHT["ink"], linewidth=2)
    axes.axhline(90, color=LIGHT["soft"], linewidth=1, linestyle=(0, (2, 3)))
    axes.plot([found.longest], [90], "o", color=LIGHT["ink"], markersize=7)
    axes.annotate(
        f"90 % hold {found.longest} steps",
        (found.longest, 90),
        (-10, -18),
        textcoords="offset points",
        ha="right",
        fontsize=_TEXT,
        color=LIGHT["ink"],
    )
    _time_axis(axes, found.spans[-1])
    axes.set_ylim(0, 106)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.0f} %"))
    _levels(axes, model)
    name_axes(axes, "span of a window, environment steps (log)", "clips that hold it", _TEXT)
    _title(axes, "Clips survive how long a window?")


def _directions(axes: Axes, scales: Scales, model: ModelConfig) -> None:
    shown = scales.directions[:12]
    last = max([scales.measured, *(d.time or 0 for d in shown)])
    for row, direction in enumerate(shown):
        end = last if direction.time is None else direction.time
        colour = LIGHT["ink"] if direction.share >= 0.05 else LIGHT["soft"]
        width = 2.0 + 9 * direction.share**0.5
        axes.plot([0.9, end], [row, row], color=colour, linewidth=1.2, alpha=0.5)
        axes.plot([end], [row], ">" if direction.time is None else "o", color=colour, ms=width)
    _time_axis(axes, last)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    names = [f"{i + 1}  ({100 * d.share:.0f} %)" for i, d in enumerate(shown)]
    axes.set_yticks(range(len(shown)), names)
    axes.grid(False, axis="y")
    _levels(axes, model)
    beyond = ", ▸ longer than measured" if any(d.time is None for d in shown) else ""
    name_axes(
        axes,
        f"steps until it forgets its start{beyond} (log)",
        "direction (share of variance)",
        _TEXT,
    )
    _title(axes, "How fast does each direction move?")


def _distances(axes: Axes, scales: Scales, model: ModelConfig) -> None:
    for found in scales.distances:
        colour = level_colour(found.level)
        mean = [100 * m / found.apart for m in found.mean]
        marker = "osD^"[found.level % 4]
        label = f"level {found.level}" if scales.errors else "features of the frames"
        axes.plot(found.gaps, mean, color=colour, linewidth=2, marker=marker, ms=5, label=label)
        if found.saturates is not None:
            at = _closest(found.gaps, found.saturates)
            axes.plot([found.gaps[at]], [mean[at]], "o", ms=13, mfc="none", color=LIGHT["ink"])
            axes.annotate(
                f"stops growing at {found.saturates:.0f}",
                (found.gaps[at], mean[at]),
                (0, -48),
                textcoords="offset points",
                ha="right" if found.saturates > found.gaps[-1] / 3 else "left",
                fontsize=_TEXT,
                color=LIGHT["ink"],
            )
    axes.axhline(100, color=LIGHT["soft"], linewidth=1, linestyle=(0, (2, 3)))
    _time_axis(axes, max(d.gaps[-1] for d in scales.distances))
    axes.set_ylim(0, 1.28 * max(100.0, axes.get_ylim()[1] / 1.05))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.0f} %"))
    _levels(axes, model)
    axes.legend(frameon=False, fontsize=_TEXT, labelcolor=LIGHT["ink"], loc="upper left", ncols=4)
    name_axes(axes, "time apart, environment steps (log)", "distance, of that between clips", _TEXT)
    _title(axes, "How long does distance grow?")


def _errors(axes: Axes, scales: Scales, model: ModelConfig) -> None:
    for found in scales.errors:
        if found.level is None:
            look = {"linestyle": _BASELINES.get(found.name, "-"), "linewidth": 1.5}
        else:
            look = {"marker": "osD^"[found.level % 4], "markersize": 5, "linewidth": 2}
        colour = level_colour(found.level)
        axes.plot(found.steps, found.error, color=colour, label=found.name, **look)
    levels = [e for e in scales.errors if e.level is not None]
    for coarse, at in zip(levels[1:], scales.crossings, strict=True):
        if at is not None:
            y = coarse.error[_closest(coarse.steps, at)]
            axes.plot([at], [y], "o", ms=13, mfc="none", color=LIGHT["ink"])
    axes.set_yscale("log")
    marks = [m * 10.0**e for e in range(-6, 6) for m in (1, 2, 5)]
    errors = [x for e in scales.errors for x in e.error if x > 0]
    axes.set_yticks([m for m in marks if min(errors) / 1.3 <= m <= max(errors) * 1.3])
    axes.yaxis.set_major_formatter(FuncFormatter(tick))
    axes.yaxis.set_minor_formatter(NullFormatter())
    _time_axis(axes, max(e.steps[-1] for e in scales.errors))
    _levels(axes, model)
    axes.legend(frameon=False, fontsize=_TEXT, labelcolor=LIGHT["ink"], loc="lower right")
    name_axes(axes, "environment steps ahead (log)", "error, in distances of level 0 (log)", _TEXT)
    _title(axes, "How far ahead does each level see?")


def _ladder(axes: Axes, scales: Scales, model: ModelConfig) -> None:
    """One step of each level beside its training window, where no rollout was measured."""
    for level, duration in enumerate(model.durations):
        window = 1 + model.levels[level].rollout * duration
        colour = level_colour(level)
        axes.plot([0.9, window], [level, level], color=colour, linewidth=9, alpha=0.25)
        axes.plot([0.9, max(duration, 1.05)], [level, level], color=colour, linewidth=9)
        axes.annotate(
            f"step {duration}, window {window}",
            (1, level),
            (0, 11),
            textcoords="offset points",
            fontsize=_TEXT,
            color=LIGHT["ink"],
        )
    axes.axvline(scales.survival.longest, color=LIGHT["ink"], linewidth=1.4, linestyle=(0, (2, 3)))
    _time_axis(axes, scales.survival.longest)
    axes.set_ylim(-0.6, len(model.levels) - 0.3)
    axes.set_yticks(range(len(model.levels)), [f"level {i}" for i in range(len(model.levels))])
    axes.grid(False, axis="y")
    axes.set_xlabel(
        "environment steps (log); dotted: what 90 % of the clips hold",
        color=LIGHT["soft"],
        fontsize=_TEXT,
    )
    _title(axes, "What is proposed: a step, and a training window")
