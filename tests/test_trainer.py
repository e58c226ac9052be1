"""Training: the same weights whatever interrupts it, and an honest word where it cannot go on."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import model_config, train_config, write_episodes
from torch import Tensor

from echelon import checkpoint, losses, objective, statistics
from echelon.config import (
    DistanceConfig,
    EncoderConfig,
    LossConfig,
    MaskedConfig,
    ModelConfig,
    StageConfig,
    TrainConfig,
)
from echelon.data.episodes import Episodes
from echelon.data.windows import Batches, WindowSampler
from echelon.models.hierarchy import Hierarchy
from echelon.objective import Objective
from echelon.progress import Progress
from echelon.trainer import Trainer, _schedule
from echelon.types import EchelonError

LOGGED = (1, 4, 8, 12)
"""Steps of a stage of 12 that have a line in the log: when 5 % are over, and every fourth."""


class Watched(Progress):
    """Keeps what it is told; raises KeyboardInterrupt when it has been moved on `stop` times."""

    def __init__(self, stop: int = -1) -> None:
        super().__init__(quiet=True)
        self.stop = stop
        self.warnings: list[str] = []
        self.losses: list[float] = []
        self.starts: list[int] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    @contextmanager
    def task(
        self, name: str, total: int, start: int = 0
    ) -> Generator[Callable[[float | None], None]]:
        self.starts.append(start)

        def advance(loss: float | None = None) -> None:
            assert loss is not None
            self.losses.append(loss)
            if len(self.losses) == self.stop:
                raise KeyboardInterrupt

        yield advance


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Episodes:
    return Episodes.open(write_episodes(tmp_path_factory.mktemp("data") / "dot.h5"))


@pytest.fixture(scope="module")
def undisturbed(episodes: Episodes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    Trainer(episodes, model_config(), train_config(), out).run(Watched())
    return out


def log(out: Path) -> list[dict[str, Any]]:
    """The lines of a log without their time."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "time"} for line in lines]


def assert_same(out: Path, other: Path) -> None:
    assert log(out) == log(other)
    name = "checkpoint.safetensors"
    assert (out / name).read_bytes() == (other / name).read_bytes()


def snapshot(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


# ------------------------------------------------------------------------- what a run leaves


def test_what_a_run_writes(undisturbed: Path, episodes: Episodes) -> None:
    kept = {"config.json", "log.jsonl", "tensorboard", "checkpoint.safetensors"}
    assert set(os.listdir(undisturbed)) == kept
    written = json.loads((undisturbed / "config.json").read_text())
    assert written["config"]["train"]["stages"][1]["levels"] == [0, 1]
    assert written["config"]["data"]["sha256"] == episodes.sha256
    assert "torch" in written["versions"]
    about = checkpoint.describe(undisturbed / "checkpoint.safetensors")["about"]
    assert about["data"]["sha256"] == episodes.sha256
    assert about["meta"] == episodes.meta
    assert about["train"]["ema"] == 0.99


def test_the_log_has_both_stages_and_held_out_figures(undisturbed: Path) -> None:
    lines = log(undisturbed)
    assert [(e["stage"], e["step"]) for e in lines] == [
        (stage, step) for stage in (0, 1) for step in LOGGED
    ]
    for line in lines:
        assert all(math.isfinite(value) for value in line.values())
        assert line["held_out/level0/prediction"] > 0
        assert line["level0/deviation"] > 0
        assert 1 <= line["level0/rank"] <= 4
    assert "level0/inverse_dynamics" in lines[0]
    assert "level1/prediction" not in lines[3]
    assert "held_out/level1/prediction" in lines[4]
    # The encoder is frozen in the second stage: there is nothing to regularise at level 0.
    assert "level0/variance" not in lines[4]
    assert "level1/variance" in lines[4]
    # What tells of planning success, when 5 % of a stage are over and at its end.
    assert [i for i, line in enumerate(lines) if "level0/open_loop/1" in line] == [0, 3, 4, 7]
    assert "level1/sign_agreement" in lines[7]


def test_tensorboard_has_the_lines_of_the_log(undisturbed: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(undisturbed / "tensorboard")).Reload()
    found = events.Scalars("level0/prediction")
    assert [event.step for event in found] == [*LOGGED, *(12 + step for step in LOGGED)]
    assert [event.value for event in found] == pytest.approx(
        [line["level0/prediction"] for line in log(undisturbed)]
    )


def test_a_finished_run_is_loaded_and_not_trained(undisturbed: Path, episodes: Episodes) -> None:
    before = (undisturbed / "checkpoint.safetensors").stat().st_mtime_ns
    progress = Watched()
    model = Trainer(episodes, model_config(), train_config(), undisturbed).run(progress)
    assert progress.starts == []
    assert not model.training
    assert (undisturbed / "checkpoint.safetensors").stat().st_mtime_ns == before


def test_what_search_needs_is_fitted(undisturbed: Path, episodes: Episodes) -> None:
    model = checkpoint.load_model(undisturbed / "checkpoint.safetensors")
    level = model.levels[1]
    prior = level.prior
    assert (prior.low < prior.mean).all()
    assert (prior.mean < prior.high).all()
    assert (prior.std > 0.1).all()
    low = model.levels[0].prior
    assert -1 <= low.low.item() < -0.9
    assert 0.9 < low.high.item() <= 1
    # An entry of the bank is a training frame, at level 0 and as level 1 sees it.
    lift: Any = model.levels[0].lift
    latents = lift.encoder(torch.from_numpy(episodes.pixels))
    nearest = torch.cdist(level.bank_below, latents)
    assert (nearest.min(1).values < 1e-3).all()
    place: Any = level.lift
    assert torch.allclose(place.network(level.bank_below), level.bank, atol=1e-5)


def test_seeds_give_different_weights(
    undisturbed: Path, episodes: Episodes, tmp_path: Path
) -> None:
    config = replace(train_config(), seed=1)
    Trainer(episodes, model_config(), config, tmp_path / "run").run(Watched())
    assert log(tmp_path / "run")[-1] != log(undisturbed)[-1]


# ------------------------------------------------------------------------- stopping and resuming


@pytest.mark.parametrize("stops", [(1,), (5,), (11,), (12,), (13,), (24,), (3, 4, 13)])
def test_stopped_and_resumed_is_undisturbed(
    undisturbed: Path, episodes: Episodes, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    out, done = tmp_path / "run", 0
    for stop in stops:
        trainer = Trainer(episodes, model_config(), train_config(), out)
        with pytest.raises(KeyboardInterrupt):
            trainer.run(Watched(stop))
        done += stop
        assert not trainer.checkpoint.exists()
    progress = Watched()
    Trainer(episodes, model_config(), train_config(), out).run(progress)
    # The last step of a stage is saved after it is told of, and then done once more.
    assert 24 - done <= len(progress.losses) <= 24 - done + 1
    assert_same(out, undisturbed)


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (Objective, "update_targets", 7),
        (Objective, "update_targets", 15),
        (Trainer, "_save", 8),
        (Trainer, "_save", 12),
        (Trainer, "_save", 24),
        (statistics, "fit_search", 1),
        (checkpoint, "save_model", 1),
    ],
)
def test_stopped_anywhere_and_resumed_is_undisturbed(
    undisturbed: Path,
    episodes: Episodes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    call: int,
) -> None:
    """In the middle of a step, between a line of the log and its checkpoint, and at the very end."""
    usual, calls = getattr(owner, name), 0

    def stopping(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return usual(*arguments)

    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, stopping)
        with pytest.raises(KeyboardInterrupt):
            Trainer(episodes, model_config(), train_config(), out).run(Watched())
    with (out / "log.jsonl").open("a") as file:
        file.write('{"stage": 0, "st')  # as a kill in the middle of a line leaves it
    Trainer(episodes, model_config(), train_config(), out).run(Watched())
    assert_same(out, undisturbed)


def everything() -> tuple[ModelConfig, TrainConfig]:
    """All that draws at random in a step: masks, spans, macro-actions' noise, pairs of a distance."""
    fine, above = model_config(2).levels
    distance = DistanceConfig("contrastive", width=8, components=2, component_size=2)
    model = replace(
        model_config(2),
        levels=(
            replace(fine, lift_width=16, predictor="transformer", distance=distance),
            replace(above, macro="transformer", span=(2, 6), predictor="transformer"),
        ),
        encoder=EncoderConfig("vit", frames=2, patch=4, depth=1, heads=2),
    )
    stages = (
        StageConfig((), 4, 8, train_encoder=True, masked=True),
        StageConfig((0, 1), 4, 8, train_encoder=True, gradient_below=True, masked=True),
        StageConfig((1,), 4, 8),
    )
    masked = MaskedConfig(pixels=1.0, frames=4, width=12, depth=1, heads=2)
    return model, replace(train_config(2), stages=stages, masked=masked)


def test_everything_at_once_is_stopped_at_random_and_resumed(
    episodes: Episodes, tmp_path: Path
) -> None:
    model, train = everything()
    Trainer(episodes, model, train, tmp_path / "whole").run(Watched())
    rng = np.random.default_rng(0)
    for number in range(2):
        out = tmp_path / f"stopped{number}"
        stops = 0
        while not (out / "checkpoint.safetensors").exists():
            try:
                Trainer(episodes, model, train, out).run(Watched(int(rng.integers(2, 7))))
            except KeyboardInterrupt:
                stops += 1
        assert stops >= 2
        assert_same(out, tmp_path / "whole")


def test_rare_checkpoints_give_the_same_weights(
    undisturbed: Path, episodes: Episodes, tmp_path: Path
) -> None:
    """How often a run is saved is an option of the run, so weights alone are compared."""
    config = replace(train_config(), checkpoint_seconds=1000.0)
    with pytest.raises(KeyboardInterrupt):
        Trainer(episodes, model_config(), config, tmp_path / "run").run(Watched(20))
    progress = Watched()
    model = Trainer(episodes, model_config(), config, tmp_path / "run").run(progress)
    assert len(progress.losses) == 12
    known = checkpoint.load_model(undisturbed / "checkpoint.safetensors").state_dict()
    assert all(torch.equal(value, known[name]) for name, value in model.state_dict().items())
    assert log(tmp_path / "run") == log(undisturbed)


def test_a_damaged_training_file_is_one_line(episodes: Episodes, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        Trainer(episodes, model_config(), train_config(), tmp_path).run(Watched(5))
    path = tmp_path / "training.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    trainer = Trainer(episodes, model_config(), train_config(), tmp_path)
    with pytest.raises(EchelonError, match="is truncated") as caught:
        trainer.run(Watched())
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------- refusals


def refused(message: str, *arguments: Any) -> None:
    out: Path = arguments[-1]
    existed = out.exists()
    with pytest.raises(EchelonError, match=message) as caught:
        Trainer(*arguments)
    assert "\n" not in str(caught.value)
    assert out.exists() == existed


def test_other_options_in_the_same_folder(
    undisturbed: Path, episodes: Episodes, tmp_path: Path
) -> None:
    model, train = model_config(), train_config()
    message = r"holds a run with other options \({}: .* there, .* here\)"
    refused(message.format("train.seed"), episodes, model, replace(train, seed=1), undisturbed)
    other = replace(model, bank_size=65)
    refused(message.format("model.bank_size"), episodes, other, train, undisturbed)
    moved = Episodes.open(write_episodes(tmp_path / "dot.h5", seed=1))
    refused(message.format("data.sha256"), moved, model, train, undisturbed)


def test_what_cannot_be_trained_leaves_no_folder(episodes: Episodes, tmp_path: Path) -> None:
    model, train, out = model_config(), train_config(), tmp_path / "run"
    message = "frames are 16 pixels wide, the model expects 24; set --model.image-size 16"
    refused(message, episodes, replace(model, image_size=24), train, out)
    message = r"level 2 is to be trained, but the model has 2 levels \(0 to 1\)"
    refused(message, episodes, model, train_config(3), out)
    long = replace(model, levels=(model.levels[0], replace(model.levels[1], stride=15)))
    message = (
        r"window spans 31 steps, and 10 of 10 clips are shorter; the longest span that keeps 90 % is "
        r"30 \(the longest episode has 30\): use a smaller stride or rollout"
    )
    refused(message, episodes, long, train, out)
    one = Episodes.open(write_episodes(tmp_path / "one.h5", episodes=1))
    refused("one episode cannot be split", one, model, train, out)
    fits = replace(model, levels=(model.levels[0], replace(model.levels[1], stride=14)))
    Trainer(episodes, fits, train, out)
    assert out.exists()


WIDE = replace(model_config(1).levels[0], lift_width=16)
VIT = EncoderConfig("vit", patch=4, depth=1, heads=2)
HIDDEN = MaskedConfig(frames=4, width=12, heads=2)


@pytest.mark.parametrize(
    ("model", "masked", "message"),
    [
        ({}, HIDDEN, "stages: masked video hides tubelets, .* set encoder.kind to vit"),
        ({"encoder": VIT}, MaskedConfig(0.0), "masked: weight and pixels are both 0"),
        ({"encoder": VIT}, replace(HIDDEN, frames=40), "spans 39 steps, and 10 of 10 clips"),
        ({"encoder": VIT}, replace(HIDDEN, heads=5), "width: 12 channels cannot be shared .* by 5"),
        (
            {"encoder": replace(VIT, frames=2)},
            replace(HIDDEN, frames=5),
            "masked.frames: clips of 5 frames do not divide into tubelets of 2; use a multiple",
        ),
        ({"encoder": replace(VIT, patch=5)}, HIDDEN, "patch: tubelets of 5 pixels do not tile"),
        ({"encoder": replace(VIT, heads=4)}, HIDDEN, "heads: 4 of 4 channels each have no room"),
        (
            {"levels": (replace(WIDE, predictor="transformer", heads=3),), "encoder": VIT},
            HIDDEN,
            r"width 16: must be a multiple of heads \(3\)",
        ),
        ({"encoder": VIT, "proprio": "speed"}, HIDDEN, "has no column 'speed'"),
        ({"encoder": VIT, "proprio": "action"}, HIDDEN, "'action' has the shape .* not finite"),
        (
            {"encoder": VIT, "proprio": "pixels"},
            HIDDEN,
            r"proprio must be a column .* has the shape \(372, 16, 16, 3\)$",
        ),
    ],
)
def test_parts_that_do_not_fit_leave_no_folder(
    episodes: Episodes, tmp_path: Path, model: Any, masked: MaskedConfig, message: str
) -> None:
    whole = replace(model_config(1), **({"levels": (WIDE,)} | model))
    stage = StageConfig((), 2, 8, train_encoder=True, masked=True)
    train = replace(train_config(1), stages=(stage,), masked=masked)
    refused(message, episodes, whole, train, tmp_path / "run")


# ------------------------------------------------------------------------- losses that go wrong


def finite(path: Path) -> bool:
    return all(
        value.isfinite().all() for value in checkpoint.read_tensors(path, "training")[1].values()
    )


@pytest.mark.parametrize("steps", [20, 60], ids=["seen in the log", "seen in the loss"])
def test_a_huge_learning_rate(episodes: Episodes, tmp_path: Path, steps: int) -> None:
    """A line of the log is due after 5 % of a stage: after the first step, or the third."""
    stage = StageConfig((0,), steps, 8, train_encoder=True, learning_rate=1e25)
    trainer = Trainer(
        episodes, model_config(1), replace(train_config(1), stages=(stage,)), tmp_path
    )
    with pytest.raises(EchelonError, match=r"became (inf|nan) at step") as caught:
        trainer.run(Watched())
    assert "\n" not in str(caught.value)
    assert "lower learning rate" in str(caught.value)
    assert not trainer.checkpoint.exists()
    # What comes before the first step is no state to keep.
    assert (tmp_path / "training.safetensors").exists() == (steps == 60)
    assert steps == 20 or finite(tmp_path / "training.safetensors")


@pytest.mark.parametrize("gradient", [False, True], ids=["loss", "gradient"])
def test_not_a_number_keeps_the_last_good_state(
    undisturbed: Path,
    episodes: Episodes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gradient: bool,
) -> None:
    """Of a loss that is finite the gradient may not be: the root of 0 is one."""
    usual, calls = losses.smoothness, 0

    def spoilt(z: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls < 7:
            return usual(z)
        return (0 * z).sum().sqrt() if gradient else z.sum() * math.nan

    with monkeypatch.context() as patched:
        patched.setattr(objective.losses, "smoothness", spoilt)
        trainer = Trainer(episodes, model_config(), train_config(), tmp_path)
        name = "gradient's norm" if gradient else "loss"
        with pytest.raises(EchelonError, match=f"the {name} became nan at step 6 of stage 0"):
            trainer.run(Watched())
    header, _ = checkpoint.read_tensors(tmp_path / "training.safetensors", "training")
    assert (header["stage"], header["step"]) == (0, 6)
    assert finite(tmp_path / "training.safetensors")
    Trainer(episodes, model_config(), train_config(), tmp_path).run(Watched())
    assert_same(tmp_path, undisturbed)


def long_run(levels: int, steps: int) -> TrainConfig:
    config = train_config(levels, steps)
    return replace(config, checkpoint_seconds=1000.0, log_every=steps // 20)


def test_a_collapse_is_noticed_early(episodes: Episodes, tmp_path: Path) -> None:
    loss = LossConfig(variance=0.0, inverse_dynamics=0.0, correlation=0.0, smoothness=1e4)
    model = model_config(1)
    model = replace(model, levels=(replace(model.levels[0], loss=loss),))
    config = long_run(1, 400)
    config = replace(config, stages=config.stages[:1])
    progress = Watched()
    Trainer(episodes, model, config, tmp_path).run(progress)
    first = next(line for line in log(tmp_path) if line["level0/deviation"] < 0.02)
    assert first["step"] <= 0.05 * 400
    assert progress.warnings[0].startswith("level 0 has collapsed (deviation 0.0")
    assert "too little keeps its states apart; raise loss.variance" in progress.warnings[0]


def test_the_loss_falls_and_nothing_collapses(episodes: Episodes, tmp_path: Path) -> None:
    progress, model = Watched(), model_config()
    # A dot on a line has one dimension, and its latents a rank near 1 unless they are decorrelated.
    fine = replace(model.levels[0], loss=LossConfig(correlation=0.05, smoothness=1.0))
    model = replace(model, levels=(fine, *model.levels[1:]))
    Trainer(episodes, model, long_run(2, 200), tmp_path).run(progress)
    assert progress.warnings == []
    for stage in (progress.losses[:200], progress.losses[200:]):
        assert sum(stage[-20:]) < 0.8 * sum(stage[:20])
    lines = log(tmp_path)
    assert lines[19]["level0/inverse_dynamics"] < 0.7 * lines[0]["level0/inverse_dynamics"]
    assert lines[19]["level0/deviation"] > 0.5


# ------------------------------------------------------------------------- what is trained


@pytest.mark.parametrize("levels", [1, 3])
def test_other_numbers_of_levels(episodes: Episodes, tmp_path: Path, levels: int) -> None:
    model = Trainer(episodes, model_config(levels), train_config(levels), tmp_path).run(Watched())
    assert len(model.levels) == levels
    assert f"level{levels - 1}/prediction" in log(tmp_path)[-1]
    loaded = checkpoint.load_model(tmp_path / "checkpoint.safetensors")
    assert loaded.config == model_config(levels)


def test_levels_begin_with_those_of_a_checkpoint(episodes: Episodes, tmp_path: Path) -> None:
    """Level 0 trained by itself, then level 1 on top of it, is both stages in one run."""
    train = train_config()
    first, last = train.stages[0], replace(train.stages[1], levels=(1,))
    whole = replace(train, stages=(first, last))
    Trainer(episodes, model_config(), whole, tmp_path / "whole").run(Watched())
    stem = Trainer(episodes, model_config(1), replace(train, stages=(first,)), tmp_path / "stem")
    stem.run(Watched())
    rest = replace(train, stages=(last,), start_from=str(stem.checkpoint))
    begun = Trainer(episodes, model_config(), rest, tmp_path / "rest")
    model = begun.run(Watched())
    both = checkpoint.load_model(tmp_path / "whole" / "checkpoint.safetensors")
    same = {"lift", "predictor", "inverse", "action_mean", "action_std"}
    for name, value in both.levels[0].state_dict().items():
        if name.split(".")[0] in same:
            assert torch.equal(value, model.levels[0].state_dict()[name]), name
    for name, value in begun.objective.targets[0].state_dict().items():
        assert torch.equal(value, stem.model.levels[0].lift.state_dict()[name]), name


def test_a_distance_learned_on_a_checkpoint(episodes: Episodes, tmp_path: Path) -> None:
    train = train_config(1)
    stem = Trainer(episodes, model_config(1), train, tmp_path / "stem")
    lift = stem.run(Watched()).levels[0].lift.state_dict()
    model = model_config(1)
    distance = DistanceConfig("quasimetric", width=8, gaps=(1, 2))
    model = replace(model, levels=(replace(model.levels[0], distance=distance),))
    rest = replace(train, stages=train.stages[1:], start_from=str(stem.checkpoint))
    trained = Trainer(episodes, model, rest, tmp_path / "rest").run(Watched())
    assert trained.levels[0].metric is not None
    assert all(torch.equal(v, lift[k]) for k, v in trained.levels[0].lift.state_dict().items())


def test_a_checkpoint_that_does_not_fit(episodes: Episodes, tmp_path: Path) -> None:
    stem = Trainer(episodes, model_config(1), train_config(1), tmp_path / "stem")
    stem.run(Watched())
    wide = replace(model_config(1).levels[0], width=32)
    linked = replace(model_config(1), levels=(wide, *model_config().levels[1:]))
    two = Trainer(episodes, model_config(), train_config(), tmp_path / "two")
    two.run(Watched())
    for number, (model, begin, problem) in enumerate(
        (
            (linked, stem.checkpoint, "has other shapes of _levels.0.predictor"),
            (model_config(1), two.checkpoint, "has unknown _levels.1"),
            (model_config(1), tmp_path / "none", "no such checkpoint"),
        )
    ):
        train = replace(train_config(len(model.levels)), start_from=str(begin))
        with pytest.raises(EchelonError, match=problem):
            Trainer(episodes, model, train, tmp_path / f"run{number}").run(Watched())


STAGES = [
    StageConfig((0,), 3, 8, train_encoder=True),
    StageConfig((0,), 3, 8),
    StageConfig((0, 1), 3, 8, train_encoder=True),
    StageConfig((0, 1), 3, 8),
    StageConfig((1,), 3, 8),
    StageConfig((2,), 3, 8),
    StageConfig((0, 1, 2), 3, 8),
]


def with_inverse() -> ModelConfig:
    """Three levels, of which the middle one is regularised by its inverse dynamics as well."""
    config = model_config(3)
    middle = replace(config.levels[1], loss=LossConfig(inverse_dynamics=0.5))
    return replace(config, levels=(config.levels[0], middle, config.levels[2]))


@pytest.mark.parametrize("stage", STAGES, ids=str)
def test_what_has_a_gradient_is_what_is_trained(stage: StageConfig) -> None:
    module = Objective(Hierarchy(with_inverse(), 1), 0.99)
    frames = torch.randint(0, 256, (8, 19, 16, 16, 3), dtype=torch.uint8)
    lift: Any = module.hierarchy.levels[0].lift
    seen = {"latents": lift.encoder(frames).detach()}
    inputs = {"pixels": frames} if stage.train_encoder else seen
    terms = module(inputs, torch.randn(8, 17, 1), stage.levels)
    torch.stack(list(terms.values())).sum().backward()
    listed = module.trained(stage)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    reached = {names[id(p)] for p in module.parameters() if p.grad is not None}
    assert {names[id(p)] for p in listed} == reached
    assert len({id(p) for p in listed}) == len(listed)


@pytest.mark.parametrize("stage", STAGES, ids=str)
def test_frozen_levels_do_not_move(episodes: Episodes, tmp_path: Path, stage: StageConfig) -> None:
    config = replace(train_config(3), stages=(stage,))
    trainer = Trainer(episodes, with_inverse(), config, tmp_path)
    statistics.fit_inputs(trainer.model, episodes, trainer.train_ids)
    before = snapshot(trainer.model)
    trainable = {id(p) for p in trainer.objective.trained(stage)}
    moving = {name for name, p in trainer.model.named_parameters() if id(p) in trainable}
    trainer._stage(0, 0, Watched())
    after = trainer.model.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    running = {name for name in changed if "running" in name}
    assert changed - running == moving
    assert {int(name.split(".")[1]) for name in running} == set(stage.levels) - {0}


def test_a_batch_has_the_action_that_leaves_each_frame(episodes: Episodes) -> None:
    """The dot moves by a tenth of the action, and stops at the ends."""
    everyone = np.arange(len(episodes.lengths))
    sampler = WindowSampler.of(episodes.lengths, episodes.offsets, everyone, 5)
    place = torch.from_numpy(episodes.column("state"))
    actions = torch.from_numpy(episodes.actions)
    inputs, forces = Batches({"pixels": place}, actions, sampler, size=50, seed=0, skipped=1)(3)
    frames = inputs["pixels"]
    assert frames.shape == (50, 6, 1)
    assert forces.shape == (50, 4, 1)
    moved = (frames[:, 1:-1] + 0.1 * forces).clamp(0, 1)
    assert torch.allclose(moved, frames[:, 2:], atol=1e-6)


def test_the_schedule_warms_up_and_decays() -> None:
    shares = [_schedule(step / 1000) for step in range(1000)]
    assert shares[0] == pytest.approx(0.001)
    assert shares.index(max(shares)) == 50
    assert max(shares) == pytest.approx(1, abs=0.01)
    assert all(a > b for a, b in pairwise(shares[50:]))
    assert shares[-1] == pytest.approx(0.05, abs=0.001)


# ------------------------------------------------------------------------- two processes

SCRIPT = """
import hashlib, os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from tiny import model_config, train_config
from echelon.data.episodes import Episodes
from echelon.progress import Progress
from echelon.trainer import Trainer

folder = Path({folder!r})
trainer = Trainer(Episodes.open({data!r}), model_config(), train_config(), folder / "run")
assert trainer.fabric.world_size == 2
trainer.run(Progress(quiet=True))
values = b"".join(v.numpy().tobytes() for v in trainer.objective.state_dict().values())
Path(folder, "rank" + os.environ["RANK"]).write_text(hashlib.sha256(values).hexdigest())
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch is not distributed")
def test_two_processes_train_one_model(
    undisturbed: Path, episodes: Episodes, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        SCRIPT.format(
            tests=str(Path(__file__).parent), folder=str(tmp_path), data=str(episodes.path)
        )
    )
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, str(script)], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = ((tmp_path / f"rank{rank}").read_text() for rank in (0, 1))
    assert first == second
    out = tmp_path / "run"
    shared = checkpoint.load_model(out / "checkpoint.safetensors").state_dict()
    alone = checkpoint.load_model(undisturbed / "checkpoint.safetensors").state_dict()
    # A constant that the norm of macro-actions takes away: its gradient is rounding, which Adam scales.
    free = ("encode_action.network.2.bias", "running_mean", "levels.1.prior", "levels.1.action")
    for name, value in alone.items():
        if not any(part in name for part in free):
            assert torch.allclose(shared[name], value, atol=1e-5), name
    assert not (out / "training.safetensors").exists()
    lines = log(out)
    assert [(e["stage"], e["step"]) for e in lines] == [
        (stage, step) for stage in (0, 1) for step in LOGGED
    ]
    # Half of every batch is with the second process, so the figures of the first are others.
    assert lines != log(undisturbed)
