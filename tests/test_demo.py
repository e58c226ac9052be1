"""The whole of `echelon demo`, at a size that measures nothing, stopped in each of its parts."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from echelon import demo, experiment, trainer
from echelon.cli import main
from echelon.data.episodes import Episodes, EpisodeWriter
from echelon.envs import mazes
from echelon.records import load
from echelon.report.inputs import read_folder

OPTIONS = [
    option
    for line in (
        "--collect.episodes 6 --collect.steps 40 --collect.maze-size 3",
        "--model.bank-size 64",
        "--model.levels.0.width 16 --model.levels.0.depth 1 --model.levels.0.lift-width 4",
        "--model.levels.0.rollout 3",
        "--model.levels.1.width 16 --model.levels.1.stride 5 --model.levels.1.rollout 2",
        "--train.accelerator cpu --train.held-out 0.34 --train.checkpoint-seconds 0",
        "--train.stages.0.steps 4 --train.stages.0.batch-size 8",
        "--train.stages.1.steps 4 --train.stages.1.batch-size 8",
        "--trials 2 --layout-trials 1 --held-out-layouts 1 --budget 3",
    )
    for option in line.split()
]
SPLITS = ["1-4", "5-8", "9+", "held-out-layouts"]


def run(out: Path, *more: str) -> int:
    return main(["demo", "--out", str(out), *OPTIONS, *more])


def interrupt_after(patch: pytest.MonkeyPatch, owner: Any, name: str, calls: int) -> None:
    """Ctrl-C in the middle of what `owner.name` does, after some of its calls have gone well."""
    real, done = getattr(owner, name), iter(range(calls))

    def stopping(*arguments: Any, **named: Any) -> Any:
        if next(done, None) is None:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    patch.setattr(owner, name, stopping)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that was stopped four times on its way."""
    out = tmp_path_factory.mktemp("demo") / "run"
    stops = (
        (EpisodeWriter, "add", 3),
        (trainer.Trainer, "_save", 2),
        (demo, "diagnose", 0),
        (experiment, "run_trials", 2),
    )
    left: list[set[str]] = []
    for owner, name, calls in stops:
        with pytest.MonkeyPatch.context() as patch:
            interrupt_after(patch, owner, name, calls)
            assert run(out) == 130
        left.append({p.name for p in out.iterdir()} if out.exists() else set())
    assert not any("part" in name for names in left for name in names)
    assert left[0] == set()
    assert {"episodes.h5", "training.safetensors"} <= left[1]
    assert "checkpoint.safetensors" not in left[1]
    assert "checkpoint.safetensors" in left[2]
    assert "diagnostics.json" in left[3] - left[2]
    assert len(list((out / "outcomes" / "home").iterdir())) == 2
    assert "records.json" not in left[3]
    assert run(out) == 0
    return out


def test_leaves_everything(finished: Path) -> None:
    names = {"config.json", "episodes.h5", "checkpoint.safetensors", "log.jsonl"}
    names |= {"diagnostics.json", "records.json", "traces.json", "report.html", "outcomes"}
    left = {p.name for p in finished.iterdir()}
    assert names <= left
    assert "training.safetensors" not in left
    folder = read_folder(finished)
    methods = {record.method for record in folder.records}
    assert {"hierarchical", "flat", "control:flat-same-cost", "control:random"} <= methods
    for method in methods:
        splits = [r.split for r in folder.records if r.method == method]
        assert list(dict.fromkeys(splits)) == SPLITS
    by_split = {record.split: record.episodes for record in folder.records}
    assert by_split == dict(zip(SPLITS, [2, 2, 2, 1], strict=True))
    digest = Episodes.open(finished / "episodes.h5").sha256
    assert {record.dataset.sha256 for record in folder.records} == {digest}
    assert folder.diagnostics is not None
    assert len(folder.diagnostics.latents) == 2
    assert folder.traces
    assert "<html" in (finished / "report.html").read_text()[:500]


def test_running_again_changes_nothing(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("done already")

    for owner, name in ((demo, "collect"), (demo, "diagnose"), (experiment, "run_trials")):
        monkeypatch.setattr(owner, name, forbidden)
    monkeypatch.setattr(trainer.Trainer, "_stage", forbidden)
    kept = ("records.json", "traces.json", "checkpoint.safetensors", "diagnostics.json")
    before = {name: (finished / name).read_bytes() for name in kept}
    began = time.monotonic()
    assert run(finished) == 0
    assert time.monotonic() - began < 30
    assert {name: (finished / name).read_bytes() for name in kept} == before
    assert "report.html" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_records(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "again"
    shutil.copytree(finished, copy)
    shutil.rmtree(copy / "outcomes")
    (copy / "records.json").unlink()
    assert run(copy) == 0

    def figures(folder: Path) -> list[tuple[Any, ...]]:
        return [
            (
                r.split,
                r.method,
                r.setting,
                r.successes,
                r.predictor_calls_per_episode,
                r.tflops_per_episode,
            )
            for r in load(folder / "records.json")
        ]

    assert figures(copy) == figures(finished)
    paths = [
        [
            run["path"]
            for trace in json.loads((folder / "traces.json").read_text())
            for run in trace["runs"]
        ]
        for folder in (copy, finished)
    ]
    assert paths[0] == paths[1]


def test_other_options_are_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "records.json").read_bytes()
    assert run(finished, "--train.seed", "5") == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("echelon: ")
    assert "train.seed: 0 there, 5 here" in told
    assert (finished / "records.json").read_bytes() == before


def test_a_maze_too_small_for_its_bins_is_told_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "run", "--collect.maze-size", "2") == 2
    assert "use another maze" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_trials_of_the_demo() -> None:
    config = demo.DemoConfig(trials=3, layout_trials=2, held_out_layouts=2)
    groups = demo.trials_of(config)
    assert [t.split for t in groups["home"]] == [s for s in mazes.BINS for _ in range(3)]
    home, *away = {t.layout.tobytes() for t in groups["home"] + groups["away"]}
    assert len(away) == 2
    assert home not in away
    assert {t.split for t in groups["away"]} == {mazes.HELD_OUT_LAYOUTS}
