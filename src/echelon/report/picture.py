"""The README's picture: one trial, and what success costs at the farthest goals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib import figure as mpl_figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from echelon.records import FLAT, HIERARCHICAL
from echelon.report.compare import compare, farthest, place
from echelon.report.html import typical
from echelon.report.inputs import Place, Run, read_folder
from echelon.report.latents import draw_maze
from echelon.report.plots import compute_range, control_names, draw_against_compute
from echelon.report.style import LIGHT, Axes, Figure, dress, label, series
from echelon.types import EchelonError


def headline_picture(run_folder: Path, out_png: Path) -> Path:
    """Write a wide PNG and return its path.

    On the left a typical far trial in its maze, on the right success against compute.
    """
    folder = read_folder(run_folder)
    comparisons = compare(folder.records)
    if not folder.traces:
        raise EchelonError(f"{run_folder / 'traces.json'}: the picture needs a recorded trial")
    far = farthest(comparisons)
    trace = typical(folder.traces, comparisons)
    made: Figure = mpl_figure.Figure(figsize=(14, 6), layout="constrained", facecolor="white")
    left, right = made.subplots(1, 2, width_ratios=(1, 1.25))

    draw_maze(left, trace.layout, LIGHT["wall"])
    floor = len(trace.layout[0]), len(trace.layout)
    left.add_patch(Rectangle((0, 0), *floor, color=LIGHT["floor"], zorder=0, linewidth=0))
    runs = {run.method: run for run in trace.runs}
    for method in (FLAT, HIERARCHICAL):
        if method in runs:
            _draw_run(left, runs[method], method)
    row, column = trace.start
    left.plot(column, row, "s", markersize=13, markerfacecolor="none", color=LIGHT["ink"], mew=2.5)
    row, column = trace.goal
    left.plot(
        column, row, "*", markersize=26, color=LIGHT["goal"], markeredgecolor="white", zorder=9
    )
    left.set_title(
        f"a goal {trace.distance_cells} cells away: {_ends(runs)}",
        fontsize=14,
        color=LIGHT["ink"],
        loc="left",
    )

    dress(right)
    controls = control_names(comparisons)
    draw_against_compute(right, far, controls, compute_range([far]), 1.35)
    right.set_title(f"goals {place(far.split)}", fontsize=15, color=LIGHT["ink"], loc="left")
    _legend(made, list(dict.fromkeys(p.method for p in far.everything)), controls)
    made.get_layout_engine().set(w_pad=0.25, h_pad=0.15)
    made.savefig(out_png, dpi=110, metadata={"Software": None})
    return out_png


def _ends(runs: Mapping[str, Run]) -> str:
    """Who arrives, in words."""
    shown = [method for method in (HIERARCHICAL, FLAT) if method in runs]
    there = [method for method in shown if runs[method].success]
    if len(shown) == 2 and len(there) != 1:
        return "both reach it" if there else "neither reaches it"
    return ", ".join(f"{m} {'reaches it' if m in there else 'does not'}" for m in shown)


def _draw_run(axes: Axes, run: Run, method: str) -> None:
    def line(places: tuple[Place, ...], **style: Any) -> None:
        axes.plot([c for _, c in places], [r for r, _ in places], **style)

    colour = LIGHT[method]
    line(run.path, color=colour, linewidth=3, alpha=0.9, zorder=4, solid_capstyle="round")
    axes.plot(
        run.path[-1][1], run.path[-1][0], "o", markersize=13, color=colour, mec="white", zorder=8
    )
    if run.subgoals:
        plan = run.subgoals[0]
        line(
            (run.path[0], *plan.places), color=LIGHT["ink"], linewidth=1.2, linestyle=":", zorder=5
        )
        style = {"color": LIGHT["ink"], "markerfacecolor": "white", "mew": 1.8, "markersize": 9}
        line(plan.places, marker="o", linestyle="none", zorder=6, **style)
        line((plan.active,), marker="o", color=LIGHT["ink"], markersize=10, zorder=7)


def _legend(made: Figure, methods: list[str], controls: list[str]) -> None:
    handles: list[Any] = []
    for method in methods:
        look = series(method, controls)
        handles.append(
            Line2D(
                [],
                [],
                color=LIGHT[look.colour],
                marker=look.marker,
                markersize=9,
                linewidth=2,
                linestyle="--" if look.dashed else "-",
                label=label(method),
            )
        )
    style: dict[str, Any] = {"fontsize": 13, "frameon": False, "labelcolor": LIGHT["ink"]}
    made.legend(handles=handles, loc="outside lower right", ncols=len(handles), **style)
