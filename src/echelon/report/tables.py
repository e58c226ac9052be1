"""Records as text: a summary for the terminal, tables for Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from echelon.records import Pooled, Record
from echelon.report.compare import (
    Comparison,
    compare,
    farthest,
    headline,
    interval,
    notes,
    number,
    percent,
    place,
    span,
    summed_up,
)
from echelon.report.style import label


def summary(records: Sequence[Record]) -> str:
    """The answer, a table by split and what limits it, for a terminal."""
    comparisons = compare(records)
    header = ["goals", "hierarchical", "flat, equal compute", "flat, best"]
    header += [label(name) for name in _controls(comparisons)]
    rows = [
        header,
        *_rows(
            comparisons, lambda p: f"{percent(p)} [{interval(p)}] {number(p.tflops_per_episode)}"
        ),
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    lines += ["", "success [95% interval] TFLOPs per episode"]
    if any(c.equal_is_dearer for c in comparisons):
        lines.append("* no flat setting was as cheap as the hierarchy; this is the cheapest")
    return "\n".join([headline(comparisons), "", *lines, *notes(comparisons)])


def markdown_table(records: Sequence[Record]) -> str:
    """The same table in Markdown, for a README; generated, never edited."""
    comparisons = compare(records)
    names = _controls(comparisons)
    header = ["Goals", "Hierarchical", "Flat, equal compute", "Flat, best", *map(label, names)]
    rows = _rows(comparisons, summed_up, " \\*")
    lines = ["| " + " | ".join(header) + " |", "|---" + "|--:" * (len(header) - 1) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    shown = [pooled for c in comparisons for _, pooled in c.shown]
    episodes = span([p.episodes for p in shown])
    seeds = span([len(p.seeds) for p in shown])
    lines += [
        "",
        f"Success [95% exact interval] · TFLOPs per episode; {episodes} paired trials a cell over "
        f"{seeds} model seed{'' if seeds == '1' else 's'}. Goals by path length in cells.",
    ]
    if ranges := _ranges(farthest(comparisons)):
        lines += ["", ranges]
    if any(c.equal_is_dearer for c in comparisons):
        lines.append(
            "\\* no flat setting was as cheap as the hierarchy; this is flat planning's cheapest."
        )
    return "\n".join(lines)


def _ranges(far: Comparison) -> str:
    """How much hangs on the settings of each method that was judged with several."""
    parts: list[str] = []
    for method in dict.fromkeys(p.method for p in far.everything):
        some = far.of(method)
        if len(some) > 1:
            rates = sorted(p.rate for p in some)
            spent = sorted(p.tflops_per_episode for p in some)
            parts.append(
                f"{label(method)} {rates[0]:.0%} to {rates[-1]:.0%} in {len(some)} settings of "
                f"{number(spent[0])} to {number(spent[-1])} TFLOPs"
            )
    return f"Goals {place(far.split)}, worst to best setting: {'; '.join(parts)}." if parts else ""


def _controls(comparisons: Sequence[Comparison]) -> list[str]:
    return list(dict.fromkeys(p.method for c in comparisons for p in c.controls))


def _rows(
    comparisons: Sequence[Comparison], cell: Callable[[Pooled], str], mark: str = " *"
) -> list[list[str]]:
    """A row per split: its name and the cells under the headers above."""
    rows: list[list[str]] = []
    for c in comparisons:
        controls = {p.method: p for p in c.controls}
        chosen = [
            c.hierarchical,
            c.equal,
            c.best,
            *(controls.get(n) for n in _controls(comparisons)),
        ]
        texts = ["–" if p is None else cell(p) for p in chosen]
        if c.equal_is_dearer:
            texts[1] += mark
        rows.append([c.split, *texts])
    return rows
