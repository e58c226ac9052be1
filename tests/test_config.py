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
    LevelConfig,
    LossConfig,
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
    PlannerConfig(horizon=3, replan=2),
    CollectConfig(),
    DemoConfig(),
    ModelConfig(),
    TrainConfig(),
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
        (OptimizerConfig, {"kind": "random"}, "here: kind: expected one of ('cem', 'mppi'), not"),
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
        (lambda: OptimizerConfig(candidates=0), "candidates and iterations"),
        (lambda: OptimizerConfig(iterations=0), "candidates and iterations"),
        (lambda: OptimizerConfig(elites=0), "elites: 0 must be between 1 and candidates"),
        (lambda: OptimizerConfig(candidates=4, elites=5), r"elites: 5 must.*\(4\)"),
        (lambda: OptimizerConfig(correlation=1.0), "correlation"),
        (lambda: OptimizerConfig(correlation=-0.1), "correlation"),
        (lambda: PlannerConfig(horizon=0, replan=1), "horizon: 0"),
        (lambda: PlannerConfig(horizon=1, replan=0), "replan: 0"),
        (lambda: PlannerConfig(horizon=1, replan=1, minimum=1.1), "minimum"),
        (lambda: PlannerConfig(horizon=1, replan=1, minimum=-0.1), "minimum"),
        (lambda: StageConfig((), 1, 1), "stages: a stage trains some levels, or masked video"),
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


def test_durations_multiply() -> None:
    three = (LevelConfig(), replace(LEVEL, stride=5), replace(LEVEL, stride=3))
    assert ModelConfig(levels=three).durations == (1, 5, 15)
