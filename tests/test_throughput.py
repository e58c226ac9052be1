"""The clock that times training against its model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import model_config, train_config, write_episodes

from echelon.bench import throughput
from echelon.bench.throughput import Throughput, measure
from echelon.data.episodes import Episodes
from echelon.progress import Progress
from echelon.types import EchelonError

QUIET = Progress(quiet=True)


def test_both_are_timed_by_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[int] = []
    real = throughput._Clock._run

    def watched(clock: throughput._Clock) -> float:
        turns.append(clock.done)
        return real(clock)

    monkeypatch.setattr(throughput._Clock, "_run", watched)
    episodes = Episodes.open(write_episodes(tmp_path / "dots.h5"))
    found = measure(Throughput(steps=6, turn=2), episodes, model_config(), train_config(), QUIET)
    assert turns == [0, 0, 2, 4] * 2  # the first turn of each stage is not counted
    for stage, config in zip(found, train_config().stages, strict=True):
        assert stage["stage"]["levels"] == list(config.levels)
        assert stage["steps"] == 6
        whole, bare = stage["whole_images_per_second"], stage["bare_images_per_second"]
        assert stage["ratio"] == pytest.approx(whole / bare, abs=2e-3)
        assert stage["ratio"] > 0
    json.dumps(found)


def test_an_image_is_a_frame_of_a_window(tmp_path: Path) -> None:
    episodes = Episodes.open(write_episodes(tmp_path / "dots.h5"))
    model, train = model_config(), train_config()
    clocks: list[throughput._Clock] = []

    class Kept(throughput._Clock):
        def figures(self) -> dict[str, float]:
            clocks.append(self)
            return super().figures()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(throughput, "_Clock", Kept)
        measure(Throughput(steps=1, turn=1), episodes, model, train, QUIET)
    # 8 windows: rollouts of 3 steps and a state's 2 frames; 2 steps of 4 and 2 latents
    assert [clock.images for clock in clocks] == [8 * (3 + 2), 8 * (8 + 2)]


def test_training_that_ends_too_soon(tmp_path: Path) -> None:
    episodes = Episodes.open(write_episodes(tmp_path / "dots.h5"))
    asked = Throughput(steps=50, turn=10)
    with pytest.raises(EchelonError, match="two turns of 10 steps"):
        measure(asked, episodes, model_config(), train_config(steps=15), QUIET)
