"""HWM's Diverse Maze at a size that measures nothing: what is held out, resumed and written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from echelon import cli, demo, experiment
from echelon.bench import diverse_maze
from echelon.bench.diverse_maze import BUDGETS, CPU, DiverseMaze, held_out_layouts, run, table
from echelon.config import EncoderConfig, StageConfig
from echelon.envs.mazes import spread_trials
from echelon.files import read_json
from echelon.progress import Progress
from echelon.records import load
from echelon.report import read_section
from echelon.types import EchelonError

ROOT = Path(__file__).parents[1]


def tiny() -> diverse_maze.Setup:
    fine, above = CPU.model.levels
    small = {"width": 8, "glimpse": 3, "lift_width": 8}
    levels = (replace(fine, **small, rollout=3), replace(above, **small, rollout=1))
    stages = (StageConfig((), 2, 4, train_encoder=True), StageConfig((0, 1), 2, 4))
    return diverse_maze.Setup(
        replace(CPU.collect, episodes=4, steps=20, mazes=2),
        replace(CPU.model, levels=levels, encoder=EncoderConfig("keypoints", grid=8), bank_size=16),
        replace(CPU.train, stages=stages, held_out=0.5),
    )


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diverse_maze, "BUDGETS", dict.fromkeys(BUDGETS, 3))
    monkeypatch.setattr("echelon.truth.BUDGET", 2)


def test_held_out_layouts_are_other_ones_with_far_goals() -> None:
    found = held_out_layouts(CPU.collect, 3)
    known = {layout.tobytes() for layout in CPU.collect.layouts}
    assert len({layout.tobytes() for layout in found} - known) == 3
    for split in BUDGETS:
        assert len(spread_trials(found, 3, 0, "test", (split,))) == 3
    with pytest.raises(EchelonError, match="fewer than 1 layouts of this size"):
        held_out_layouts(replace(CPU.collect, maze_size=5), 1)


@pytest.mark.filterwarnings("ignore::echelon.EchelonWarning")
def test_it_collects_trains_judges_and_writes_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- results:diverse-maze -->\n<!-- /results:diverse-maze -->\n")
    places = {"runs": tmp_path / "runs", "out": tmp_path / "out"}
    asked = DiverseMaze(
        (0,), trials=1, held_out=1, **places, page=page, manifest=tmp_path / "trials.json"
    )
    run(asked, tiny(), Progress(quiet=True))
    records = load(tmp_path / "out" / "records.json")
    assert {(r.method, r.setting) for r in records} == {
        (method.method, method.setting) for method in diverse_maze.methods(tiny().model)
    }
    assert {r.split for r in records} == set(BUDGETS)
    text = read_section(page, "diverse-maze")
    assert text == table(tmp_path / "out")
    (took,) = read_json(tmp_path / "out" / "seconds.json")
    assert all(took[part] > 0 for part in ("collect", "train", "judge"))
    assert page.with_suffix(".png").stat().st_size > 1000
    assert "| *HWM, hierarchical* | 100% | 95% | 83% |" in text

    def never(*_: object, **__: object) -> None:
        raise AssertionError("what is there is not done again")

    monkeypatch.setattr(experiment, "run_trials", never)
    monkeypatch.setattr(demo, "collect", never)
    run(asked, tiny(), Progress(quiet=True))
    assert load(tmp_path / "out" / "records.json") == records
    with pytest.raises(EchelonError, match="the trials of seed 0 are not those that this code"):
        run(replace(asked, trials=2), tiny(), Progress(quiet=True))


def test_a_page_that_cannot_be_written_is_told_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", "diverse-maze"]) == 2
    assert "docs/diverse-maze.md: cannot be read" in capsys.readouterr().err
