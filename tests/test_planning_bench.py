"""The planning bench at a size that measures nothing: cells, studies, and the results they leave."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_ablation import tiny

from echelon import cli
from echelon.auto import race
from echelon.bench import planning
from echelon.bench.planning import Planning, cells, studies
from echelon.bench.planning.cells import AUTO, CELLS, LESS, Cell
from echelon.bench.planning.mazes import MAZES, Maze, Models, train, variants
from echelon.bench.planning.studies import STUDIES, Bed, Ways, damaged, unreachable
from echelon.bench.variants import configured
from echelon.config import LevelConfig, ModelConfig
from echelon.envs.mazes import HELD_OUT_LAYOUTS
from echelon.evaluation import Outcome
from echelon.presets import FlatSetting, settings_of
from echelon.progress import Progress
from echelon.records import Dataset, Record, load
from echelon.report import read_section
from echelon.report.planning import beside_flat

ROOT = Path(__file__).parent.parent
QUIET = Progress(quiet=True)


def maze() -> Maze:
    config = tiny()
    collect = replace(config.collect, steps=60)
    fine, coarse = config.model.levels
    levels = (fine, replace(coarse, rollout=2))
    config = replace(config, collect=collect, model=replace(config.model, levels=levels))
    return Maze("tiny", config, ("1-4", "5+"), 64.0, ("1-1", "2-2"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return train(maze(), 0, tmp_path_factory.mktemp("planning"), QUIET)


@pytest.fixture(scope="module")
def beds(models: Models, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bed]:
    """Every study, each on a bed of its own."""
    found: dict[str, Bed] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "TUNING", 2)
        patch.setattr(cells, "race", lambda m, t, r, a: race(m, t, r, a, rounds=1))
        patch.setattr(studies, "LONG", (FlatSetting(5, 4),))
        for name, study in STUDIES.items():
            folder = tmp_path_factory.mktemp(name)
            found[name] = Bed(maze(), 0, models, folder, 2, QUIET)
            study(found[name])
    return found


def test_every_cell_of_the_table_has_settings_that_plan_on_as_many_levels(models: Models) -> None:
    """All four costs on one, two and three levels; nothing is left out silently."""
    for cell in CELLS:
        found = cell.settings(models)
        assert found, cell.name
        assert {len(levels) for levels in found.values()} == {cell.depth}
        for levels in found.values():
            cost = "latent" if cell.cost == "upper" and cell.depth > 1 else cell.cost
            *below, top = [level.cost for level in levels]
            assert top == cost
            assert below == ["latent", *[cost] * (cell.depth - 2)][: len(below)]
    every = set(AUTO.settings(models))
    own = [c for c in CELLS if c.cost != "latent" or c.depth == 1]
    assert every == {name for c in own for name in settings_of(models.own.config, c.cost, c.depth)}


def test_the_mazes_are_the_demo_and_one_with_far_longer_ways() -> None:
    demo, large = MAZES
    assert [trial.distance >= 20 for trial in large.trials(0, 50, large.far)] == [True] * 50
    assert demo.config.collect.maze_seed == large.config.collect.maze_seed
    away = demo.trials(0, 10, HELD_OUT_LAYOUTS)
    assert len(away) == 10
    assert not any((trial.layout == demo.layout).all() for trial in away)
    low, high = large.ladder[0], large.ladder[-1]
    near = [trial.distance for trial in large.trials(0, 20, low)]
    far = [trial.distance for trial in large.trials(0, 20, high)]
    assert min(far) / max(near) >= 7.5


def test_variants_give_every_level_a_distance_a_graph_or_a_shared_latent() -> None:
    own, shared, ensemble = variants(MAZES[0])
    assert own.changes["model.levels.2.distance.horizon"] == pytest.approx(256 / 30)
    assert shared.changes["model.levels.2.latent"] == "shared"
    assert len(ensemble_levels := configured(ensemble, MAZES[0].config)[0].levels) == 2
    assert ensemble_levels[1].ensemble > 1


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_leaves_records_and_figures_that_can_be_read(
    name: str, beds: dict[str, Bed], tmp_path: Path
) -> None:
    bed = beds[name]
    planning.add(tmp_path / "out", name, bed)
    planning.add(tmp_path / "out", name, bed)  # a second time replaces the first
    records = load(tmp_path / "out" / f"{name}.json")
    assert len(records) == len(bed.records) > 0
    assert {record.task for record in records} == {"point-maze-planning-tiny"}
    path = tmp_path / "out" / f"{name}-figures.json"
    assert path.exists() == bool(bed.figures)
    if bed.figures:
        (found,) = json.loads(path.read_text())
        assert found["maze"] == "tiny"


def test_the_table_compares_each_hierarchy_with_flat_planning_on_its_cost(
    beds: dict[str, Bed],
) -> None:
    bed = beds["table"]
    splits = [*bed.maze.splits, HELD_OUT_LAYOUTS]
    assert {r.setting for r in bed.records} == {c.name for c in (*CELLS, AUTO)} | {LESS.setting}
    assert len(bed.records) == len(splits) * (len(CELLS) + 2)
    paired = bed.figures["paired"]
    same_cost = {(c.name, f"{c.cost}-1") for c in CELLS if c.depth > 1}
    less = {(f"latent-{depth}", LESS.setting) for depth in (2, 3)}
    assert {(p["cell"], p["setting"]) for p in paired} == same_cost | less
    assert {p["split"] for p in paired} == set(splits)


def test_long_searches_look_as_far_as_flat_ones_and_never_less_far_than_others() -> None:
    fine, above = LevelConfig(), LevelConfig(latent="shared", action_dim=8)
    for stride, horizon in ((10, 20), (300, 4)):
        model = ModelConfig(levels=(fine, replace(above, stride=stride)))
        found = settings_of(model, "latent", 2)
        assert found["latent-2-long"][-1].horizon == horizon
        assert found["latent-2-patient"][-1].horizon == 4


def test_a_damaged_model_predicts_with_noise_of_the_strength_asked(models: Models) -> None:
    before = models.own.state_dict()
    level = models.own.levels[1]
    state = {"z": torch.zeros(4000, 16), "dz": torch.zeros(4000, 16)}
    actions = torch.zeros(4000, level.action_dim)
    clean = level.predict(state, actions)
    unhurt = damaged(models.own, 0.0).levels[1].predict(state, actions)
    assert torch.equal(unhurt["z"], clean["z"])
    noisy = damaged(models.own, 2.0).levels[1].predict(state, actions)
    usual = (level.after - level.before).square().mean(0).sqrt()
    assert torch.allclose((noisy["z"] - clean["z"]).std(0), 2 * usual, rtol=0.1)
    assert all(torch.equal(before[k], v) for k, v in models.own.state_dict().items())


def test_ways_go_around_walls() -> None:
    layout = np.ones((3, 7), np.int8)
    layout[1, 1:6] = 0
    straight = Ways(layout).between(np.array([1.1, 1.1]), np.array([1.1, 4.1]))
    assert straight == pytest.approx(3)
    around = np.ones((5, 5), np.int8)
    around[1:4, 1:4] = 0
    around[1:3, 2] = 1  # one way round, by the lowest row
    assert Ways(around).between(np.array([1.5, 1.5]), np.array([1.5, 3.5])) == pytest.approx(5)


def test_a_subgoal_beyond_the_limit_counts_as_unreachable() -> None:
    layout = np.ones((3, 7), np.int8)
    layout[1, 1:6] = 0
    none = np.zeros(1)
    plans = [{"step": 0, "active": [1.5, 2.5]}, {"step": 0, "active": [1.5, 5.5]}]
    outcome = Outcome(none > 0, none.astype(np.int64), none, none, 0.0, [[[1.5, 1.5]]], [plans])
    assert unreachable(layout, outcome, 2.0) == {"subgoals": 2, "share": 0.5}


def test_a_maze_or_a_study_that_there_is_not_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = ["bench", "planning", "--runs", str(tmp_path), "--out", str(tmp_path)]
    for option, name in (("--mazes", "moon"), ("--studies", "tables")):
        assert cli.main([*command, option, name]) == 2
        assert f"there is no {name}" in capsys.readouterr().err
    assert cli.main([*command, "--trials", "1"]) == 2
    assert Planning().trials == 100
    assert Cell("graph", 2).name == "graph-2"


def test_the_best_hierarchy_is_set_beside_flat_planning_at_its_compute_and_at_its_best() -> None:
    def record(setting: str, levels: int, successes: int, tflops: float) -> Record:
        return Record(
            task="point-maze-planning-tiny",
            split="5+",
            method="flat" if levels == 1 else "hierarchical",
            setting=setting,
            levels=levels,
            seed=0,
            episodes=100,
            successes=successes,
            predictor_calls_per_episode=1.0,
            tflops_per_episode=tflops,
            seconds_per_decision=0.0,
            env_steps_budget=1,
            model_params=1,
            dataset=Dataset("x", 1, "0"),
            device="cpu",
            threads=1,
            command="echelon",
            commit="0",
            date="2026-01-01",
        )

    table = [
        record("graph-2", 2, 80, 1.0),
        record("graph-3", 3, 97, 2.0),
        record("graph-1", 1, 99, 1.0),
        record("latent-1", 1, 10, 1.5),
    ]
    flat = [record("cem-a", 1, 20, 1.8), record("cem-b", 1, 75, 40.0), record("cem-c", 1, 5, 64.0)]
    says = beside_flat(flat, table)
    assert "`graph-3`, reaches 97% [91–99] at 2.00 TFLOPs" in says
    assert "at no more than that, 20% [13–29] at 1.80" in says
    assert "best is 75% [65–83] at 40.0, its dearest setting takes 64.0" in says
    assert "`graph-2` is as good for 2.5% of its compute" in says
    assert "at its cheapest, 20%" in beside_flat(flat, [record("graph-2", 2, 80, 1.0)])


def test_the_page_shows_what_the_records_say(beds: dict[str, Bed], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text((ROOT / "docs" / "planning.md").read_text())
    for name, bed in beds.items():
        planning.add(tmp_path / "out", name, bed)
    Planning(out=tmp_path / "out", page=page).shows.write()
    text = page.read_text()
    table = beds["table"].records
    rate = next(r for r in table if r.setting == "graph-2" and r.split == "5+")
    assert f"{100 * rate.successes / rate.episodes:.0f}% [" in text
    assert page.with_suffix(".png").stat().st_size > 1000
    for name in STUDIES:
        assert read_section(page, f"planning-{name}") == planning.shown(tmp_path / "out", name)
        assert "|" in read_section(page, f"planning-{name}")
