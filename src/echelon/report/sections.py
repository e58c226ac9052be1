"""The sections of the page, each a piece of HTML; every text that came from a file is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from echelon.records import FLAT, HIERARCHICAL, Pooled, Record
from echelon.report import latents, plots
from echelon.report.compare import (
    EQUAL_COMPUTE,
    SIGNIFICANT,
    Comparison,
    compute,
    farthest,
    interval,
    number,
    percent,
    place,
)
from echelon.report.inputs import Diagnostics, Latent
from echelon.report.style import label, series, svg

_escape = html.escape


def cards(comparisons: Sequence[Comparison]) -> str:
    """Four key figures with their intervals."""
    far = farthest(comparisons)
    where = f"goals {place(far.split)}"
    ours = far.hierarchical
    out = [_card("hierarchical", f"Hierarchical, {where}", ours, "")]
    equal = "cheapest setting" if far.equal_is_dearer else "equal compute"
    under = f"with {compute(far.equal, ours)}" if ours and far.equal_is_dearer and far.equal else ""
    out.append(_card("flat", f"Flat, {equal}, {where}", far.equal, under))
    under = f"with {compute(far.best, ours)}" if ours and far.best else ""
    out.append(_card("flat", f"Flat, its best setting, {where}", far.best, under))
    # The fourth is whether it carries over; without such trials, whether near goals suffer.
    other = next((c for c in reversed(comparisons) if c.held_out and c is not far), None)
    other = other or next((c for c in comparisons if c is not far), None)
    if other is not None:
        budget = "cheapest" if other.equal_is_dearer else "equal compute"
        against = f"flat, {budget}: {percent(other.equal)}" if other.equal else ""
        name = f"Hierarchical, goals {place(other.split)}"
        out.append(_card("hierarchical", name, other.hierarchical, against))
    return f'<div class="cards">{"".join(out)}</div>'


def _card(colour: str, name: str, pooled: Pooled | None, under: str) -> str:
    value, line = "–", "not tried"
    if pooled is not None:
        value = percent(pooled)
        line = (
            f"95% interval {interval(pooled)}%<br>{number(pooled.tflops_per_episode)} TFLOPs "
            f"an episode<br>{pooled.episodes} trials"
        )
    extra = f"<br>{_escape(under)}" if under else ""
    return (
        f'<div class="card" style="--c: var(--{colour})"><div class="name">{_escape(name)}</div>'
        f'<div class="value">{value}</div><div class="under">{line}{extra}</div></div>'
    )


_SHAPES = {
    "o": '<circle cx="13" cy="7" r="4.4"/>',
    "s": '<rect x="8.8" y="2.8" width="8.4" height="8.4"/>',
    "D": '<path d="M13 1.6 18.4 7 13 12.4 7.6 7z"/>',
    "v": '<path d="M8 3h10l-5 9z"/>',
    "^": '<path d="M8 11.5h10l-5-9z"/>',
    "P": '<path d="M11 2h4v3h3v4h-3v3h-4V9H8V5h3z"/>',
    "<": '<path d="M17.5 2v10l-9-5z"/>',
    ">": '<path d="M8.5 2v10l9-5z"/>',
}


def legend(names: Iterable[str], controls: list[str]) -> str:
    """The key to the figures below it; drawn once, not in every panel."""
    items: list[str] = []
    for name in names:
        look = series(name, controls)
        colour = f"var(--{look.colour})"
        dash = ' stroke-dasharray="4 3"' if look.dashed else ""
        fill = colour if look.filled else "var(--panel)"
        items.append(
            f'<li><svg viewBox="0 0 26 14" aria-hidden="true"><g stroke="{colour}" '
            f'stroke-width="1.8" fill="{fill}"><path d="M0 7h26"{dash}/>{_SHAPES[look.marker]}</g>'
            f"</svg>{_escape(label(name))}</li>"
        )
    return f'<ul class="legend">{"".join(items)}</ul>'


def evidence(comparisons: Sequence[Comparison]) -> list[str]:
    """Success by distance, and against compute."""
    controls = plots.control_names(comparisons)
    told = "; ".join(
        f"{c.split}: " + ", ".join(f"{label(name)} {percent(p)}" for name, p in c.shown)
        for c in comparisons
    )
    drawn = [
        f'<div class="{kind}">'
        + svg(plots.by_distance(comparisons, width), f"distance-{kind}", f"Goals reached, {told}.")
        + "</div>"
        for kind, width in (("wide", 860), ("narrow", 372))
    ]
    limits = plots.compute_range(comparisons)
    panels = [
        f'<div class="panel"><h3>Goals {_escape(place(c.split))}</h3>'
        + svg(
            plots.against_compute(c, controls, limits),
            f"compute-{index}",
            f"Goals {place(c.split)}: goals reached against TFLOPs per episode, for every setting "
            "in the table of all results.",
        )
        + "</div>"
        for index, c in enumerate(comparisons)
    ]
    free = any(p.tflops_per_episode == 0 for c in comparisons for p in c.everything)
    edge = " What computes nothing stands at the left edge." if free else ""
    methods = dict.fromkeys(p.method for c in comparisons for p in c.everything)
    dearer = any(c.equal_is_dearer for c in comparisons)
    stand_in = " Where no flat setting was as cheap, its cheapest stands in." if dearer else ""
    return [
        f"""<h2>Does it reach farther goals?</h2>
<p class="caption">Share of goals reached, by the length of the shortest path to them. Bars are
exact 95% intervals, faint ticks the single model seeds. “Equal compute” is flat planning's most
successful setting that spends at most {EQUAL_COMPUTE:g} times what the hierarchy
spends.{stand_in}</p>
{legend(plots.legend_names(comparisons), controls)}
<div class="panel">{"".join(drawn)}</div>""",
        f"""<h2>At what cost?</h2>
<p class="caption">Every setting that was tried: up is more goals, left is cheaper. A line joins those
of a method that reach more than all its cheaper ones. All panels share their axes; the large dot is
the hierarchy's main setting.{edge}</p>
{legend(methods, controls)}
<div class="grid">{"".join(panels)}</div>""",
    ]


def models(data: Diagnostics) -> str:
    """How far ahead each level sees, and how its latent space is used."""
    parts: list[str] = []
    if data.open_loop is not None and data.open_loop.curves:
        parts.append(_open_loop(data))
    if data.latents:
        parts.append("<h2>How is the latent space used?</h2>")
        parts.append(
            '<p class="caption">Effective rank: how many dimensions the latents really spread '
            "over. Latent distance is the planner's sense of direction: it should grow with the "
            "time between two states, and over the maze it should fall along the corridors towards "
            "the goal (the star), not through walls. Local sign agreement: how often one step of "
            "true progress lowers the distance; tossing a coin gives 50%.</p>"
        )
        parts += [_latent(latent, data) for latent in data.latents]
    images = [
        f'<figure><img alt="{alt}" src="data:image/png;base64,{png}">{text}</figure>'
        for png, alt, text in (
            (data.observation_png, "An example observation", "what the model sees"),
            (data.goal_png, "An example goal image", "how it is told a goal"),
        )
        if png
    ]
    if images:
        parts.append(f'<div class="images">{"".join(images)}</div>')
    return "\n".join(parts)


def _open_loop(data: Diagnostics) -> str:
    assert data.open_loop is not None
    loop = data.open_loop
    found = latents.say_crossings(loop)
    last = "; ".join(
        f"{c.name}: {number(c.error[-1])} after {c.steps[-1]:.0f}" for c in loop.curves
    )
    alt = f"Mean open-loop error in {loop.unit}. {last} steps. {found}"
    drawn = [
        f'<div class="{kind}">'
        + svg(latents.open_loop(loop, width), f"ahead-{kind}", alt)
        + "</div>"
        for kind, width in (("wide", 860), ("narrow", 372))
    ]
    keys: list[str] = []
    baselines = 0
    for curve in loop.curves:
        shape, dash, colour = "", ("5 3", "1.5 3", "5 2 1 2")[baselines % 3], "soft"
        if curve.level is None:
            baselines += 1
        else:
            shape, dash = _SHAPES["osD^"[curve.level % 4]], ""
            colour = f"level-{curve.level % 4}"
        keys.append(
            f'<li><svg viewBox="0 0 26 14" aria-hidden="true"><g stroke="var(--{colour})" '
            f'stroke-width="1.8" fill="var(--{colour})"><path d="M0 7h26" stroke-dasharray="{dash}"'
            f"/>{shape}</g></svg>{_escape(curve.name)}</li>"
        )
    return f"""<h2>How far ahead can each level see?</h2>
<p class="caption">Each level predicts from its own steps alone, never corrected: the mean error of
where it believes the ball to be, in {_escape(loop.unit)}, against how far ahead it looks; bands
where given, baselines in grey. {_escape(found)}</p>
<ul class="legend">{"".join(keys)}</ul>
<div class="panel">{"".join(drawn)}</div>"""


def _latent(latent: Latent, data: Diagnostics) -> str:
    name = f"level-{latent.level}"
    panels = [
        (
            "Spread of each dimension",
            svg(
                latents.spread(latent),
                f"{name}-spread",
                f"Standard deviations from {min(latent.std, default=0):.2g} to "
                f"{max(latent.std, default=0):.2g}.",
            ),
        )
    ]
    if latent.distance_by_gap is not None:
        gap = latent.distance_by_gap
        alt = f"Mean latent distance {gap.mean[0]:.2g} at {gap.steps[0]:.0f} steps apart, "
        alt += f"{gap.mean[-1]:.2g} at {gap.steps[-1]:.0f}."
        drawn = latents.distance_by_gap(latent.level, gap)
        panels.append(("Distance against time apart", svg(drawn, f"{name}-gap", alt)))
    if latent.distance_map is not None:
        drawn = latents.distance_map(latent.distance_map, data.layout)
        alt = "Map of the maze: latent distance of each place to the goal marked by a star."
        panels.append(("Distance to one goal", svg(drawn, f"{name}-map", alt)))
    agreement = ""
    if latent.sign_agreement is not None:
        agreement = f" Local sign agreement <b>{100 * latent.sign_agreement:.0f}%</b>."
    boxes = "".join(f'<div class="panel"><h3>{h}</h3>{body}</div>' for h, body in panels)
    return (
        f'<div class="level"><h3>Level {latent.level}</h3><p>{latent.dim} dimensions, effective '
        f"rank <b>{latent.effective_rank:.1f}</b>.{agreement}</p>"
        f'<div class="grid three">{boxes}</div></div>'
    )


def pooled_table(comparisons: Sequence[Comparison]) -> str:
    """Every setting that was tried, pooled over seeds."""
    head = (
        "<tr>"
        + "".join(f'<th scope="col" class="l">{n}</th>' for n in ("goals", "method", "setting"))
        + "".join(
            f'<th scope="col">{n}</th>'
            for n in (
                *("levels", "seeds", "reached", "success", "95% interval", "single seeds"),
                *("TFLOPs / episode", "predictor calls / episode", "s / decision"),
                *("step budget", "parameters"),
            )
        )
        + "</tr>"
    )
    bodies: list[str] = []
    for c in comparisons:
        rows = "".join(_row(p, p is c.hierarchical) for p in c.everything)
        bodies.append(f"<tbody>{rows}</tbody>")
    return (
        "<h2>All results</h2>\n"
        '<p class="caption">Every setting of every method, pooled over model seeds; the '
        "hierarchy's main setting in bold.</p>\n"
        '<div class="scroll" tabindex="0" role="region" aria-label="All results"><table>'
        f"<thead>{head}</thead>{''.join(bodies)}</table></div>"
    )


MAIN = ' class="main"'


def _row(p: Pooled, main: bool) -> str:
    rates = [100 * r.successes / r.episodes for r in p.records]
    single = f"{min(rates):.0f}–{max(rates):.0f}%" if len(rates) > 1 else "–"
    numbers = (
        *(p.levels, len(p.seeds), f"{p.successes} / {p.episodes}"),
        *(f"{100 * p.rate:.1f}%", f"{interval(p)}%", single),
        *(number(p.tflops_per_episode), f"{p.predictor_calls_per_episode:,.0f}"),
        number(p.seconds_per_decision),
        _span(r.env_steps_budget for r in p.records),
        _span(r.model_params for r in p.records),
    )
    return (
        f"<tr{MAIN if main else ''}>"
        f'<th scope="row" class="l">{_escape(p.split)}</th><td class="l">{_escape(p.method)}</td>'
        f'<td class="l">{_escape(p.setting)}</td>'
        + "".join(f"<td>{n}</td>" for n in numbers)
        + "</tr>"
    )


def _span(values: Iterable[int]) -> str:
    kept = sorted(set(values))
    return f"{kept[0]:,}" if len(kept) == 1 else f"{kept[0]:,}–{kept[-1]:,}"


def measured(records: Sequence[Record]) -> str:
    """What the numbers mean, for somebody who did not make them."""
    budget = _span(r.env_steps_budget for r in records)
    methods = {r.method for r in records}
    best = (
        " “Best” flat is chosen with hindsight among all its settings on these very trials, which "
        "favours it."
        if FLAT in methods and HIERARCHICAL in methods
        else ""
    )
    texts = (
        "<b>Paired trials.</b> Every method gets the same starts, goals, seeds, action bounds and "
        f"step budget ({budget} environment steps). Starts, goals and held-out mazes were kept out "
        "of training.",
        "<b>Success</b> is judged by the environment's own state, within the budget; no planner "
        "sees it.",
        "<b>TFLOPs</b> count 2 × the multiply-accumulates of every encoder, lift and predictor "
        "that planning runs in an episode, at all levels, in units of 10¹². Sorting and sampling "
        "are not counted; seconds per decision, in the table, hold everything.",
        "<b>Intervals</b> are exact (Clopper and Pearson), 95%, over the trials of all model "
        "seeds together. They take trials as independent; how much single models differ is shown "
        "beside them.",
        f"<b>Told apart</b> means p below {SIGNIFICANT:g} in Fisher's exact test of the totals. "
        f"It ignores the pairing, which makes it cautious.{best}",
    )
    return "<h2>How this was measured</h2>\n" + "\n".join(f"<p>{text}</p>" for text in texts)


def provenance(records: Sequence[Record]) -> str:
    """Where the numbers come from."""
    data = {(r.dataset.name, r.dataset.transitions, r.dataset.sha256) for r in records}
    rows = {
        "data": [f"{name}, {n:,} transitions, sha256 {sha}" for name, n, sha in sorted(data)],
        "device": {f"{r.device}, {r.threads} thread{'s' * (r.threads != 1)}" for r in records},
        "commit": {r.commit for r in records},
        "command": {r.command for r in records},
        "date": {r.date for r in records},
    }
    shown = "".join(
        f"<dt>{name}</dt><dd>{'<br>'.join(_escape(v) for v in sorted(values))}</dd>"
        for name, values in rows.items()
    )
    return f"<details open><summary>Where the numbers come from</summary><dl>{shown}</dl></details>"
