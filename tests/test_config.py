"""Options: they survive JSON, and what is wrong with them is told in one line."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import tiny

from echelon import schema
from echelon.collect import CollectConfig
from echelon.config import (
    DistanceConfig,
    EncoderConfig,
    LandmarkConfig,
    LevelConfig,
    LossConfig,
    MaskConfig,
    MaskedConfig,
    ModelConfig,
    OptimizerConfig,
    PlannerConfig,
    StageConfig,
    TrainConfig,
    to_dict,
)
from echelon.demo import DemoConfig
from echelon.presets import planner_for
from echelon.types import EchelonError

CONFIGS = [
    LossConfig(),
    LevelConfig(),
    ModelConfig(),
    StageConfig(levels=(0, 2), steps=3, batch_size=1),
    TrainConfig(),
    OptimizerConfig(kind="mppi"),
    OptimizerConfig(kind="refine", proposal="bank"),
    PlannerConfig(horizon=3, replan=2),
    CollectConfig(),
    DemoConfig(),
    ModelConfig(
        (LevelConfig(macro="concat", distance=DistanceConfig("quasimetric", gaps=(3,))),),
        EncoderConfig("vit", frames=2),
        proprio="speed",
    ),
    TrainConfig(masked=MaskedConfig(masks=(MaskConfig(blocks=1),))),
    ModelConfig((LevelConfig(landmarks=LandmarkConfig(200, gaps=(3, 9), model_edges=True)),)),
    PlannerConfig(horizon=3, replan=2, cost="graph"),
    *planner_for(ModelConfig()),
    tiny.model_config(3),
    tiny.train_config(3),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_round_trip(config: Any) -> None:
    values = to_dict(config)
    assert json.loads(json.dumps(values)) == values
    assert schema.read(type(config), values, "here") == config
    assert schema.read(type(config), json.loads(json.dumps(values)), "here") == config


def test_what_has_a_default_may_be_left_out() -> None:
    assert schema.read(ModelConfig, {}, "here") == ModelConfig()
    assert schema.read(LevelConfig, {"stride": 3}, "here") == LevelConfig(stride=3)
    assert schema.read(LevelConfig, {"landmarks": {"count": 7}}, "here").landmarks.count == 7
    assert schema.read(LevelConfig, {"difference_scale": 3}, "here").difference_scale == 3.0


def changed(path: str, value: Any) -> dict[str, Any]:
    """The default model's JSON with one value put at a path such as levels.0.stride."""
    values = json.loads(json.dumps(to_dict(ModelConfig())))
    *places, last = path.split(".")
    at = values
    for place in places:
        at = at[int(place) if place.isdigit() else place]
    at[last] = value
    return values


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("levls", 1, "model: unknown field levls"),
        ("levels.1.strid", 1, "model: levels.1: unknown field strid"),
        ("levels.1.loss.x", 1, "model: levels.1: loss: unknown field x"),
        ("levels", {}, "levels: expected a list, not {}"),
        ("levels", None, "levels: expected a list, not None"),
        ("levels", [1], "levels.0: expected an object, not 1"),
        ("image_size", "64", "image_size: expected a whole number, not '64'"),
        ("image_size", 64.0, "image_size: expected a whole number, not 64.0"),
        ("image_size", True, "image_size: expected a whole number, not True"),
        ("levels.0.stride", None, "levels.0: stride: expected a whole number, not None"),
        ("levels.1.action_dim", "4", "levels.1: action_dim: expected a whole number"),
        ("levels.0.difference_scale", "4", "difference_scale: expected a number"),
        ("levels.0.difference_scale", True, "difference_scale: expected a number"),
        ("levels.0.loss.variance", math.nan, "variance: nan is not a finite number"),
        ("levels.0.loss.variance", math.inf, "variance: inf is not a finite number"),
        ("levels", [], "at least one level"),
        ("levels.1.stride", 0, "model: levels.1: stride: 0 must be at least 1"),
        ("levels.0.landmarks.cuont", 9, "model: levels.0: landmarks: unknown field cuont"),
        ("levels.1.landmarks.gaps", [4], "levels.1: landmarks: gaps: expected 2 values, not 1"),
        ("levels.1.landmarks.gaps", [9, 4], "levels.1: landmarks: landmarks.gaps: (9, 4) must be"),
        ("image_size", "x" * 1000, "image_size: expected a whole number, not 'xxx"),
    ],
)
def test_reading_is_strict(path: str, value: Any, message: str) -> None:
    schema.read(ModelConfig, changed("image_size", 64), "model")
    with pytest.raises(EchelonError) as caught:
        schema.read(ModelConfig, changed(path, value), "model")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


STAGE = {"levels": [0], "steps": 1, "batch_size": 1}


@pytest.mark.parametrize(
    ("cls", "value", "message"),
    [
        (StageConfig, {"levels": [0]}, "here: missing field steps, batch_size"),
        (StageConfig, STAGE | {"levels": [0, "1"]}, "here: levels.1: expected a whole number"),
        (StageConfig, STAGE | {"train_encoder": 1}, "train_encoder: expected true or false, not 1"),
        (OptimizerConfig, {"kind": "random"}, "here: kind: expected one of ('cem', 'icem', "),
        (OptimizerConfig, {"kind": ["cem"]}, "here: kind: expected one of"),
        (PlannerConfig, 3, "here: expected an object, not 3"),
        (PlannerConfig, [], "here: expected an object, not []"),
    ],
)
def test_missing_fields_and_wrong_choices(cls: type[Any], value: Any, message: str) -> None:
    with pytest.raises(EchelonError, match=re.escape(message)):
        schema.read(cls, value, "here")


@dataclass(frozen=True)
class Pair:
    pair: tuple[int, str]
    table: dict[str, Any]


def test_tuples_of_a_fixed_length() -> None:
    read = schema.read(Pair, {"pair": [1, "a"], "table": {"x": [1]}}, "p")
    assert read == Pair((1, "a"), {"x": [1]})
    with pytest.raises(EchelonError, match="p: pair: expected 2 values, not 1"):
        schema.read(Pair, {"pair": [1], "table": {}}, "p")
    with pytest.raises(EchelonError, match="p: table: expected an object, not 3"):
        schema.read(Pair, {"pair": [1, "a"], "table": 3}, "p")


LEVEL = LevelConfig(stride=2, action_dim=1)
VARYING = replace(LEVEL, macro="transformer")
SHARED = replace(LEVEL, latent="shared")
MAP = EncoderConfig(kind="conv", grid=2)


def model(above: LevelConfig, encoder: EncoderConfig | None = None) -> ModelConfig:
    return ModelConfig((LevelConfig(), above), encoder or EncoderConfig())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelConfig(levels=()), "at least one level"),
        (lambda: ModelConfig(levels=(replace(LEVEL, stride=2),)), "levels.0.stride"),
        (
            lambda: ModelConfig(levels=(LevelConfig(), replace(LEVEL, stride=0))),
            "^stride: 0 must be at least 1",
        ),
        (lambda: ModelConfig(levels=(LevelConfig(rollout=0),)), "^rollout: 0 must"),
        (lambda: ModelConfig(levels=(LevelConfig(latent_dim=0),)), "^latent_dim: 0 must"),
        (lambda: ModelConfig(levels=(LevelConfig(width=0),)), "^width: 0 must"),
        (lambda: ModelConfig(levels=(LevelConfig(), LevelConfig(stride=2))), "levels.1.action_dim"),
        (
            lambda: ModelConfig(levels=(LevelConfig(), replace(LEVEL, action_dim=0))),
            "levels.1.action_dim",
        ),
        (lambda: ModelConfig(levels=(LevelConfig(history=0),)), "^history: 0 must"),
        (lambda: ModelConfig(levels=(LevelConfig(heads=0),)), "^heads: 0 must"),
        (lambda: replace(LEVEL, span=(1, 3)), "span: only macro-actions of a transformer vary"),
        (lambda: replace(VARYING, span=(3, 4)), r"span: 3 to 4 must hold the stride \(2\)"),
        (lambda: replace(VARYING, span=(0, 4)), r"span: 0 to 4 must hold the stride"),
        (lambda: replace(VARYING, span=(1, 1)), r"span: 1 to 1 must hold the stride"),
        (
            lambda: model(replace(SHARED, latent_dim=5)),
            "levels.1.latent_dim: 5, but it shares .* 16",
        ),
        (
            lambda: ModelConfig(levels=(LevelConfig(latent="shared"),)),
            "levels.0.latent: there is no",
        ),
        (
            lambda: model(replace(LEVEL, macro="concat")),
            "levels.1.action_dim: concatenated actions",
        ),
        (
            lambda: model(replace(LEVEL, predictor="conv")),
            "levels.1.predictor: conv needs a latent",
        ),
        (lambda: model(replace(LEVEL, predictor="conv"), MAP), "levels.1.predictor: conv needs"),
        (lambda: model(SHARED, replace(MAP, grid=5)), "levels.0.latent_dim: 16 is not .* 5 x 5"),
        (lambda: EncoderConfig(frames=2), "encoder.frames: 'patches' sees one frame at a time"),
        (lambda: EncoderConfig(grid=0), "encoder: all numbers of parts, and sizes, are at least 1"),
        (
            lambda: EncoderConfig(views=0),
            "encoder: all numbers of parts, and sizes, are at least 1",
        ),
        (lambda: DistanceConfig(width=0), "distance: width, components and component_size"),
        (lambda: DistanceConfig(depth=-1), "distance: width, components and component_size"),
        (lambda: DistanceConfig(gaps=()), r"distance.gaps: \(\) must be steps apart"),
        (lambda: DistanceConfig(gaps=(1, 0)), r"distance.gaps: \(1, 0\) must be steps apart"),
        (lambda: DistanceConfig(horizon=0.0), "distance: horizon, penalty and mean_gap"),
        (lambda: DistanceConfig(weight=-1.0), "weight at least 0"),
        (lambda: DistanceConfig(expectile=1.0), "distance.expectile: must lie between 0 and 1"),
        (lambda: LandmarkConfig(count=-1), "landmarks: count, spare and iterations are at least 0"),
        (lambda: LandmarkConfig(spare=-1), "landmarks: count, spare and iterations are at least 0"),
        (lambda: LandmarkConfig(iterations=-1), "landmarks: count, spare and iterations"),
        (lambda: LandmarkConfig(frames=0), "landmarks: .* frames and nearest at least 1"),
        (lambda: LandmarkConfig(nearest=0), "landmarks: .* frames and nearest at least 1"),
        (lambda: LandmarkConfig(gaps=(0, 3)), r"landmarks.gaps: \(0, 3\) must be the least and"),
        (lambda: LandmarkConfig(gaps=(4, 3)), r"landmarks.gaps: \(4, 3\) must be the least and"),
        (lambda: LandmarkConfig(hop=-0.5), "landmarks: hop and off_manifold are at least 0"),
        (lambda: LandmarkConfig(off_manifold=-1.0), "landmarks: hop and off_manifold"),
        (
            lambda: ModelConfig(
                (LevelConfig(landmarks=LandmarkConfig(9, model_edges=True)),),
                EncoderConfig("foreign"),
            ),
            "landmarks.model_edges: with encoder.kind foreign",
        ),
        (lambda: MaskConfig(blocks=0), "masks.blocks: a mask needs at least one block"),
        (lambda: MaskConfig(area=1.0), "masks.area and masks.visible: shares of the frame"),
        (lambda: MaskConfig(visible=1.0), "masks.area and masks.visible: shares of the frame"),
        (lambda: MaskConfig(aspect=(2.0, 1.0)), "masks.aspect: the least height over width"),
        (lambda: MaskedConfig(pixels=-1.0), "masked: weight and pixels must not be below 0"),
        (lambda: MaskedConfig(frames=0), "masked: frames and depth must be at least 1"),
        (lambda: MaskedConfig(masks=()), "masked.masks: masked video needs at least one kind"),
        (lambda: StageConfig((0,), 1, 1, masked=True), "stages: masked video trains the encoder"),
        (lambda: TrainConfig(signals_every=0), "log_every and signals_every"),
        (lambda: OptimizerConfig(candidates=0), "candidates and iterations"),
        (lambda: OptimizerConfig(iterations=0), "candidates and iterations"),
        (lambda: OptimizerConfig(elites=0), "elites: 0 must be between 1 and candidates"),
        (lambda: OptimizerConfig(candidates=4, elites=5), r"elites: 5 must.*\(4\)"),
        (lambda: OptimizerConfig(correlation=1.0), "correlation"),
        (lambda: OptimizerConfig(correlation=-0.1), "correlation"),
        (lambda: OptimizerConfig(steps=0), "steps"),
        (lambda: OptimizerConfig(noise=-1.0), "noise.* must not be negative"),
        (lambda: OptimizerConfig(warm_noise=-1.0), "noise.* must not be negative"),
        (lambda: OptimizerConfig(beta=-1.0), "beta.* must not be negative"),
        (lambda: OptimizerConfig(agreement=-1.0), "agreement.* must not be negative"),
        (lambda: OptimizerConfig(residual=-1.0), "residual must not be negative"),
        (lambda: OptimizerConfig(temperature=0.0), "temperature and learning_rate"),
        (lambda: OptimizerConfig(learning_rate=0.0), "temperature and learning_rate"),
        (lambda: OptimizerConfig(kept=1.1), "kept: 1.1 is a share"),
        (lambda: OptimizerConfig(kept=-0.1), "kept: -0.1 is a share"),
        (lambda: OptimizerConfig(decay=0.9), "decay: 0.9 would make rounds grow"),
        (lambda: OptimizerConfig(elites=1, agreement=0.1), "agreement: one elite always agrees"),
        (lambda: PlannerConfig(horizon=0, replan=1), "horizon: 0"),
        (lambda: PlannerConfig(horizon=1, replan=0), "replan: 0"),
        (lambda: PlannerConfig(horizon=1, replan=1, minimum=1.1), "minimum"),
        (lambda: PlannerConfig(horizon=1, replan=1, minimum=-0.1), "minimum"),
        (lambda: StageConfig((), 1, 1), "stages: a stage trains some levels, or the encoder"),
        (lambda: StageConfig((-1,), 1, 1), "stages: .* are not the numbers of levels"),
        (lambda: StageConfig((0, 0), 1, 1), "stages: .* are not the numbers of levels"),
        (lambda: StageConfig((0,), 0, 1), "steps and batch_size"),
        (lambda: StageConfig((0,), 1, 0), "steps and batch_size"),
        (lambda: TrainConfig(log_every=0), "log_every"),
        (lambda: TrainConfig(ema=1.1), "ema and held_out"),
        (lambda: TrainConfig(held_out=1.0), "ema and held_out"),
        (lambda: CollectConfig(episodes=1), "at least two episodes"),
        (lambda: CollectConfig(steps=0), "at least one step"),
        (lambda: CollectConfig(image_size=60), "multiple of 8"),
    ],
)
def test_impossible_values(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(EchelonError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_latent_is_a_map_as_far_as_it_is_shared() -> None:
    found = ModelConfig((LevelConfig(), SHARED, LEVEL, replace(SHARED, stride=3)), MAP)
    assert [found.is_map(index) for index in range(4)] == [True, True, False, False]
    assert not replace(found, encoder=EncoderConfig()).is_map(0)


def test_a_window_holds_the_longest_rollout() -> None:
    found = ModelConfig((LevelConfig(rollout=9), replace(LEVEL, stride=4, rollout=3)))
    assert [found.window(levels) for levels in ((), (0,), (1,), (0, 1))] == [0, 9, 12, 12]


def test_durations_multiply() -> None:
    three = (LevelConfig(), replace(LEVEL, stride=5), replace(LEVEL, stride=3))
    assert ModelConfig(levels=three).durations == (1, 5, 15)
