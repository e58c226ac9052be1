"""OGBench's cube: places that it was grasped at and brought to, some steps later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from echelon.bench import push_t
from echelon.bench.benchmark import Benchmark, Run, Trained
from echelon.bench.push_t import LOSS, TRAIN, only
from echelon.config import (
    EncoderConfig,
    LevelConfig,
    ModelConfig,
    PlannerConfig,
)
from echelon.data.episodes import Episodes
from echelon.envs import cube, grasping
from echelon.envs.cube import BUDGETS, CubeTask
from echelon.envs.grasping import CubeCollect
from echelon.envs.task import Trial
from echelon.evaluation import Method
from echelon.presets import NEAREST, planner_for

HELD_OUT = 0.1
"""share of the episodes that no model is trained on; trials are from half of those"""
MATCHED = 485
"""width that gives one level about the parameters of both"""
AHEAD = 30
"""environment steps that levels above look ahead: as far as level 0 alone does"""


def trials(mine: Benchmark, episodes: Episodes, each: int, seed: int) -> Sequence[Trial]:
    """From episodes that the seed's models are not trained on."""
    _, held_out = episodes.split(mine.train.held_out, seed)
    return cube.make_trials(episodes, held_out, each, seed, "test")


def methods(model: ModelConfig) -> list[Method]:
    """All levels, and none."""
    return [Method.of("default", searching(model)), Method("control:random", "uniform")]


def deeper(model: ModelConfig) -> list[Method]:
    """All levels."""
    return [Method.of(f"levels-{len(model.levels)}", searching(model))]


def on_own(model: ModelConfig) -> list[Method]:
    """Two levels, the upper one by its latent."""
    return [Method.of("own-latents", searching(model))]


def searching(model: ModelConfig) -> tuple[PlannerConfig, ...]:
    """As usual where goals are passed, but levels above vary what they recall: few grasps are alike."""
    fine, *above = planner_for(model)
    pairs = zip(above, model.durations[1:], strict=True)
    vary = NEAREST.optimizer
    return (
        fine,
        *(replace(level, horizon=max(1, AHEAD // each), optimizer=vary) for level, each in pairs),
    )


_FINE = LevelConfig(
    latent_dim=12, predictor="pairs", width=256, depth=3, difference_scale=8.0, loss=LOSS
)
_ABOVE = replace(_FINE, latent="shared", stride=10, macro="concat", width=384, rollout=3)
_MODEL = ModelConfig(
    (_FINE, _ABOVE), EncoderConfig(kind="things", things=3, views=2), recall=131072
)
_THIRD = replace(_ABOVE, stride=3, rollout=2)
_FOURTH = replace(_ABOVE, stride=2, rollout=1)
_OWN = LevelConfig(latent_dim=16, stride=10, macro="concat", rollout=3)


def _of(*levels: LevelConfig) -> ModelConfig:
    return replace(_MODEL, levels=levels)


_OTHERS = (
    Trained("one-level", _of(_FINE), TRAIN, push_t.flat),
    Trained("levels-3", _of(_FINE, _ABOVE, _THIRD), only(2), deeper, "base"),
    Trained("levels-4", _of(_FINE, _ABOVE, _THIRD, _FOURTH), only(3), deeper, "levels-3"),
    Trained("own-latents", _of(_FINE, _OWN), only(1), on_own, "one-level"),
    Trained("matched", _of(replace(_FINE, width=MATCHED)), TRAIN, push_t.matched),
)

CUBE = Benchmark(
    name="cube",
    title="Cube",
    task=CubeTask(),
    budgets=BUDGETS,
    unit="steps from start to goal, as logged",
    published={
        "LeWM, flat": {"20": 32.0},
        "H-JEPA, 2 levels": {"20": 47.3},
        "H-JEPA, 3 levels": {"20": 60.0},
        "H-JEPA, 4 levels": {"20": 62.7},
        "HWM-style, 2 levels": {"20": 46.7},
        "HWM-style, 3 levels": {"20": 53.3},
        "HWM-style, 4 levels": {"20": 34.0},
    },
    collection=CubeCollect(episodes=2000),
    collect=grasping.collect,
    model=_MODEL,
    train=only(1),
    trials=trials,
    methods=methods,
    others=_OTHERS,
    start="one-level",
)
"""published: arXiv 2610.06805, 3 models and 50 tasks, each planned with under 100 TFLOPs"""


class CubeBench(Run):
    """OGBench's cube, to be grasped and brought to where it was 20 and 40 steps later in episodes that
    no model was trained on.

    Stopped at any moment, it goes on where it was.
    """

    benchmark: ClassVar[Benchmark] = CUBE
