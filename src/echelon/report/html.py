"""A run folder as one page, ``report.html``, that needs nothing else and no network.

The folder holds (positions are (row, column) in cells, cell centres at .5; steps are environment
steps; unknown and missing fields are errors, fields marked ? may be left out):

``records.json``, required: see :mod:`echelon.records`.

``diagnostics.json``, without it no section on the models::

    {"open_loop"?: {"unit": "cells", "curves": [
        {"name": "fine (level 0)", "level"?: 0, "steps": [ahead], "error": [mean],
         "low"?: [], "high"?: []}, ...]},               a curve without a level is a baseline
     "latents"?: [
        {"level": 0, "dim": 16, "effective_rank": 5.2, "std": [per dimension],
         "sign_agreement"?: 0.66,
         "distance_by_gap"?: {"steps": [], "mean": [], "low"?: [], "high"?: []},
         "distance_map"?: {"goal": [r, c], "places": [[r, c], ...], "distance": []}}, ...],
     "layout"?: [[0, 1, ...], ...],                     of the distance maps; 1 is wall
     "observation_png"?: base64, "goal_png"?: base64}

``traces.json``, without it no animations; each trace is one trial that several methods attempted::

    [{"task", "split", "trial": 0, "layout": [[]], "goal": [r, c], "start": [r, c],
      "distance_cells": 12,
      "runs": [{"method", "setting", "success": true, "path": [[r, c] per step], "tflops": 0.5,
                "subgoals"?: [{"step": 0, "places": [[r, c] per coarse step ahead],
                               "active": [r, c]}, ...]}, ...]}, ...]

``config.json``, anything: shown as it is.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from echelon.files import write_atomically
from echelon.report.compare import Comparison, compare, headline, notes
from echelon.report.inputs import RunFolder, Trace, read_folder
from echelon.report.sections import cards, evidence, measured, models, pooled_table, provenance
from echelon.report.style import COLOURS

TRACE_BYTES = 1_500_000
"""of animations in a page; a run folder may hold more, which then are thinned evenly"""

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""a browser that enforces it cannot be made to fetch anything"""


def write_report(run_folder: Path) -> Path:
    """Write ``report.html`` into a run folder and return its path."""
    folder = read_folder(run_folder)
    path = run_folder / "report.html"
    write_atomically(path, page(folder).encode())
    return path


def page(folder: RunFolder) -> str:
    """The whole page."""
    comparisons = compare(folder.records)
    task = folder.records[0].task
    title = f"Echelon on {task}: hierarchical against flat planning"
    more = "".join(f"<li>{html.escape(note)}</li>" for note in notes(comparisons))
    body = [
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="answer">{html.escape(headline(comparisons))}</p>',
        f'<ul class="notes">{more}</ul>' if more else "",
        cards(comparisons),
        *evidence(comparisons),
        player(folder.traces, comparisons) if folder.traces else "",
        models(folder.diagnostics) if folder.diagnostics else "",
        measured(folder.records),
        pooled_table(comparisons),
        provenance(folder.records),
        _config(folder),
    ]
    resources = files("echelon.report")
    style = resources.joinpath("report.css").read_text(encoding="utf-8")
    script = resources.joinpath("player.js").read_text(encoding="utf-8") if folder.traces else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{html.escape(title)}</title>
<style>
{_variables()}
{style}</style>
</head>
<body>
<main>
{chr(10).join(part for part in body if part)}
</main>
{f"<script>{chr(10)}{script}</script>" if script else ""}
</body>
</html>
"""


def _variables() -> str:
    light = " ".join(f"--{name}: {value};" for name, (value, _) in COLOURS.items())
    dark = " ".join(f"--{name}: {value};" for name, (_, value) in COLOURS.items())
    return f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"


def _config(folder: RunFolder) -> str:
    if folder.config is None:
        return ""
    text = html.escape(json.dumps(folder.config, indent=2, ensure_ascii=False))
    return f"<details><summary>Configuration of this run</summary><pre>{text}</pre></details>"


def player(traces: Sequence[Trace], comparisons: Sequence[Comparison]) -> str:
    """The section of animations; `player.js` brings it to life."""
    kept = thin(traces, TRACE_BYTES)
    first = kept.index(typical(kept, comparisons))
    # A "<" could end the script element early; in JSON it may as well be written as an escape.
    data = ",\n".join(_trace_json(t) for t in kept).replace("<", "\\u003c")
    count = f"{len(kept)} recorded trials"
    if len(kept) < len(traces):
        count = (
            f"{len(kept)} of {len(traces)} recorded trials, thinned evenly to keep the page small"
        )
    return f"""<h2 id="trials">Watch the trials</h2>
<p class="caption">The same trial under each method, on one clock: {count}. The square is the start,
the ringed disc the goal, the ball leaves a fading trail. Hollow markers are the subgoals of the
coarse level, joined in order; the filled one is what the fine level is working towards now. The
trial shown first is one whose outcomes are the usual ones for its distance.</p>
<div class="panel" id="player" data-first="{first}">
<div class="controls">
<label>Goals<select data-part="split"><option value="">all</option></select></label>
<label>Outcome<select data-part="outcome"><option value="">any</option>
<option value="differ">one method fails</option><option value="success">all succeed</option>
<option value="failure">all fail</option></select></label>
<label class="grow">Trial<select data-part="trial"></select></label>
</div>
<div class="stage" data-part="stage"></div>
<div class="controls">
<button type="button" data-part="play">Play</button>
<label class="grow">Time<input type="range" min="0" value="0" step="1" data-part="scrub"></label>
<output data-part="clock"></output>
<label>Speed<select data-part="speed"><option value="0.5">half</option>
<option value="1" selected>normal</option>
<option value="2">double</option><option value="5">five times</option></select></label>
</div>
<p class="small" data-part="caption"></p>
<noscript>The animations need JavaScript; everything else on this page does not.</noscript>
</div>
<script id="traces" type="application/json">[{data}]</script>"""


def _trace_json(trace: Trace) -> str:
    """Compact: hundredths of a cell are finer than a pixel."""

    def near(places: Sequence[tuple[float, float]]) -> list[list[float]]:
        return [[round(r, 2), round(c, 2)] for r, c in places]

    runs = [
        {
            "method": run.method,
            "setting": run.setting,
            "success": run.success,
            "tflops": run.tflops,
            "path": near(run.path),
            "subgoals": [
                {"step": s.step, "places": near(s.places), "active": near([s.active])[0]}
                for s in run.subgoals
            ],
        }
        for run in trace.runs
    ]
    values = {
        "split": trace.split,
        "trial": trace.trial,
        "layout": trace.layout,
        "goal": trace.goal,
        "start": trace.start,
        "distance_cells": trace.distance_cells,
        "runs": runs,
    }
    return json.dumps(values, separators=(",", ":"))


def thin(traces: Sequence[Trace], limit: int) -> list[Trace]:
    """As many traces as `limit` bytes hold, taken in turn from every split and outcome."""
    groups: dict[tuple[str, tuple[bool, ...]], list[int]] = {}
    for index, trace in enumerate(traces):
        outcome = tuple(run.success for run in trace.runs)
        groups.setdefault((trace.split, outcome), []).append(index)
    turns = sorted((turn, index) for group in groups.values() for turn, index in enumerate(group))
    kept: list[int] = []
    for _, index in turns:
        limit -= len(_trace_json(traces[index]))
        if limit < 0 and kept:
            break
        kept.append(index)
    return [traces[index] for index in sorted(kept)]


def typical(traces: Sequence[Trace], comparisons: Sequence[Comparison]) -> Trace:
    """A trial to show first: of the farthest split, ending for each method as most of them do."""
    splits = [c.split for c in comparisons if not c.held_out]
    usual = {
        (p.split, p.method, p.setting): p.rate >= 0.5 for c in comparisons for p in c.everything
    }

    def strangeness(trace: Trace) -> tuple[int, int, int]:
        far = splits.index(trace.split) if trace.split in splits else -1
        odd = sum(
            usual.get((trace.split, run.method, run.setting), run.success) != run.success
            for run in trace.runs
        )
        return (-far, odd, -trace.distance_cells)

    return min(traces, key=strangeness)
