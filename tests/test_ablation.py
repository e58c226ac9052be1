"""The ablation at a size that measures nothing: what is varied, shared, resumed and written."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_records import record

from echelon import checkpoint, cli, demo, experiment
from echelon.bench import ablation
from echelon.bench.ablation import Ablation, run, split
from echelon.bench.variants import VARIANTS, configured
from echelon.config import ModelConfig, TrainConfig, to_dict
from echelon.demo import DemoConfig
from echelon.files import alone
from echelon.progress import Progress
from echelon.records import load
from echelon.report import ablation_table, read_section
from echelon.trainer import Trainer

ROOT = Path(__file__).parent.parent
QUIET = Progress(quiet=True)
OWN_STEM = {
    "vit-beside",
    *("stop-gradient", "sigreg-0", "none-0", "teacher-forced"),
    *("vit", "vit-pretrained", "vit-hybrid"),
}
"""variants that change what level 0 learns by itself"""


def tiny() -> DemoConfig:
    config = DemoConfig(held_out_layouts=1, budget=3)
    fine, coarse = config.model.levels
    fine = replace(fine, width=16, depth=1, lift_width=4, rollout=3)
    coarse = replace(coarse, width=16, stride=5, rollout=2)
    stages = tuple(replace(s, steps=4, batch_size=8) for s in config.train.stages)
    return replace(
        config,
        model=ModelConfig(levels=(fine, coarse), bank_size=64),
        train=TrainConfig(stages=stages, accelerator="cpu", held_out=0.34),
        collect=replace(config.collect, episodes=6, steps=40, maze_size=3),
    )


def variant(name: str) -> ablation.Variant:
    return next(v for v in VARIANTS if v.name == name)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Ablation:
    """Three variants of one seed, trained, tried and written; the last in a call of its own."""
    root = tmp_path_factory.mktemp("ablation")
    page = root / "page.md"
    page.write_text("Before\n<!-- results:ablation -->\n<!-- /results:ablation -->\nafter\n")
    asked = Ablation(("default", "staged"), (0,), 2, 1, root / "runs", root / "out", page)
    run(asked, tiny(), QUIET)
    run(replace(asked, only=("quasimetric-flat",)), tiny(), QUIET)
    return asked


def test_every_variant_can_be_trained_and_differs() -> None:
    config = DemoConfig()
    names = [v.name for v in VARIANTS]
    assert len(set(names)) == len(names)
    assert {v.base for v in VARIANTS} | {v.trained for v in VARIANTS} <= {*names, ""}
    made = {v.name: configured(v, config) for v in VARIANTS if not (v.auto or v.trained)}
    assert made["default"] == (config.model, config.train)
    assert len({json.dumps([to_dict(m), to_dict(t)]) for m, t in made.values()}) == len(made)
    for model, train in made.values():
        assert max(max(s.levels, default=0) for s in train.stages) == len(model.levels) - 1
        assert model.window(range(len(model.levels))) <= config.collect.steps - 2
    assert made["levels-3"][0].durations == (1, 10, 30)
    assert made["macro-concat"][0].levels[1].action_dim is None
    for asked in (v for v in VARIANTS if v.trained):  # the same model, other plans
        trained = variant(asked.trained)
        assert (asked.changes, asked.auto) == (trained.changes, trained.auto)
        assert asked.planner(config.model) != trained.planner(config.model)
    first, *others = made["vit-hybrid"][1].stages
    assert (first.levels, first.masked, tuple(others)) == ((), True, config.train.stages)


def test_what_level_0_learns_by_itself_is_shared() -> None:
    config = DemoConfig()
    stems = {v.name: split(*configured(v, config)) for v in VARIANTS}
    usual = stems["default"]
    assert [[s.levels for s in stages.stages] for stages in usual[1:]] == [[(0,), (0,)], [(1,)]]
    for name, (model, first, rest) in stems.items():
        asked = configured(variant(name), config)[1].stages
        for level in range(3):  # each is trained in the stages that it was to be trained in
            steps = [s.steps for s in first.stages + rest.stages if level in s.levels]
            assert steps == [s.steps for s in asked if level in s.levels]
        if name not in OWN_STEM | {"joint"}:
            shared = first.stages[: len(usual[1].stages)]
            assert model == usual[0]
            assert shared == usual[1].stages[: len(shared)]
            heads = ("quasimetric-0", "quasimetric-flat")
            assert len(shared) == (1 if name in ("staged", *heads) else 2)
        else:
            assert (model, first) != usual[:2]
    assert stems["joint"][1].stages == ()
    assert stems["levels-1"][2].stages == ()


def test_the_stem_is_trained_once_and_kept(done: Ablation) -> None:
    folder = done.runs / "seed-0" / "ablation"
    stems = [checkpoint.load_model(path) for path in folder.glob("stem-*/checkpoint.safetensors")]
    assert [len(stem.levels) for stem in stems] == [1, 1]  # after one stage, and after two
    made = {
        name: checkpoint.load_model(folder / name / "checkpoint.safetensors")
        for name in ("default", "staged", "quasimetric-flat")
    }

    def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
        pairs = zip(a.parameters(), b.parameters(), strict=True)
        return all(torch.equal(x, y) for x, y in pairs)

    for name, model in made.items():
        assert len(model.levels) == 1 + (name != "quasimetric-flat")
        assert all(same(stem.levels[0].lift, model.levels[0].lift) for stem in stems)
    by_two, by_one = (made[n].levels[0].predictor for n in ("default", "staged"))
    assert not same(by_two, by_one)
    for predictor in (by_two, by_one):
        assert sum(same(stem.levels[0].predictor, predictor) for stem in stems) == 1
    assert not any(
        same(stem.levels[0].predictor, made["quasimetric-flat"].levels[0].predictor)
        for stem in stems
    )


def test_what_is_written(done: Ablation) -> None:
    records = load(done.out / "records.json")
    assert {(r.setting, r.method, r.levels) for r in records} == {
        ("default", "hierarchical", 2),
        ("staged", "hierarchical", 2),
        ("quasimetric-flat", "flat", 1),
    }
    assert {(r.split, r.episodes) for r in records} == {("9+", 2), ("held-out-layouts", 2)}
    models = json.loads((done.out / "models.json").read_text())
    assert [m["variant"] for m in models] == ["default", "staged", "quasimetric-flat"]
    for model, levels in zip(models, (2, 2, 1), strict=True):
        assert len(model["sign_agreement"]) == len(model["held_out_sign_agreement"]) == levels
        assert len(model["durations"]) == len(model["effective_rank"]) == levels
        assert all(0 <= x <= 1 for x in model["sign_agreement"])
    assert read_section(done.page, "ablation") == ablation.table(done.out)
    assert "| cost | `quasimetric-flat` |" in done.page.read_text()


def test_running_again_trains_and_tries_nothing(
    done: Ablation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("done already")

    monkeypatch.setattr(Trainer, "_stage", forbidden)
    for owner, name in ((experiment, "run_trials"), (ablation, "diagnose"), (demo, "collect")):
        monkeypatch.setattr(owner, name, forbidden)
    before = (done.out / "models.json").read_bytes(), done.page.read_bytes()
    run(done, tiny(), QUIET)
    assert ((done.out / "models.json").read_bytes(), done.page.read_bytes()) == before


def test_a_folder_is_one_process_s_at_a_time(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with alone(tmp_path / "run"):
            order.append("second")

    waiting = threading.Thread(target=second)
    with alone(tmp_path / "run"):
        waiting.start()
        waiting.join(0.2)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]


def test_unknown_names_and_pages_are_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", "ablation", "--only", "macro-3"]) == 2
    assert "no variant is called macro-3; there are default, macro-2" in capsys.readouterr().err
    assert cli.main(["bench", "ablation"]) == 2
    assert "docs/ablation.md: cannot be read" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_table_says_what_differs_by_more_than_chance() -> None:
    rows = [("default", "–", "as it is", "default"), ("worse", "cost", "another", "default")]
    rows += [("like-worse", "cost", "a third", "worse"), ("absent", "cost", "none", "default")]
    records = [
        record(split="9+", setting=name, seed=seed, episodes=100, successes=successes)
        for name, successes in (("default", 90), ("worse", 50), ("like-worse", 52))
        for seed in (0, 1)
    ]
    models = [
        {"variant": "default", "seed": 0, "sign_agreement": [0.5, 0.9]},
        {"variant": "default", "seed": 1, "sign_agreement": [0.6, None]},
    ]
    models = [m | {"held_out_sign_agreement": [None]} for m in models]
    lines = ablation_table(rows, records, models).splitlines()
    shown = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:5]]
    assert [row[1] for row in shown] == ["`default`", "`worse`", "`like-worse`"]
    assert [row[3][:3] + row[3][-1] for row in shown] == ["90%]", "50%▼", "52%]"]
    assert [row[5] for row in shown] == ["0.55 / 0.90", "–", "–"]
    assert shown[0][6] == "–"
    assert shown[2][2] == "a third (against `worse`)"
    assert "200 trials a cell over seeds of the model: 2;" in lines[-1]
