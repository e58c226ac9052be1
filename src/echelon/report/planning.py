"""The planning page: costs by levels, and a table for each study of one part of planning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import figure as mpl_figure
from matplotlib.ticker import LogLocator, NullFormatter

from echelon.records import Pooled, Record, pool, split_key
from echelon.report.compare import interval, number, percent
from echelon.report.intervals import paired_p
from echelon.report.plots import dot, tick
from echelon.report.style import LIGHT, Axes, Figure, Series, dress, level_colour, name_axes

COSTS = {
    "latent": "latent L2",
    "latent-less": "latent L2, less search",
    "upper": "own upper latent",
    "learned": "quasimetric",
    "graph": "landmark graph",
}
PREFIX = "point-maze-planning-"
MARKERS = {"latent": "s", "upper": "o", "learned": "^", "graph": "D"}
Figures = Sequence[Mapping[str, Any]]


def costs_by_levels(records: Sequence[Record], figures: Figures) -> str:
    """Success, compute and sign agreement of every cell, a table a maze and split; then the paired
    tests of each hierarchy against flat planning on its cost.
    """
    parts = ["![Success against compute](planning.png)", ""]
    for maze, pooled in _by_maze(records):
        here = [f for f in figures if f["maze"] == maze]
        for split in sorted({p.split for p in pooled}, key=split_key):
            known = {p.setting: p for p in pooled if p.split == split}
            away = "held-out" in split
            parts += [f"**{maze} maze, {_where(split)}**", "", *_table(known, here, away)]
        parts += _paired(maze, here)
    return "\n".join(parts)


def far_goals(records: Sequence[Record]) -> str:
    """Success and compute of every cell at the far goals of each maze."""
    parts: list[str] = []
    for maze, pooled in _by_maze(records):
        far = _far(pooled)
        known = {p.setting: p for p in pooled if p.split == far}
        seeds = len(next(iter(known.values())).seeds)
        some = f"{seeds} model seed{'s' if seeds > 1 else ''}"
        parts += [f"**{maze} maze, {_where(far)}**, {some}", "", *_table(known, [], False)]
    return "\n".join(parts)


def _far(pooled: Sequence[Pooled]) -> str:
    splits = {p.split for p in pooled if "held" not in p.split}
    return max(splits, key=split_key)


def _table(known: Mapping[str, Pooled], figures: Figures, away: bool) -> list[str]:
    lines = ["| Cost | flat | 2 levels | 3 levels |", "|---|--:|--:|--:|"]
    for cost, name in COSTS.items():
        found = [known.get(f"{cost}-{d}") for d in (1, 2, 3)]
        if not any(found):
            continue
        cells = [_cell(pooled, figures, away) for pooled in found]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    if auto := known.get("auto"):
        lines.append(f"| chosen from all | {_cell(auto, [], away)} | | |")
    return [*lines, ""]


def _cell(pooled: Pooled | None, figures: Figures, away: bool) -> str:
    if pooled is None:
        return "–"
    says = f"{percent(pooled)} [{interval(pooled)}], {number(pooled.tflops_per_episode)}"
    values = [
        row["away" if away else "home"]
        for figure in figures
        for row in figure["agreement"]
        if row["cell"] == pooled.setting
    ]
    values = [value for value in values if value is not None]
    return f"{says}, {sum(values) / len(values):.2f}" if values else says


def _paired(maze: str, figures: Figures) -> list[str]:
    """Where a hierarchy and flat planning on the same cost differ on the same trials."""
    sums: dict[tuple[str, str, str], list[int]] = {}
    for figure in figures:
        for pair in figure["paired"]:
            counts = sums.setdefault((pair["split"], pair["cell"], pair["setting"]), [0, 0])
            counts[0] += pair["only_hierarchical"]
            counts[1] += pair["only_other"]
    told = [
        f"{cell} and {other}, {_where(split)}: {ours} against {theirs} "
        f"(p = {paired_p(ours, theirs):.2g})"
        for (split, cell, other), (ours, theirs) in sums.items()
        if paired_p(ours, theirs) < 0.05
    ]
    if not sums:
        return []
    says = "; ".join(told) if told else "none"
    return [
        f"Pairs of trials that only the hierarchy, against only flat planning on the same cost, "
        f"solves in the {maze} maze, where that is more than chance explains (p < 0.05): {says}.",
        "",
    ]


def beside_flat(records: Sequence[Record], table: Sequence[Record]) -> str:
    """At the far goals of each maze: the best hierarchy of the table against flat planning on latents
    that costs no more, and the cheapest one that is as good as flat planning ever is.
    """
    cells = dict(_by_maze(table))
    parts: list[str] = []
    for maze, pooled in _by_maze(records):
        far = pooled[0].split
        here = [p for p in cells.get(maze, []) if p.split == far]
        flat = [*pooled, *(p for p in here if p.setting in ("latent-1", "latent-less-1"))]
        if ours := [p for p in here if p.levels > 1 and p.setting != "auto"]:
            parts.append(f"{maze} maze, {_where(far)}: {_at_equal_compute(ours, flat)} ")
            parts[-1] += _at_equal_success(ours, flat)
    return "\n\n".join(parts)


def _at_equal_compute(ours: Sequence[Pooled], flat: Sequence[Pooled]) -> str:
    best = max(ours, key=lambda p: (p.rate, -p.tflops_per_episode))
    no_dearer = [p for p in flat if p.tflops_per_episode <= best.tflops_per_episode]
    cheapest = min(flat, key=lambda p: p.tflops_per_episode)
    theirs = max(no_dearer, key=lambda p: p.rate, default=cheapest)
    return (
        f"the best hierarchy, `{best.setting}`, reaches {_rate(best)} at "
        f"{number(best.tflops_per_episode)} TFLOPs; flat planning on latents, "
        f"{'at no more than that' if no_dearer else 'at its cheapest'}, {_rate(theirs)} at "
        f"{number(theirs.tflops_per_episode)}."
    )


def _at_equal_success(ours: Sequence[Pooled], flat: Sequence[Pooled]) -> str:
    most = max(flat, key=lambda p: (p.rate, -p.tflops_per_episode))
    said = (
        f"Flat planning's best is {_rate(most)} at {number(most.tflops_per_episode)}, its dearest "
        f"setting takes {number(max(p.tflops_per_episode for p in flat))}; "
    )
    as_good = [p for p in ours if p.rate >= most.rate]
    if not as_good:
        return f"{said}no hierarchy is as good."
    least = min(as_good, key=lambda p: p.tflops_per_episode)
    share = least.tflops_per_episode / most.tflops_per_episode
    return f"{said}`{least.setting}` is as good for {share:.1%} of its compute."


def one_by_one(records: Sequence[Record], _: Figures) -> str:
    """A row a setting of a study, a column pair a maze."""
    mazes = dict(_by_maze(records))
    header = [f"{name} maze | TFLOPs" for name in mazes]
    lines = ["| Setting | " + " | ".join(header) + " |", "|---|" + "--:|--:|" * len(mazes)]
    order = dict.fromkeys(r.setting for r in records)
    for setting in order:
        cells: list[str] = []
        for pooled in mazes.values():
            found = next((p for p in pooled if p.setting == setting), None)
            cells += [_rate(found), number(found.tflops_per_episode)] if found else ["–", "–"]
        lines.append(f"| `{setting}` | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def unreachable(records: Sequence[Record], figures: Figures) -> str:
    """The same, with the share of subgoals that cannot be reached in time."""
    lines = [one_by_one(records, figures)]
    for maze in dict.fromkeys(figure["maze"] for figure in figures):
        shares: dict[str, list[float]] = {}
        for figure in (f for f in figures if f["maze"] == maze):
            for name, value in figure["unreachable"].items():
                if isinstance(value, dict):
                    shares.setdefault(name, []).append(float(value["share"]))  # pyright: ignore[reportUnknownArgumentType]
        told = ", ".join(f"`{n}` {sum(v) / len(v):.1%}" for n, v in shares.items())
        lines.append(f"Subgoals out of reach in the {maze} maze: {told}.\n")
    return "\n".join(lines)


def by_distance(_: Sequence[Record], figures: Figures) -> str:
    """Success and compute a decision, a column a distance."""
    sums: dict[tuple[str, str], list[float]] = {}
    for figure in figures:
        for row in figure.get("growth", []):
            found = sums.setdefault((row["setting"], row["split"]), [0, 0, 0, 0])
            values = (row["successes"], row["episodes"], row["gflops_per_decision"], 1)
            for i, value in enumerate(values):
                found[i] += value
    splits = sorted({split for _, split in sums}, key=split_key)
    lines = ["| Setting | " + " | ".join(f"{_where(s)}" for s in splits) + " | growth |"]
    lines.append("|---|" + "--:|" * (len(splits) + 1))
    for setting in dict.fromkeys(name for name, _ in sums):
        here = [sums[setting, split] for split in splits]
        cells = [f"{a / n:.0%}, {number(g / k)}" for a, n, g, k in here]
        rise = (here[-1][2] / here[-1][3]) / max(here[0][2] / here[0][3], 1e-12)
        lines.append(f"| `{setting}` | " + " | ".join(cells) + f" | {rise:.2g}x |")
    return "\n".join([*lines, "", "Each cell: success, GFLOPs a decision.", ""])


TABLES: Mapping[str, Callable[[Sequence[Record], Figures], str]] = {
    "table": costs_by_levels,
    "damage": one_by_one,
    "reach": unreachable,
    "search": one_by_one,
    "flat": one_by_one,
    "growth": by_distance,
    "unseen": one_by_one,
}


def picture(records: Sequence[Record], path: Path) -> Path:
    """Success against compute at the farthest goals of each maze, every cell and flat setting."""
    mazes = _by_maze(records)
    made: Figure = mpl_figure.Figure(
        figsize=(7 * len(mazes) + 2, 5.6), layout="constrained", facecolor="white"
    )
    panels = made.subplots(1, len(mazes), squeeze=False)[0]
    for axes, (maze, pooled) in zip(panels, mazes, strict=True):
        far = _far(pooled)
        dress(axes, 13)
        for found in (p for p in pooled if p.split == far):
            _dot(axes, found)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(tick)
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(-3, 103)
        axes.set_yticks([0, 25, 50, 75, 100], ["0%", "25%", "50%", "75%", "100%"])
        axes.set_title(f"{maze} maze, {_where(far)}", fontsize=15, color=LIGHT["ink"], loc="left")
        name_axes(axes, "TFLOPs per episode (log)", "goals reached", 13)
    _legend(made, panels[0])
    made.savefig(path, dpi=100, metadata={"Software": None})
    return path


def _dot(axes: Axes, pooled: Pooled) -> None:
    cost = pooled.setting.split("-")[0]
    look = Series(f"level-{pooled.levels - 1}", MARKERS.get(cost, "s"), filled=cost in MARKERS)
    if cost == "auto":
        look = Series("ink", "*")
    dot(axes, pooled.tflops_per_episode, pooled, look, 15 if cost == "auto" else 9)


def _legend(made: Figure, axes: Axes) -> None:
    """Beside the panels, where it covers nothing."""
    for cost, marker in MARKERS.items():
        axes.plot([], [], marker, color=LIGHT["soft"], label=COSTS[cost], markersize=9)
    axes.plot([], [], "s", color=level_colour(0), mfc="white", label="flat, longer search")
    for depth, name in enumerate(("flat", "2 levels", "3 levels")):
        axes.plot([], [], "-", color=level_colour(depth), linewidth=4, label=name)
    axes.plot([], [], "*", color=LIGHT["ink"], markersize=14, label="chosen from all")
    look = {"fontsize": 12, "frameon": False, "labelcolor": LIGHT["ink"]}
    made.legend(*axes.get_legend_handles_labels(), loc="outside right upper", **look)


def _by_maze(records: Sequence[Record]) -> list[tuple[str, list[Pooled]]]:
    pooled = pool(records)
    mazes = sorted({p.task.removeprefix(PREFIX) for p in pooled})
    return [(maze, [p for p in pooled if p.task == PREFIX + maze]) for maze in mazes]


def _rate(pooled: Pooled) -> str:
    return f"{percent(pooled)} [{interval(pooled)}]"


def _where(split: str) -> str:
    return "held-out layouts" if "held-out" in split else f"{split.replace('-', '–')} cells"
