"""Pages and the results they show: all of them, and nothing else, by one command."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from test_records import record

from echelon import cli
from echelon.bench.benchmark import PARTS
from echelon.bench.diverse_maze import DIVERSE_MAZE
from echelon.bench.tables import PAGES
from echelon.files import write_json
from echelon.records import Record, save
from echelon.report import Page, read_section, write_section
from echelon.report.published import overview, published_picture, published_table
from echelon.types import EchelonError

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("page", PAGES, ids=[str(page.path) for page in PAGES])
def test_a_page_shows_what_its_records_say(page: Page, tmp_path: Path) -> None:
    kept, copy = ROOT / page.path, tmp_path / "page.md"
    copy.write_text(kept.read_text())
    replace(page, path=copy, results=ROOT / page.results, picture=None).write()
    assert copy.read_text() == kept.read_text()


def test_every_section_of_results_is_in_the_list() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    found = sum(page.read_text().count("\n<!-- results:") for page in pages)
    assert found == sum(len(page.sections) for page in PAGES)


def test_the_command_makes_the_pages_of_the_records_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for page in PAGES:
        copy = tmp_path / page.path
        copy.parent.mkdir(exist_ok=True)
        copy.write_text((ROOT / page.path).read_text())
        for name in page.sections:
            write_section(copy, name, "old")
    shutil.copytree(ROOT / "results" / "demo", tmp_path / "results" / "demo")
    out = tmp_path / "results" / "diverse-maze"
    save(out / "records.json", [record(split=split) for split in DIVERSE_MAZE.budgets])
    write_json(out / "seconds.json", {"seeds": [dict.fromkeys(PARTS, 60.0)]})
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", "tables"]) == 0
    readme = tmp_path / "README.md"
    assert read_section(readme, "demo") == read_section(ROOT / "README.md", "demo")
    assert "| Diverse Maze, 13-16 | 80% [71–87] · 0.500 |" in read_section(readme, "benchmarks")
    assert "Minutes a seed took" in read_section(Path("docs/diverse-maze.md"), "diverse-maze")
    assert Path("docs/diverse-maze.png").stat().st_size > 1000
    assert read_section(Path("docs/ablation.md"), "ablation") == ""  # no results, no table
    assert [path.name for path in Path("docs").glob("*.png")] == ["diverse-maze.png"]


def test_an_empty_folder_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", "tables"]) == 2
    told = capsys.readouterr().err
    assert told == "echelon: README.md: cannot be read (No such file or directory)\n"


def test_a_page_that_cannot_be_written_leaves_the_others_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("<!-- results:demo -->\nold\n<!-- /results:demo -->\n")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", "tables"]) == 2
    assert "old" in readme.read_text()


def test_text_between_markers(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("# A\n<!-- results:a -->\nold\n<!-- /results:a -->\nend\n")
    for _ in range(2):
        write_section(path, "a", "new")
        assert path.read_text() == "# A\n<!-- results:a -->\nnew\n<!-- /results:a -->\nend\n"
    assert read_section(path, "a") == "new"
    write_section(path, "a", "")
    assert path.read_text() == "# A\n<!-- results:a -->\n<!-- /results:a -->\nend\n"
    for broken in ("# A\n", "<!-- /results:a --><!-- results:a -->"):
        path.write_text(broken)
        with pytest.raises(EchelonError, match="needs one <!-- results:a -->"):
            write_section(path, "a", "new")
    with pytest.raises(EchelonError, match="cannot be read"):
        read_section(tmp_path / "none.md", "a")


def test_a_table_and_a_picture_beside_published_figures(tmp_path: Path) -> None:
    splits = ("5-8", "13-16")
    published = {"Theirs, flat": {"5-8": 90, "13-16": 40}, "Others": {"13-16": 50}}
    records = [
        record(method=method, setting=setting, levels=1, split=split, tflops_per_episode=spent)
        for method, setting, spent in (
            ("flat", "paths", 0.002),
            ("flat", "paths-more", 0.9),  # more than two decades: fewer ticks
            ("control:random", "uniform", 0.0),
        )
        for split in splits
    ]
    lines = published_table(records[:-1], published, splits).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[-3].startswith("| control:random `uniform` | 80% [71–87] | – | 0 | – |")
    assert lines[-2].startswith("| *Theirs, flat* | 90% | 40% | – | – |")
    assert lines[-1] == "| *Others* | – | 50% | – | – | – |"
    took = 1e3 * records[-1].seconds_per_decision
    assert lines[-3].endswith(f"| {took:.2g} |")
    for some in (records, records[:-1], records[:1]):
        path = published_picture(some, published, splits, "cells", tmp_path / "picture.png")
        assert path.read_bytes()[:4] == b"\x89PNG"


def test_an_overview_holds_the_same_cost_to_the_same_compute() -> None:
    """The best control that is no dearer; where there is none, the cheapest."""

    def tried(method: str, setting: str, successes: int, spent: float) -> Record:
        return record(
            method=method,
            setting=setting,
            split="9-12",
            successes=successes,
            tflops_per_episode=spent,
        )

    same = [tried("control:flat-same-cost", f"s{n}", n, spent) for n, spent in ((60, 1), (70, 2.1))]
    records = [tried("hierarchical", "two", 90, 2.0), tried("flat", "long", 40, 30.0), *same]
    text = overview({"Maze": ([*records, tried("control:flat-same-cost", "s95", 95, 3)], {})})
    row = text.splitlines()[2]
    assert row.startswith(
        "| Maze, 9-12 | 90% [82–95] · 2.00 | 70% [60–79] · 2.10 | 40% [30–50] · 30.0 |"
    )
    assert row.endswith("| – |  |")
    dearer = [records[0], tried("control:flat-same-cost", "s95", 95, 3)]
    text = overview({"Maze": (dearer, {"Theirs": {"9-12": 12.5}, "Others": {"1-4": 3}})})
    assert text.splitlines()[2].endswith("| 95% [89–98] · 3.00 \\* | – | – | Theirs 12.5% |")
    assert text.splitlines()[-1].startswith("\\* no setting was as cheap")
