"""The page: that it stands on its own, holds every section and survives any input."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import struct
import subprocess
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import RATES, make_diagnostics, make_records, make_run, make_traces
from synthetic_run import make_one as one

from echelon.records import save
from echelon.report import (
    headline_picture,
    write_report,
)
from echelon.report.compare import compare
from echelon.report.html import thin, typical
from echelon.report.inputs import Curve, OpenLoop, read_folder
from echelon.report.latents import crossing, say_crossings
from echelon.types import EchelonError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def text(run: Path) -> str:
    return write_report(run).read_text()


# ---- the page


class Page(HTMLParser):
    VOID = frozenset(["meta", "input", "img", "br"])

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name in ("href", "xlink:href", "src"):
                self.sources.append(value or "")
            self.links += re.findall(r"url\(#(.*?)\)", value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_stands_on_its_own(text: str) -> None:
    page = Page()
    page.feed(text)
    assert page.open == []
    assert len(set(page.ids)) == len(page.ids)
    inner = [s[1:] for s in page.sources if s.startswith("#")]
    assert set(inner + page.links) <= set(page.ids)
    assert all(s.startswith(("#", "data:image/png;base64,")) for s in page.sources)
    assert set(re.findall(r"https?://[^\"' ]+", text)) <= {
        *("http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"),
    }
    assert len(text.encode()) < 3_000_000
    assert "default-src 'none'" in text


def test_page_holds_every_section(text: str) -> None:
    heads = re.findall(r"<h2[^>]*>(.*?)</h2>", text)
    assert heads == [
        "Does it reach farther goals?",
        "At what cost?",
        "Watch the trials",
        "How far ahead can each level see?",
        "How is the latent space used?",
        "How this was measured",
        "All results",
    ]
    assert text.count('<div class="card"') == 4
    assert "cross at 16" in text
    assert "made up for a test &lt;/script&gt;" in text


def test_drawings_are_well_formed_labelled_and_follow_the_theme(text: str) -> None:
    drawings = re.findall(r"<svg role=.*?</svg>", text, flags=re.DOTALL)
    assert len(drawings) == 2 + 4 + 2 + 2 * 3
    for drawing in drawings:
        assert ElementTree.fromstring(drawing).get("aria-label")
        assert "<text" in drawing
        assert "var(--soft)" in drawing
        assert "#0072b2" not in drawing


def test_page_is_repeatable(run: Path, text: str) -> None:
    assert write_report(run).read_text() == text


def test_page_without_the_optional_files(tmp_path: Path) -> None:
    with pytest.raises(EchelonError, match=r"records\.json: no such file"):
        write_report(tmp_path)
    save(tmp_path / "records.json", make_records({"flat": RATES["flat"]}, seeds=1))
    text = write_report(tmp_path).read_text()
    assert "Watch the trials" not in text
    assert "How far ahead" not in text
    assert "<script" not in text
    assert "not tried" in text


def test_page_with_little_diagnostics(tmp_path: Path) -> None:
    save(tmp_path / "records.json", [one("hierarchical", 3, 0.0), one("flat", 3, 0.0)])
    data = make_diagnostics()
    del data["layout"], data["latents"][1]["distance_map"], data["latents"][1]["distance_by_gap"]
    data["open_loop"]["curves"] = [{"name": "a", "steps": [0, 1], "error": [0, 2]}]
    rng = range(900)
    data["latents"][0]["distance_map"] = {
        "goal": [1, 1],
        "places": [[i % 7 / 2, i / 200] for i in rng],
        "distance": list(rng),
    }
    (tmp_path / "diagnostics.json").write_text(json.dumps(data))
    assert "Level 1" in write_report(tmp_path).read_text()


def test_what_files_say_stays_text(tmp_path: Path) -> None:
    bad = '</script><img src="x" onerror="alert(1)">'
    make_run(tmp_path)
    records = [
        dataclasses.replace(r, task=bad, setting=bad, device=bad, command=bad, split=bad + r.split)
        for r in make_records({"flat": RATES["flat"], f"control:{bad}": RATES["flat"]}, seeds=1)
        if r.setting == "default"
    ]
    save(tmp_path / "records.json", records)
    traces = make_traces(2)
    traces[0]["runs"][0]["method"] = bad
    (tmp_path / "traces.json").write_text(json.dumps(traces))
    (tmp_path / "config.json").write_text(json.dumps({bad: bad}))
    text = write_report(tmp_path).read_text()
    assert "<img src=" not in text.replace('<img alt="An', "")
    page = Page()
    page.feed(text)
    assert page.open == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"surprise": 1}, "unknown field surprise"),
        ({"goal_png": "AAAA"}, "goal_png: not a PNG"),
        ({"goal_png": "?"}, "goal_png: not a PNG"),
        ({"latents": [{"level": 0}]}, "latents.0: missing field dim, effective_rank, std"),
        (
            {"open_loop": {"unit": "m", "curves": [{"name": "a", "steps": [1], "error": []}]}},
            "a: 1 values beside 0",
        ),
        (
            {"open_loop": {"unit": "m", "curves": [{"name": "a", "steps": [], "error": []}]}},
            "a: has no points",
        ),
    ],
)
def test_strict_diagnostics(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    save(tmp_path / "records.json", make_records(seeds=1))
    (tmp_path / "diagnostics.json").write_text(json.dumps(make_diagnostics() | change))
    with pytest.raises(EchelonError, match=re.escape(message)):
        read_folder(tmp_path)


def test_strict_traces(tmp_path: Path) -> None:
    save(tmp_path / "records.json", make_records(seeds=1))
    for change, message in (
        ({"runs": []}, "no runs"),
        ({"layout": [[1], [1, 1]]}, "differ in length"),
    ):
        (tmp_path / "traces.json").write_text(json.dumps([make_traces(1)[0] | change]))
        with pytest.raises(EchelonError, match=message):
            read_folder(tmp_path)
    (tmp_path / "traces.json").write_text("{}")
    with pytest.raises(EchelonError, match="list of traces"):
        read_folder(tmp_path)


def test_script_parses() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node.js to parse the script")
    script = files("echelon.report").joinpath("player.js").read_text(encoding="utf-8")
    subprocess.run([node, "--check", "-"], input=script, text=True, check=True)


# ---- trials to show


def test_thinning_keeps_every_split_and_outcome(run: Path) -> None:
    traces = read_folder(run).traces
    assert thin(traces, 10**9) == list(traces)
    few = thin(traces, 60_000)
    assert 0 < len(few) < len(traces)

    def kinds(of: Any) -> set[Any]:
        return {(t.split, *(r.success for r in t.runs)) for t in of}

    assert len(kinds(few)) == min(len(few), len(kinds(traces)))
    assert len(thin(traces, 0)) == 1


def test_the_first_trial_is_a_usual_one(run: Path) -> None:
    folder = read_folder(run)
    comparisons = compare(folder.records)
    first = typical(folder.traces, comparisons)
    usual = {p.method: p.rate >= 0.5 for p in comparisons[2].everything if p.setting == "default"}
    assert first.split == "9+"
    assert all(r.success == usual[r.method] for r in first.runs)


# ---- figures


def test_crossing() -> None:
    def curve(level: int, steps: tuple[float, ...], error: tuple[float, ...]) -> Curve:
        return Curve(f"level {level}", steps, error, level=level)

    fine = curve(0, (1, 10, 100), (0, 1, 3))
    assert crossing(fine, curve(1, (10, 100), (2, 2))) == pytest.approx(10 * 10**0.5)
    assert crossing(fine, curve(1, (10, 100), (4, 4))) is None
    assert crossing(fine, curve(1, (10, 100), (0.5, 0.5))) == 10
    assert crossing(fine, curve(1, (200, 300), (1, 1))) is None
    for error, words in (((2, 2), "From about 32"), ((4, 4), "never"), ((0.5, 0.5), "every span")):
        assert words in say_crossings(OpenLoop("cells", (fine, curve(1, (10, 100), error))))


def test_picture(run: Path, tmp_path: Path) -> None:
    out = headline_picture(run, tmp_path / "head.png")
    head = out.read_bytes()[:24]
    assert head[:4] == b"\x89PNG"
    width, height = struct.unpack(">II", head[16:])
    assert width > 2 * height
    save(tmp_path / "records.json", make_records(seeds=1))
    with pytest.raises(EchelonError, match="needs a recorded trial"):
        headline_picture(tmp_path, out)
