"""Published benchmarks at a size that measures nothing: collected, trained, judged, written."""

from __future__ import annotations

import re
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from echelon import cli, experiment
from echelon.bench.ant_maze import AntMazeBench
from echelon.bench.benchmark import Benchmark, Run, run
from echelon.bench.cube import CUBE, CubeBench
from echelon.bench.diverse_maze import DIVERSE_MAZE, DiverseMaze, held_out_layouts
from echelon.bench.four_room import FourRoomDistractors
from echelon.bench.larger import BATCH, EPISODES
from echelon.bench.push_t import PUSH_T, PushTBench
from echelon.collect import CollectConfig
from echelon.config import EncoderConfig, ModelConfig, StageConfig, TrainConfig
from echelon.data.episodes import Episodes
from echelon.envs.mazes import spread_trials
from echelon.files import read_json
from echelon.models.hierarchy import Hierarchy
from echelon.progress import Progress
from echelon.records import load
from echelon.report import read_section
from echelon.types import EchelonError

COLLECTION: CollectConfig = DIVERSE_MAZE.collection
ALL = (DiverseMaze, FourRoomDistractors, PushTBench, CubeBench, AntMazeBench)


def tiny(mine: Benchmark) -> Benchmark:
    def model(whole: ModelConfig) -> ModelConfig:
        small = {"width": 8, "glimpse": 3, "lift_width": 8, "rollout": 1}
        levels = tuple(replace(level, **small) for level in whole.levels)
        keypoints = whole.encoder.kind == "keypoints"
        encoder = EncoderConfig("keypoints", grid=8) if keypoints else whole.encoder
        return replace(whole, levels=levels, encoder=encoder, bank_size=16)

    def train(whole: TrainConfig) -> TrainConfig:
        stages = tuple(replace(stage, steps=2, batch_size=4) for stage in whole.stages)
        return replace(whole, stages=stages, held_out=0.5)

    size: dict[str, int] = {"episodes": 4, "steps": 64}
    size |= {"mazes": 2} if mine is DIVERSE_MAZE else {}
    size |= {"episodes": 8, "steps": 100} if mine is PUSH_T else {}
    size |= {"episodes": 12, "steps": 120} if mine is CUBE else {}
    splits = list(mine.budgets)[-2:]  # nearer ones would show nothing that these do not
    return replace(
        mine,
        budgets=dict.fromkeys(splits, 3),
        published={
            name: {split: value for split, value in figures.items() if split in splits}
            for name, figures in mine.published.items()
        },
        collection=replace(mine.collection, **size),
        model=model(mine.model),
        train=train(mine.train),
        others=tuple(
            replace(other, model=model(other.model), train=train(other.train))
            for other in mine.others
        ),
    )


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echelon.truth.BUDGET", 2)


@pytest.mark.filterwarnings("ignore::echelon.EchelonWarning")
@pytest.mark.parametrize("command", ALL, ids=[c.benchmark.name for c in ALL])
def test_it_collects_trains_judges_and_writes_a_page(
    command: type[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = command.benchmark
    mine, name = tiny(whole), whole.name
    page = tmp_path / f"{name}.md"
    page.write_text(f"<!-- results:{name} -->\n<!-- /results:{name} -->\n")
    asked = command((0,), trials=1, runs=tmp_path / "runs", out=tmp_path / "out", docs=tmp_path)
    out = tmp_path / "out" / name
    run(mine, asked, Progress(quiet=True))
    records = load(out / "records.json")
    methods = [m for made in whole.models for m in made.methods(made.model)]
    assert {(r.method, r.setting) for r in records} == {(m.method, m.setting) for m in methods}
    assert {r.levels for r in records} == {1, 2, 3, 4}
    paired = read_json(out / "paired.json")
    assert len(paired) == len(mine.budgets) * (len(methods) - 1)
    assert {r.split for r in records} == set(mine.budgets)
    seconds = read_json(out / "seconds.json")
    (took,) = seconds["seeds"]
    assert {"collect", "train", "judge"} <= set(
        took
    )  # a tenth of a second may be too short to tell
    assert seconds["jobs"] == 1
    assert seconds["all"] > took["train"]
    assert page.with_suffix(".png").stat().st_size > 1000
    text = read_section(page, name)
    assert all(f"| *{theirs}* |" in text for theirs in whole.published)

    run(mine, replace(asked, jobs=2), Progress(quiet=True))  # all of it crosses to other processes
    assert load(out / "records.json") == records

    def never(*_: object, **__: object) -> None:
        raise AssertionError("what is there is not done again")

    monkeypatch.setattr(experiment, "run_trials", never)
    run(replace(mine, collect=never), asked, Progress(quiet=True))
    assert load(out / "records.json") == records
    with pytest.raises(EchelonError, match="the trials of seed 0 are not those that this code"):
        run(mine, replace(asked, trials=2), Progress(quiet=True))
    with pytest.raises(EchelonError, match="trials: 0 measure nothing"):
        run(mine, replace(asked, trials=0), Progress(quiet=True))


@pytest.mark.filterwarnings("ignore::echelon.EchelonWarning")
def test_the_task_that_the_docs_make_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[1] / "docs" / "new-task.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    made: dict[str, Any] = {"__name__": "plane"}
    module = types.ModuleType("plane")  # dataclasses look their module up
    monkeypatch.setitem(sys.modules, "plane", module)
    exec(compile(code, "docs/new-task.md", "exec"), made)
    mine: Benchmark = made["PLANE"]
    check_env(made["Plane"](), skip_render_check=True)
    small = replace(
        mine,
        budgets=dict.fromkeys(mine.budgets, 3),
        collection=replace(mine.collection, episodes=4, steps=85),
        model=replace(mine.model, bank_size=16),
        train=replace(mine.train, held_out=0.5, stages=(StageConfig((0, 1), 2, 4, True),)),
    )
    (tmp_path / "plane.md").write_text("<!-- results:plane -->\n<!-- /results:plane -->\n")
    asked = made["PlaneBench"]((0,), 2, runs=tmp_path / "runs", out=tmp_path, docs=tmp_path)
    run(small, asked, Progress(quiet=True))
    episodes = Episodes.open(tmp_path / "runs" / "plane" / "seed-0" / "episodes.h5")
    trials = mine.trials(mine, episodes, 5, 0)
    for split, (low, high) in (("1-3", (1, 3)), ("4-6", (4, 6))):
        away = [np.linalg.norm(t.goal - t.start) for t in trials if t.split == split]
        assert len(away) == 5
        assert low <= min(away) <= max(away) <= high
    methods = {(r.method, r.setting) for r in load(tmp_path / "plane" / "records.json")}
    assert methods == {(m.method, m.setting) for m in mine.methods(mine.model)}


@pytest.mark.parametrize("mine", [c.benchmark for c in ALL], ids=[c.benchmark.name for c in ALL])
def test_one_level_is_matched_in_its_parameters(mine: Benchmark) -> None:
    def parameters(model: ModelConfig) -> int:
        return sum(p.numel() for p in Hierarchy(model, 2).parameters())

    matched = next(made for made in mine.models if made.name == "matched")
    assert parameters(matched.model) == pytest.approx(parameters(mine.model), rel=0.05)


@pytest.mark.parametrize("command", ALL, ids=[c.benchmark.name for c in ALL])
def test_a_gpu_has_more_of_everything_and_a_section_of_its_own(
    command: type[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = command(preset="gpu", runs=tmp_path, out=tmp_path, docs=tmp_path)
    small, large = command().task, asked.task
    assert large.collection.episodes == EPISODES * small.collection.episodes
    assert [m.name for m in large.models] == [m.name for m in small.models]
    for much, little in zip(large.models, small.models, strict=True):
        assert [m.setting for m in much.methods(much.model)] == [
            m.setting for m in little.methods(little.model)
        ]
        assert much.model.levels == little.model.levels
        assert all(
            BATCH * b.batch_size == a.batch_size and a.steps == b.steps
            for a, b in zip(much.train.stages, little.train.stages, strict=True)
        )
    name = command.benchmark.name
    assert asked.shows.path == command(docs=tmp_path).shows.path == tmp_path / f"{name}.md"
    assert list(asked.shows.sections) == [f"{name}-gpu"]
    monkeypatch.setattr("echelon.bench.benchmark.device", lambda: "cpu")
    with pytest.raises(EchelonError, match="use --preset cpu"):
        asked()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mine", [c.benchmark for c in ALL], ids=[c.benchmark.name for c in ALL])
def test_what_was_published_is_of_splits_that_are_judged(mine: Benchmark) -> None:
    assert all(set(figures) <= set(mine.budgets) for figures in mine.published.values())


def test_held_out_layouts_are_other_ones_with_far_goals() -> None:
    found = held_out_layouts(COLLECTION, 3)
    known = {layout.tobytes() for layout in COLLECTION.layouts}
    assert len({layout.tobytes() for layout in found} - known) == 3
    for split in DIVERSE_MAZE.budgets:
        assert len(spread_trials(found, 3, 0, "test", (split,))) == 3
    with pytest.raises(EchelonError, match="fewer than 1 layouts of this size"):
        held_out_layouts(replace(COLLECTION, maze_size=5), 1)


def test_trials_are_held_as_episodes_are_collected() -> None:
    assert DIVERSE_MAZE.task == replace(COLLECTION.task, radius=0.5)


def test_a_page_that_cannot_be_written_is_told_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", "diverse-maze"]) == 2
    assert "docs/diverse-maze.md: cannot be read" in capsys.readouterr().err


def test_what_others_go_on_from_is_trained_before_them() -> None:
    names = [made.name for made in CUBE.in_turn]
    assert names == ["one-level", "matched", "base", "own-latents", "levels-3", "levels-4"]
    assert [made.name for made in CUBE.below(CUBE.in_turn[-1])] == ["levels-3", "base", "one-level"]
