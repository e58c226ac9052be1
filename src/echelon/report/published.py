"""Our success beside published figures: a row a method, a column a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from echelon.records import Record, pool
from echelon.report.compare import interval, number, percent


def published_table(
    records: Sequence[Record], published: Mapping[str, Sequence[float]], splits: Sequence[str]
) -> str:
    """Markdown. published: success in % at each of the `splits`, by name."""
    pooled = {(p.method, p.setting, p.split): p for p in pool(records)}
    names = list(dict.fromkeys((method, setting) for method, setting, _ in pooled))
    header = ["Method", *splits, *(f"TFLOPs, {split}" for split in splits)]
    lines = ["| " + " | ".join(header) + " |", "|---" + "|--:" * (2 * len(splits)) + "|"]
    for method, setting in names:
        here = [pooled.get((method, setting, split)) for split in splits]
        success = ["–" if p is None else f"{percent(p)} [{interval(p)}]" for p in here]
        spent = ["–" if p is None else number(p.tflops_per_episode) for p in here]
        lines.append("| " + " | ".join([f"{method} `{setting}`", *success, *spent]) + " |")
    for name, figures in published.items():
        cells = [f"{figure:g}%" for figure in figures] + ["not published"] * len(splits)
        lines.append("| " + " | ".join([f"*{name}*", *cells]) + " |")
    return "\n".join(lines)
