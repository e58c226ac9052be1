"""What the experiments choose and add up; the experiments themselves are run by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_records import record
from tiny import model_config, train_config, write_episodes

from echelon import cli, experiment
from echelon.bench import collapse, tune
from echelon.bench.flat_model import WINDOW, gaussianity, train_flat
from echelon.config import ModelConfig
from echelon.data.episodes import Episodes
from echelon.progress import Progress
from echelon.records import Record
from echelon.report import paired_p


def tuned(setting: str, tflops: float, successes: int, method: str = "flat") -> Record:
    changes = {"setting": setting, "tflops_per_episode": tflops, "successes": successes}
    return record(method=method, levels=1 if method == "flat" else 2, split="9+", **changes)


def test_the_frontier_is_the_best_at_each_doubling() -> None:
    ours = tuned("default", 1.0, 90, "hierarchical")
    flat = [
        tuned("cheap", 0.3, 10),
        tuned("cheap-and-better", 0.4, 20),
        tuned("equal", 0.9, 15),
        tuned("dear", 3.0, 40),
        tuned("as-good-but-dearer", 3.5, 40),
        tuned("too-dear", 40.0, 99),
    ]
    chosen = tune.frontier([ours, *flat], "flat")
    # "equal" is the best of its doubling, "cheap-and-better" the best that is no dearer than ours.
    assert sorted(chosen) == ["cheap-and-better", "dear", "equal"]


def test_the_frontier_is_taken_in_every_split() -> None:
    records = []
    for split, best in (("1-4", "a"), ("9+", "b")):
        records.append(record(split=split, setting="default", tflops_per_episode=1.0))
        for setting in ("a", "b"):
            wins = 90 if setting == best else 10
            changes = {"tflops_per_episode": 0.6, "successes": wins, "levels": 1}
            records.append(record(split=split, method="flat", setting=setting, **changes))
    assert sorted(tune.frontier(records, "flat")) == ["a", "b"]


def test_pairs_add_up_over_seeds() -> None:
    counts = {"both": 5, "only_hierarchical": 4, "only_other": 1, "neither": 0}
    pair = {"split": "9+", "method": "flat", "setting": "a", **counts}
    other = pair | {"setting": "b"}
    first, second = experiment.tested([pair, other, pair])
    assert (first["both"], first["only_hierarchical"], first["only_other"]) == (10, 8, 2)
    assert first["p"] == pytest.approx(paired_p(8, 2), rel=1e-2)
    assert second["setting"] == "b"
    assert second["only_hierarchical"] == 4


def test_no_setting_is_tuned_twice() -> None:
    settings = tune.flat_grid()
    assert len({s.name for s in settings}) == len(settings)
    assert {s.kind for s in settings} == {"cem", "mppi"}
    assert max(s.horizon for s in settings) >= 400
    assert min(s.correlation for s in settings) == 0
    hierarchical = tune.hierarchy_grid(ModelConfig())
    assert len({m.setting for m in hierarchical}) == len(hierarchical) < len(settings)
    assert len({m.levels for m in hierarchical}) == len(hierarchical)


def test_a_picture_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "readme", "--runs", str(tmp_path)]) == 2
    assert "no such file" in capsys.readouterr().err


def test_the_foreign_models_regulariser() -> None:
    gaussian = torch.randn(20_000, 4)
    assert gaussianity(gaussian).item() == pytest.approx(0, abs=1e-3)
    # All latents 0: half the sum of (1 - g)^2 g over the frequencies, by hand.
    t = torch.linspace(0.25, 4, 16)
    g = torch.exp(-t.square() / 2)
    expected = 0.5 * ((1 - g).square() * g).sum()
    assert torch.allclose(gaussianity(torch.zeros(100, 4)), expected)


def test_the_foreign_model_learns_to_predict() -> None:
    # A bright row that an action of 1 moves down by a patch, and around.
    place = np.cumsum(np.random.default_rng(0).integers(0, 2, 400)) % 8
    pixels = np.zeros((400, 64, 64, 3), np.uint8)
    for frame, at in zip(pixels, place, strict=True):
        frame[8 * at : 8 * at + 8] = 255
    actions = np.diff(place, append=0).astype(np.float32)[:, None] % 8
    model, errors = train_flat(pixels, actions, np.arange(400 - WINDOW), 200, 0, batch=4)
    assert errors[1] < 0.7 * errors[0]
    clips = torch.from_numpy(np.stack([pixels[:9], pixels[1:10]], 1))
    with torch.no_grad():
        state = model.encode(clips[:8])
        true = model.encode(clips[1:])[0]
        predicted = model.predict(state, torch.from_numpy(actions[1:9]))
    assert predicted[1] is state[0]
    assert (predicted[0] - true).square().mean() < (state[0] - true).square().mean()


def test_a_planted_collapse_is_told_and_no_other(tmp_path: Path) -> None:
    data = write_episodes(tmp_path / "dots.h5")
    config = train_config(1, steps=400)
    train = replace(config, stages=config.stages[:1])
    asked = collapse.Collapse(data=data, share=0.1)
    episodes, model, quiet = Episodes.open(data), model_config(1), Progress(quiet=True)
    usual = collapse.watched(asked, episodes, model, train, quiet)
    assert (usual["told"], usual["at_step"]) == ([], 20)
    bad = collapse.planted(model)
    slow = replace(bad.levels[0].loss, smoothness=1e4)
    bad = replace(bad, levels=(replace(bad.levels[0], loss=slow),))
    found = collapse.watched(asked, episodes, bad, replace(train, ema=0.0), quiet)
    (told,) = found["told"]
    assert told["line"].startswith("level 0 has collapsed")
    assert told["step"] <= 40
    assert found["level0/deviation"] < usual["level0/deviation"]
