"""Scales: measured against processes whose scales are known, and the rule against its own words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from tiny import frame, model_config, train_config, write_episodes

from echelon import checkpoint, measure, proposal
from echelon.cli import main
from echelon.config import ModelConfig, StageConfig, to_dict
from echelon.data.episodes import Episodes, EpisodeWriter
from echelon.data.windows import survival
from echelon.measure import distance_by_gap, held_out_of, open_loop
from echelon.models.hierarchy import Hierarchy
from echelon.progress import Progress
from echelon.proposal import deepest, explain, fit_stages, propose, strides
from echelon.report.scales import write_scales
from echelon.scales import (
    Direction,
    Distance,
    Error,
    Scales,
    correlation_times,
    crossing,
    saturation,
    survival_of,
)
from echelon.schema import read
from echelon.trainer import Trainer
from echelon.types import EchelonError

Capture = pytest.CaptureFixture[str]


def autoregressive(times: Sequence[float], scales: Sequence[float]) -> np.ndarray:
    """[200, 300, D] of AR(1) processes from their stationary distribution, turned at random."""
    rng = np.random.default_rng(0)
    rho = np.exp(-1 / np.array(times))
    x = rng.normal(size=(200, len(times)))
    made = [x]
    for _ in range(299):
        x = rho * x + np.sqrt(1 - rho**2) * rng.normal(size=x.shape)
        made.append(x)
    turn = np.linalg.qr(rng.normal(size=(len(times), len(times))))[0]
    return (np.stack(made, 1) * np.array(scales)) @ turn + 5.0


def test_correlation_times_of_known_processes() -> None:
    found = correlation_times(autoregressive((40.0, 8.0, 0.5), (3.0, 2.0, 1.0)))
    assert [d.share for d in found] == pytest.approx([9 / 14, 4 / 14, 1 / 14], rel=0.1)
    assert found[0].time == pytest.approx(40, rel=0.1)
    assert found[1].time == pytest.approx(8, rel=0.05)
    assert found[2].time == pytest.approx(0.5, abs=0.1)


def test_a_time_longer_than_the_clips_is_none() -> None:
    (slow,) = correlation_times(autoregressive((40.0,), (1.0,)), longest=20)
    assert slow.time is None
    with pytest.raises(EchelonError, match="nothing moves"):
        correlation_times(np.ones((4, 9, 3)))


@pytest.mark.parametrize("tau", [5.0, 20.0])
def test_saturation_of_a_known_curve(tau: float) -> None:
    gaps = np.arange(1, 201)
    curve = 1 - np.exp(-gaps / tau)
    expected = tau * np.log(10)
    assert saturation(list(gaps), list(curve), apart=3.0) == pytest.approx(expected, rel=0.01)


def test_a_distance_that_still_grows() -> None:
    gaps = list(range(1, 101))
    curve = [g / 100 for g in gaps]
    assert saturation(gaps, curve, apart=2.0) is None
    assert saturation(gaps, curve, apart=0.5) == pytest.approx(45)
    assert saturation([1, 2, 4], [1.0, 1.0, 1.0], apart=1.0) == 1.0


def test_distance_of_a_known_process() -> None:
    """For AR(1) in many dimensions, the squared distance is 2 (1 - rho^gap), and 2 between clips."""
    z = autoregressive((10.0,) * 40, (1.0,) * 40)[:60]
    found = distance_by_gap(0, z)
    expected = np.sqrt(2 * (1 - np.exp(-np.array(found.gaps) / 10)))
    assert np.array(found.mean) == pytest.approx(expected, rel=0.03)
    assert found.apart == pytest.approx(np.sqrt(2), rel=0.03)
    # 2 (1 - rho^gap) = 0.81 * 2
    assert found.saturates == pytest.approx(-10 * np.log(0.19), rel=0.1)


def test_crossing_of_two_known_curves() -> None:
    fine = [0.1 * t for t in range(1, 31)]
    coarse_steps, coarse = [5, 10, 15, 20, 25, 30], [1.2] * 6
    at = crossing(range(1, 31), fine, coarse_steps, coarse)
    assert at == pytest.approx(12, abs=0.05)
    assert crossing(coarse_steps, coarse, range(1, 31), fine) is None
    assert crossing([1, 2], [2.0, 2.0], [1, 2], [1.0, 1.0]) == 1


def test_survival_counts_clips() -> None:
    found = survival_of(np.array([5, 5, 9, 11]), 4)
    assert found.spans == (1, 4, 8, 10)
    assert found.share == (1.0, 1.0, 0.5, 0.25)


# ------------------------------------------------------------------------------- the rule


def scales(
    longest: int = 100,
    slow: float | None = None,
    saturates: float | None = None,
    errors: tuple[Error, ...] = (),
) -> Scales:
    return Scales(
        "a test",
        longest,
        survival_of(np.array([longest + 1] * 10), longest),
        (Direction(0.9, slow), Direction(0.06, 1.0), Direction(0.04, None)),
        (Distance(0, (1, 10), (0.1, 0.5), 1.0, saturates),),
        errors,
    )


@pytest.mark.parametrize(
    ("longest", "slow", "expected"),
    [
        (100, None, (10,)),  # 10 x 10
        (100, 25.0, (10,)),
        (1000, 25.0, (10,)),  # four times 25 steps are all that the data connects
        (1000, None, (10, 10)),
        (10_000, None, (10, 10, 10)),
        (1_000_000, None, (12, 12, 12)),  # four levels at most, of at most 12 steps
        (12, None, ()),  # one level plans 12 steps by itself
        (16, None, (4,)),
        (1000, 2.0, ()),
    ],
)
def test_strides_are_what_the_rule_says(
    longest: int, slow: float | None, expected: tuple[int, ...]
) -> None:
    model = propose(scales(longest, slow)).model
    assert tuple(level.stride for level in model.levels) == (1, *expected)


def test_level_1_goes_no_further_than_the_fine_level_can_be_trusted() -> None:
    def second(found: Scales) -> int:
        return propose(found).model.levels[1].stride

    steps = tuple(range(1, 101))
    fine = Error("level 0", 0, steps, tuple(0.1 * t for t in steps))
    coarse = Error("level 1", 1, (4, 8, 50, 100), (0.9, 0.9, 0.9, 0.9))
    still = Error("no change", None, steps, (0.45,) * 100)
    far = Error("mean", None, steps, (99.0,) * 100)
    assert second(scales(saturates=5.0)) == 5
    assert second(scales(errors=(fine, coarse, far))) == 9
    assert second(scales(errors=(fine, far, replace(still, error=(0.25,) * 100)))) == 2
    found = scales(errors=(fine, coarse, still, far))
    assert second(found) == round(found.beaten["no change"] or 0) in (4, 5)
    assert found.beaten["mean"] is None
    # what level 1 does not cover, a third level does
    assert propose(found).model.durations[-1] * 12 >= 100
    assert "“no change” errs less" in " ".join(propose(found).reasons)


def test_proposals_keep_their_promises() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        longest = int(np.exp(rng.uniform(np.log(3), np.log(5000))))
        slow = None if rng.random() < 0.3 else float(rng.uniform(0.5, 500))
        saturates = None if rng.random() < 0.3 else float(rng.uniform(1, 200))
        found = scales(longest, slow, saturates)
        for depth in (None, *range(1, deepest(longest) + 1)):
            made = propose(found, depth=depth)
            model = made.model
            assert depth in (None, len(model.levels))
            assert 1 + model.window(range(len(model.levels))) <= longest
            assert all(level.stride >= 2 for level in model.levels[1:])
            if depth is None:
                assert all(level.stride <= 12 for level in model.levels)
            assert (
                saturates is None
                or len(model.levels) == 1
                or (model.levels[1].stride <= max(2, round(saturates)))
            )


def test_what_is_not_proposed_stays() -> None:
    base = model_config(2)
    made = propose(scales(1000), base).model
    assert made.image_size == base.image_size
    assert [level.latent_dim for level in made.levels] == [4, 3, 3]
    assert replace(made.levels[1], stride=4) == base.levels[1]
    short = propose(scales(7), base, depth=2).model
    assert short.levels[0].rollout == 3
    assert 2 * short.durations[1] + 1 <= 7
    flat = propose(scales(100), ModelConfig(levels=ModelConfig().levels[:1])).model
    assert flat.levels[1] == ModelConfig().levels[1]


def test_a_depth_that_the_data_cannot_carry() -> None:
    assert [deepest(n) for n in (2, 3, 4, 5, 9, 16, 17, 10_000)] == [0, 1, 1, 2, 3, 3, 4, 4]
    with pytest.raises(EchelonError, match=r"depth: 3 .* hold 8 steps\): use 1 to 2"):
        propose(scales(8), depth=3)
    with pytest.raises(EchelonError, match="use 1 to 4"):
        propose(scales(1000), depth=5)
    with pytest.raises(EchelonError, match="record longer episodes"):
        propose(scales(2))
    assert strides(100, 100, 1e9, depth=3) == (5, 5)


def test_stages_fit_the_depth() -> None:
    train = train_config(2)
    assert [s.levels for s in fit_stages(train, 3).stages] == [(0,), (0, 1, 2)]
    assert [s.levels for s in fit_stages(train, 1).stages] == [(0,), (0,)]
    upper = replace(train, stages=(StageConfig(levels=(1,), steps=1, batch_size=1),))
    assert fit_stages(upper, 4).stages[0].levels == (1, 2, 3)


# --------------------------------------------------------------------- episodes and models


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_episodes(tmp_path_factory.mktemp("scales") / "dots.h5", episodes=16, steps=40)


class Exact:
    """Level of duration `stride` whose latent is the place itself, and which predicts it rightly but
    for `drift` a step. Its macro-action is the sum of a segment.
    """

    def __init__(self, stride: int, drift: float) -> None:
        self.stride, self.drift = stride, drift

    def predict(self, state: dict[str, Any], action: Any) -> dict[str, Any]:
        return {"z": state["z"] + action + self.drift}

    def encode_action(self, segments: Any) -> Any:
        return segments.sum(-2)


class Exacts:
    levels = (Exact(1, 0.1), Exact(5, 0.2))

    class config:
        durations = (1, 5)


def test_open_loop_errors_of_levels_that_are_known() -> None:
    actions = torch.randn(8, 30, 1)
    z = torch.cat([torch.zeros(8, 1, 1), actions.cumsum(1)], 1)
    states = [{"z": z}, {"z": z * 1.0}]
    known = torch.linspace(-40, 40, 16001)[:, None]
    model: Any = Exacts()
    fine, coarse, still, mean = open_loop(model, states, actions, [known, known])
    assert fine.error == pytest.approx([0.1 * t for t in fine.steps], abs=0.01)
    assert coarse.steps == (5, 10, 15, 20, 25, 30)
    assert coarse.error == pytest.approx([0.2 * t / 5 for t in coarse.steps], abs=0.01)
    assert still.error == pytest.approx([z[:, t].abs().mean().item() for t in still.steps])
    assert mean.error == pytest.approx(still.error, abs=1e-3)  # where it begins is the mean
    found = replace(scales(), errors=(fine, coarse, still, mean))
    assert found.crossings == (5.0,)


@pytest.mark.parametrize("levels", [1, 3])
def test_a_model_is_measured(data: Path, levels: int) -> None:
    episodes = Episodes.open(data)
    model = Hierarchy(model_config(levels), 1).eval()
    _, held_out = episodes.split(0.25, 0)
    found = measure.measure(episodes, model, held_out)
    assert [d.level for d in found.distances] == list(range(levels))
    names = [f"level {i}" for i in range(levels)] + ["no change", "mean"]
    assert [e.name for e in found.errors] == names
    assert all(np.isfinite(e.error).all() for e in found.errors)
    assert found == measure.measure(episodes, model, held_out)
    assert "checkpoint" in found.source


def test_held_out_is_what_training_held_out(data: Path) -> None:
    episodes = Episodes.open(data)
    about = {"data": {"sha256": episodes.sha256}, "train": {"held_out": 0.25, "seed": 3}}
    held_out = held_out_of(episodes, about)
    assert held_out is not None
    assert held_out.tolist() == episodes.split(0.25, 3)[1].tolist()
    assert held_out_of(episodes, about | {"data": {"sha256": "other"}}) is None
    assert held_out_of(episodes, {}) is None


def test_faster_dots_forget_sooner(tmp_path: Path) -> None:
    """Frames alone tell how fast things move: the same walk, logged every step or every third."""
    rng = np.random.default_rng(0)
    walks = [np.clip(rng.uniform() + rng.normal(0, 0.1, 121).cumsum(), 0, 1) for _ in range(24)]

    def slowest(every: int) -> float:
        path = tmp_path / f"{every}.h5"
        with EpisodeWriter(path) as writer:
            for walk in walks:
                frames = np.stack([frame(x) for x in walk[::every]])
                writer.add({"pixels": frames, "action": np.zeros((len(frames) - 1, 1))})
        found = measure.measure(Episodes.open(path))
        assert "no checkpoint" in found.source
        return found.slowest or np.inf

    assert slowest(1) == pytest.approx(3 * slowest(3), rel=0.2)


def test_a_proposal_trains_and_keeps_the_clips(data: Path, tmp_path: Path) -> None:
    episodes = Episodes.open(data)
    model = propose(measure.measure(episodes), model_config(2)).model
    assert len(model.levels) > 1
    train = fit_stages(train_config(2, steps=2), len(model.levels))
    span = 1 + max(model.window(stage.levels) for stage in train.stages)
    assert survival(episodes.lengths, span) >= 0.9
    assert proposal.lost_in_training(model, train, episodes.lengths) == []
    assert proposal.lost_in_training(model, train, episodes.lengths - 35) != []
    trained = Trainer(episodes, model, train, tmp_path / "run").run(Progress(quiet=True))
    assert len(trained.levels) == len(model.levels)


def test_the_picture_is_written(tmp_path: Path) -> None:
    errors = (
        Error("level 0", 0, (1, 10, 100), (0.01, 0.1, 1.0)),
        Error("level 1", 1, (10, 100), (0.2, 0.3)),
        Error("no change", None, (1, 10, 100), (0.1, 0.5, 1.5)),
    )
    found = scales(slow=20.0, saturates=9.0, errors=errors)
    image = imread(write_scales(found, propose(found).model, tmp_path / "scales.png"))
    assert image.shape[0] > 600
    assert image.std() > 0.05


def test_the_explanation_says_what_and_why() -> None:
    found = scales(slow=20.0, saturates=9.0)
    said = explain(found, propose(found))
    for part in ("a test", "90 %", "100 steps", "after 20, 1, longer", "stops growing", "2 levels"):
        assert part in said


# ---------------------------------------------------------------------------- command line

TRAIN = [
    option
    for line in (
        "--train.accelerator cpu --train.checkpoint-seconds 0",
        "--train.stages.0.steps 2 --train.stages.0.batch-size 8",
        "--train.stages.1.steps 2 --train.stages.1.batch-size 8",
    )
    for option in line.split()
]
SMALL = ["--model.bank-size", "32", "--model.levels.0.width", "8", "--model.levels.1.width", "8"]


def refused(capsys: Capture, *arguments: object) -> str:
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_scales_then_train(data: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "scales"
    assert main(["scales", str(data), "--out", str(out), "--depth", "3"]) == 0
    assert "3 levels as you asked" in capsys.readouterr().out
    model = read(ModelConfig, json.loads((out / "model.json").read_text()), "model")
    assert len(model.levels) == 3
    assert model.image_size == 16
    assert imread(out / "scales.png").std() > 0.05
    assert json.loads((out / "scales.json").read_text())["survival"]["longest"] == 40
    small = replace(
        model,
        levels=tuple(replace(level, width=8, depth=1) for level in model.levels),
        bank_size=16,
    )
    (out / "small.json").write_text(json.dumps(to_dict(small)))
    run = ["--out", str(tmp_path / "run"), *TRAIN]
    assert main(["train", str(data), *run, "--model-from", str(out / "small.json")]) == 0
    weights = tmp_path / "run" / "checkpoint.safetensors"
    assert checkpoint.load_model(weights).config == small
    capsys.readouterr()
    measured = ["--checkpoint", str(weights), "--out", str(tmp_path / "again")]
    assert main(["scales", str(data), *measured]) == 0
    said = capsys.readouterr().out
    assert "level 2 errs less than level 1" in said
    assert "better than “no change”" in said


def test_train_with_levels_auto(data: Path, tmp_path: Path, capsys: Capture) -> None:
    run = ["train", str(data), "--out", str(tmp_path / "run"), "--levels", "auto", *TRAIN, *SMALL]
    assert main(run) == 0
    config = checkpoint.load_model(tmp_path / "run" / "checkpoint.safetensors").config
    expected = propose(measure.measure(Episodes.open(data))).model
    assert config.durations == expected.durations
    assert [level.rollout for level in config.levels] == [x.rollout for x in expected.levels]
    assert (config.image_size, config.levels[0].width) == (16, 8)
    assert "proposed" in capsys.readouterr().err
    assert main(run) == 0  # the same proposal, so that training resumes


def test_training_warns_of_lost_clips(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "uneven.h5"
    with EpisodeWriter(path) as writer:
        for steps in (9, 9, 30, 30, 30):
            pixels = np.random.default_rng(steps).integers(0, 255, (steps + 1, 16, 16, 3), np.uint8)
            writer.add({"pixels": pixels, "action": np.zeros((steps, 1), np.float32)})
    model = model_config(2)
    (tmp_path / "model.json").write_text(
        json.dumps(
            to_dict(replace(model, levels=(model.levels[0], replace(model.levels[1], stride=6))))
        )
    )
    episodes = Episodes.open(path)
    held_out = (episodes.lengths[episodes.split(0.05, seed)[1]] for seed in range(9))
    seed = next(seed for seed, lengths in enumerate(held_out) if lengths.min() == 31)
    options = ["--model-from", str(tmp_path / "model.json"), "--train.seed", str(seed), *TRAIN]
    assert main(["train", str(path), "--out", str(tmp_path / "run"), *options]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "spans 13 steps, and 2 of 5 clips are shorter; the longest span that keeps 90 % is 9"
        in said
    )


def test_mistakes_are_one_line(data: Path, tmp_path: Path, capsys: Capture) -> None:
    few = write_episodes(tmp_path / "few.h5", episodes=3)
    short = write_episodes(tmp_path / "short.h5", steps=2)
    out = ["--out", tmp_path / "out"]
    assert "3 episodes are too few" in refused(capsys, "scales", few, *out)
    assert "90 % of the clips hold only 2 steps" in refused(capsys, "scales", short, *out)
    assert "hold 40 steps): use 1 to 4" in refused(capsys, "scales", data, *out, "--depth", 9)
    missing = refused(capsys, "scales", data, *out, "--checkpoint", tmp_path / "none.safetensors")
    assert "no such checkpoint" in missing
    (tmp_path / "bad.json").write_text('{"levles": []}')
    run = ["train", data, *out, "--model-from"]
    assert "unknown field levles" in refused(capsys, *run, tmp_path / "bad.json")
    assert "leave out" in refused(capsys, *run, tmp_path / "bad.json", "--levels", "auto")
    assert not (tmp_path / "out").exists()
