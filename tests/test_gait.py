"""The search for a gait: what it starts from, what it leaves behind, and the gait that is in use."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echelon.bench.gait import GaitSearch, searched, start, walk, walks
from echelon.cli import main
from echelon.envs.gait import GAIT, Gait
from echelon.progress import Progress

ROOT = Path(__file__).parents[1]
RECORD = json.loads((ROOT / "results" / "gait.json").read_text())
SMALL = GaitSearch(rounds=2, candidates=8, seconds=0.3)


@given(st.lists(st.floats(-9, 9), min_size=23, max_size=23))
def test_a_gait_is_its_numbers(numbers: list[float]) -> None:
    assert Gait.of(np.array(numbers)).numbers.tolist() == numbers


def test_a_search_finds_the_same_again() -> None:
    found = searched(SMALL, Progress(quiet=True))
    assert searched(SMALL, Progress(quiet=True)) == found
    assert found != start()


def test_legs_that_hang_still_go_nowhere() -> None:
    still = Gait.of(np.concatenate([[10, 1, 0.1], np.zeros(20)]))
    along, beside, up = walk(still, 2.0, 0, (0.0, 1.0))
    assert abs(along).max() < 0.5
    assert beside.max() < 0.5
    assert up.min() > 0.5


def test_the_command_writes_what_it_found(tmp_path: Path) -> None:
    out = tmp_path / "gait.json"
    small = ["--rounds", "1", "--candidates", "8", "--seconds", "0.3"]
    assert main(["bench", "gait", *small, "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    assert len(record["numbers"]) == 23
    assert record["walks"] == 96
    assert record["metres_a_second"] < 1.0


def test_a_search_of_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "gait", "--rounds", "0", "--out", str(tmp_path / "gait.json")]) == 2
    assert "at least 1 round" in capsys.readouterr().err


def test_the_gait_in_use_is_the_one_that_was_found() -> None:
    assert GAIT.numbers.tolist() == RECORD["numbers"]
    assert RECORD["fell"] == 0
    some = walks(GAIT, 16)  # walks are chaotic: on another processor they are others
    assert some["metres_a_second"] == pytest.approx(RECORD["metres_a_second"], abs=0.15)
    assert some["fell"] <= 1


def test_the_page_says_what_the_record_does() -> None:
    page = " ".join((ROOT / "docs" / "ant-maze.md").read_text().split())
    assert f"{RECORD['rounds']} rounds of {RECORD['candidates']} gaits" in page
    assert f"{RECORD['metres_a_second']} m/s, and {RECORD['slowest']} in the slowest" in page
    assert f"of {RECORD['walks']} walks" in page
