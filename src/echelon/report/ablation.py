"""The table of an ablation: what each change does to success, compute and sign agreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from echelon.records import Pooled, Record, pool, split_key
from echelon.report.compare import interval, number, percent, span, verdict

MARKS = {"better": " ▲", "same": "", "worse": " ▼"}


def ablation_table(
    rows: Sequence[tuple[str, str, str, str]],
    records: Sequence[Record],
    models: Sequence[Mapping[str, Any]],
) -> str:
    """Markdown, a row a variant that has records.

    rows: (variant, part, what, variant that it is held against), in order
    models: of each variant and seed, sign agreement of its levels here and in held-out layouts
    """
    pooled = pool(records)
    splits = sorted({p.split for p in pooled}, key=split_key)
    known = {(p.setting, p.split): p for p in pooled}
    header = ["Part", "Variant", "", *(_heading(split) for split in splits), "TFLOPs"]
    header += ["Agreement", "held out"]
    lines = ["| " + " | ".join(header) + " |"]
    lines.append("|---|---|---|" + "--:|" * (len(splits) + 3))
    for name, part, what, base in rows:
        here = [known.get((name, split)) for split in splits]
        if not any(here):
            continue
        cells = [_cell(p, known.get((base, s))) for p, s in zip(here, splits, strict=True)]
        first = next(p for p in here if p is not None)
        mine = [m for m in models if m["variant"] == name]
        against = "" if base in ("default", name) else f" (against `{base}`)"
        cells = [part, f"`{name}`", what + against, *cells, number(first.tflops_per_episode)]
        cells += [_means(mine, "sign_agreement"), _means(mine, "held_out_sign_agreement")]
        lines.append("| " + " | ".join(cells) + " |")
    episodes = sorted({p.episodes for p in pooled})
    seeds = sorted({len(p.seeds) for p in pooled})
    lines += [
        "",
        f"Success [95% exact interval] of {span(episodes)} trials a cell over seeds of the model: "
        f"{span(seeds)}; ▲ better and ▼ worse than `default`, or what is named, by Fisher's exact "
        f"test at p < 0.05. TFLOPs an episode are those of goals {splits[0]} cells away. Agreement: "
        "how often a step of true progress towards a far goal lowers each level's distance, level 0 "
        "first; 0.5 is chance.",
    ]
    return "\n".join(lines)


def _heading(split: str) -> str:
    return "Held-out layouts" if "held-out" in split else f"{split} cells"


def _cell(pooled: Pooled | None, base: Pooled | None) -> str:
    if pooled is None:
        return "–"
    mark = MARKS[verdict(pooled, base)] if base is not None else ""
    return f"{percent(pooled)} [{interval(pooled)}]{mark}"


def _means(models: Sequence[Mapping[str, Any]], name: str) -> str:
    """Mean over seeds of each level's figure; seeds may differ in levels."""
    columns: list[list[float]] = []
    for model in models:
        for level, value in enumerate(model[name]):
            columns += [[] for _ in range(level + 1 - len(columns))]
            if value is not None:
                columns[level].append(value)
    return " / ".join(f"{sum(c) / len(c):.2f}" if c else "–" for c in columns) or "–"
