"""What the ablation removes or replaces: a variant is a name and the options that it changes, as on the
command line of `echelon train`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from echelon import schema
from echelon.config import ModelConfig, PlannerConfig, TrainConfig, to_dict
from echelon.demo import DemoConfig
from echelon.experiment import SAME_COST
from echelon.presets import eagerly, patiently, planner_for


def short_searches(model: ModelConfig) -> tuple[PlannerConfig, ...]:
    """What parts are held against each other with: plans made anew every other step, since following
    a plan hides what a coarse model gets wrong.
    """
    return planner_for(model) if len(model.levels) == 1 else eagerly(model)


def plans_kept(model: ModelConfig) -> tuple[PlannerConfig, ...]:
    """The same level 0, below coarse plans that are followed."""
    levels = eagerly(model)
    return (levels[0], *patiently(levels, model)[1:])


@dataclass(frozen=True)
class Variant:
    """The demo, but for some options."""

    name: str
    part: str
    """what is removed or replaced"""
    what: str
    """by what"""
    changes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """option to value, or to a function of the value it has"""
    base: str = "default"
    """variant that it is held against"""
    planner: Callable[[ModelConfig], tuple[PlannerConfig, ...]] = short_searches
    auto: bool = False
    """depth and strides as `echelon train --levels auto` chooses them"""
    trained: str = ""
    """the variant that trains its model; none is itself"""


ONE_LEVEL: Mapping[str, Any] = {
    "model.levels": lambda levels: levels[:1],
    "train.stages.1.levels": [0],
}
THREE_LEVELS: Mapping[str, Any] = {
    "model.levels": lambda levels: [*levels, levels[-1] | {"stride": 3}],
    "train.stages.1.levels": [0, 1, 2],
}
PLAIN = {"log_determinant": 0.0, "variance": 0.0, "correlation": 0.0}
"""no term against collapse"""
VIT: Mapping[str, Any] = {"model.encoder.kind": "vit", "model.encoder.patch": 16}
PRETRAINED: Mapping[str, Any] = VIT | {
    "train.stages": lambda stages: [
        stages[0] | {"levels": [], "masked": True, "steps": max(1, stages[0]["steps"] // 2)},
        *stages,
    ]
}
QUASIMETRIC: Mapping[str, Any] = {
    "model.levels.0.distance.kind": "quasimetric",
    "model.levels.0.distance.horizon": 256.0,
}


def _loss(level: int, **weights: float) -> dict[str, float]:
    return {f"model.levels.{level}.loss.{name}": value for name, value in weights.items()}


DEFAULT = Variant("default", "–", "the demo, its plans made anew")
STRIDES = (
    Variant("stride-5", "stride", "5, not 10", {"model.levels.1.stride": 5}),
    Variant("stride-20", "stride", "20, not 10", {"model.levels.1.stride": 20}),
    Variant("stride-auto", "stride", "levels and strides as measured", auto=True),
)
PATIENT = tuple(
    replace(
        variant,
        name=name,
        part="stride, plans kept",
        what=what,
        base="patient-10",
        trained=variant.name,
        planner=plans_kept,
    )
    for name, what, variant in (
        ("patient-10", "10, coarse plans followed until used up or missed", DEFAULT),
        *((v.name.replace("stride", "patient"), v.what, v) for v in STRIDES),
    )
)
VARIANTS = (
    DEFAULT,
    Variant("macro-2", "macro-action", "2 dimensions, not 8", {"model.levels.1.action_dim": 2}),
    Variant("macro-4", "macro-action", "4 dimensions, not 8", {"model.levels.1.action_dim": 4}),
    Variant(
        "macro-transformer",
        "macro-action",
        "a transformer, not an MLP",
        {"model.levels.1.macro": "transformer"},
    ),
    Variant(
        "macro-spans",
        "macro-action",
        "a transformer, trained on segments of 5 to 15 steps",
        {"model.levels.1.macro": "transformer", "model.levels.1.span": [5, 15]},
    ),
    Variant(
        "macro-concat",
        "macro-action",
        "actions side by side, nothing learned",
        {"model.levels.1.macro": "concat", "model.levels.1.action_dim": None},
    ),
    Variant("levels-1", "levels", "1: flat", ONE_LEVEL),
    Variant("levels-3", "levels", "3: strides 10 and 3", THREE_LEVELS),
    Variant(
        "latent-shared",
        "latent of level 1",
        "level 0's, so the cost is its L2 distance",
        {"model.levels.1.latent": "shared"},
    ),
    Variant(
        "joint",
        "stages",
        "level 1 trains, and shapes the encoder, from the start",
        {"train.stages.0.levels": [0, 1], "train.stages.0.gradient_below": True},
    ),
    Variant(
        "staged",
        "stages",
        "level 0 is done when its encoder is",
        {"train.stages.1.levels": [1]},
    ),
    Variant("stop-gradient", "targets", "no EMA, a stopped gradient alone", {"train.ema": 0.0}),
    Variant(
        "vicreg-1",
        "level 1 against collapse",
        "VICReg, not log-determinant",
        _loss(1, **PLAIN | {"variance": 1.0, "correlation": 0.04}),
    ),
    Variant(
        "sigreg-1",
        "level 1 against collapse",
        "SIGReg, weight 10",
        _loss(1, **PLAIN, sigreg=10.0),
    ),
    Variant("none-1", "level 1 against collapse", "nothing", _loss(1, **PLAIN)),
    Variant(
        "sigreg-0",
        "level 0 against collapse",
        "SIGReg, weight 10, not VICReg",
        _loss(0, **PLAIN, sigreg=10.0),
    ),
    Variant("none-0", "level 0 against collapse", "inverse dynamics alone", _loss(0, **PLAIN)),
    Variant(
        "teacher-forced",
        "prediction",
        "one step from true states, not rollouts",
        _loss(0, prediction=0.0, teacher_forced=1.0) | _loss(1, prediction=0.0, teacher_forced=1.0),
    ),
    *STRIDES,
    *PATIENT,
    Variant("smooth-1", "cost", "own latent, smoothness 1, not 10", _loss(1, smoothness=1.0)),
    Variant("smooth-3", "cost", "own latent, smoothness 3, not 10", _loss(1, smoothness=3.0)),
    Variant("smooth-30", "cost", "own latent, smoothness 30, not 10", _loss(1, smoothness=30.0)),
    Variant(
        "quasimetric-1",
        "cost",
        "level 1 by a quasimetric",
        {
            "model.levels.1.distance.kind": "quasimetric",
            "model.levels.1.distance.horizon": 32.0,
            "model.levels.1.distance.gaps": [1, 2, 3],
        },
    ),
    Variant("quasimetric-0", "cost", "level 0 by a quasimetric", QUASIMETRIC),
    Variant(
        "quasimetric-flat",
        "cost",
        "1 level, by a quasimetric and a short horizon",
        ONE_LEVEL | QUASIMETRIC,
        "levels-1",
        lambda model: SAME_COST.levels,
    ),
    Variant("vit", "encoder", "a ViT of 16-pixel patches", VIT),
    Variant("vit-pretrained", "encoder", "ViT, masked video first", PRETRAINED, "vit"),
    Variant(
        "vit-beside",
        "encoder",
        "ViT, masked video beside level 0",
        VIT | {"train.stages.0.masked": True},
        "vit",
    ),
    Variant(
        "vit-hybrid",
        "encoder",
        "ViT, masked video and pixels first",
        PRETRAINED | {"train.masked.pixels": 1.0},
        "vit-pretrained",
    ),
)


def configured(variant: Variant, config: DemoConfig) -> tuple[ModelConfig, TrainConfig]:
    """What a variant trains, with nothing measured yet."""
    values = {"model": to_dict(config.model), "train": to_dict(config.train)}
    for option, value in variant.changes.items():
        *way, last = option.split(".")
        place: Any = values
        for step in way:
            place = place[int(step) if step.isdigit() else step]
        place[last] = value(place[last]) if callable(value) else value
    where = f"variant {variant.name}"
    model = schema.read(ModelConfig, values["model"], f"{where}: model")
    return model, schema.read(TrainConfig, values["train"], f"{where}: train")
