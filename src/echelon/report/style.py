"""One palette for every figure and page, and figures as SVG that follows the page's theme.

The hues of methods and levels are Okabe and Ito's (2008), told apart by colour-blind readers too;
every series differs in its marker as well. In a page each colour below becomes a CSS variable of
the same name, so that the same drawing serves light and dark.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Any, TypeAlias

import matplotlib
from matplotlib import figure as mpl_figure

from echelon.records import CONTROL, FLAT, HIERARCHICAL

Axes: TypeAlias = Any
"""matplotlib's; its annotations are too partial for a strict check"""
Figure: TypeAlias = Any

COLOURS = {
    # name: (light, dark)
    "ink": ("#1b2130", "#e8eaf0"),
    "soft": ("#5c6475", "#a3abbd"),
    "line": ("#d9dde5", "#343b4b"),
    "page": ("#fcfcfd", "#12151c"),
    "panel": ("#ffffff", "#1a1f29"),
    "wall": ("#3e4454", "#566078"),
    "floor": ("#f1f1ec", "#11141b"),
    "hierarchical": ("#0072b2", "#56b4e9"),
    "flat": ("#d55e00", "#ff8f3d"),
    "goal": ("#007a57", "#2fc79b"),
    "same-cost": ("#a06a00", "#e9b44c"),
    "control": ("#6b7280", "#9aa3b5"),
    "level-0": ("#009e73", "#35c99f"),
    "level-1": ("#b0568b", "#e08fbe"),
    "level-2": ("#3b6fd1", "#8fb2f5"),
    "level-3": ("#8f7a00", "#d9c64a"),
}
LIGHT = {name: light for name, (light, _) in COLOURS.items()}
_VARIABLE = {light: f"var(--{name})" for name, (light, _) in COLOURS.items()}


@dataclass(frozen=True)
class Series:
    """How one method looks, everywhere."""

    colour: str
    marker: str
    filled: bool = True
    dashed: bool = False


_CONTROL_MARKERS = "v^P<>"


def series(name: str, controls: list[str]) -> Series:
    """The look of a legend's entry; `controls` are all those of the report, in order."""
    if name == HIERARCHICAL:
        return Series("hierarchical", "o")
    if name == "flat, best":
        return Series("flat", "D", filled=False)
    if name.startswith(FLAT):
        return Series("flat", "s")
    marker = _CONTROL_MARKERS[controls.index(name) % 5] if name in controls else "v"
    colour = "same-cost" if name == f"{CONTROL}flat-same-cost" else "control"
    return Series(colour, marker, dashed=True)


def label(name: str) -> str:
    """A legend's entry for people."""
    return f"control: {name.removeprefix(CONTROL)}" if name.startswith(CONTROL) else name


def level_colour(level: int | None) -> str:
    """A level's colour; a baseline is grey."""
    return LIGHT["soft"] if level is None else LIGHT[f"level-{level % 4}"]


def figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of `width` x `height` CSS pixels and its axes, in the house style."""
    made: Figure = mpl_figure.Figure(
        figsize=(width / 72, height / 72), layout="constrained", facecolor="none"
    )
    axes: Axes = made.add_subplot()
    dress(axes)
    return made, axes


def dress(axes: Axes, size: float = 11.0) -> None:
    """Leave of an axes what carries information."""
    axes.set_facecolor("none")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(LIGHT["line"])
    axes.tick_params(which="both", color=LIGHT["line"], labelcolor=LIGHT["soft"], labelsize=size)
    axes.grid(True, color=LIGHT["line"], linewidth=0.7)
    axes.set_axisbelow(True)


def name_axes(axes: Axes, x: str, y: str, size: float = 11.0) -> None:
    """Label both axes in the quiet colour."""
    axes.set_xlabel(x, color=LIGHT["soft"], fontsize=size)
    axes.set_ylabel(y, color=LIGHT["soft"], fontsize=size)


def svg(made: Figure, name: str, description: str) -> str:
    """The figure as an inline SVG element: text stays text, colours follow the page.

    name: unique on the page; every id inside begins with it, since ids are global to a page.
    """
    buffer = io.StringIO()
    options: dict[str, Any] = {"svg.fonttype": "none", "svg.hashsalt": name}
    library: Any = matplotlib
    with library.rc_context(options):
        made.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    for light, variable in _VARIABLE.items():
        text = text.replace(light, variable)
    # The page's font replaces the one that the layout was computed with.
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    title = description.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return re.sub(r"<svg ", f'<svg role="img" aria-label="{title}" ', text, count=1)
