"""Push-T: poses that a block was pushed to, some steps later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from echelon.bench.benchmark import SAME, Benchmark, Run, Trained, times
from echelon.bench.diverse_maze import deeper
from echelon.config import (
    EncoderConfig,
    LevelConfig,
    LossConfig,
    ModelConfig,
    PlannerConfig,
    StageConfig,
    TrainConfig,
)
from echelon.data.episodes import Episodes
from echelon.envs import push_t, pushing
from echelon.envs.push_t import BUDGETS, PushTTask
from echelon.envs.pushing import PushTCollect
from echelon.envs.task import Trial
from echelon.evaluation import Method
from echelon.presets import NEAREST, planner_for

HELD_OUT = 0.1
"""share of the episodes that no model is trained on; trials are from half of those"""
CANDIDATES = NEAREST.optimizer.candidates
MATCHED = 373
"""width that gives one level about the parameters of both"""


def trials(mine: Benchmark, episodes: Episodes, each: int, seed: int) -> Sequence[Trial]:
    """From episodes that the seed's models are not trained on."""
    _, held_out = episodes.split(mine.train.held_out, seed)
    return push_t.make_trials(episodes, held_out, each, seed, "test")


def methods(model: ModelConfig) -> list[Method]:
    """Two levels, and none."""
    return [
        Method.of("default", planner_for(model)),
        Method("control:random", "uniform"),
    ]


def flat(model: ModelConfig) -> list[Method]:
    """One level, with the same latents and so the same distance: at about the compute of two, and at
    three larger budgets; with the best of what is recalled, or the last plan; and shown what was logged
    next.
    """
    return [
        *(Method.of(f"nearest{times(n)}", _with(n * CANDIDATES)) for n in (1, 4, 16)),
        Method(SAME, "nearest-less", _with(3 * CANDIDATES // 4)),
        Method("control:recalled", "best", _with(2, 1)),
        Method("control:oracle-subgoals", "ahead-2", planner_for(model), ahead=2),
    ]


def _with(
    candidates: int, iterations: int = NEAREST.optimizer.iterations
) -> tuple[PlannerConfig, ...]:
    """Flat planning with so many candidates."""
    elites = min(NEAREST.optimizer.elites, candidates)
    changed = replace(
        NEAREST.optimizer, candidates=candidates, iterations=iterations, elites=elites
    )
    return (replace(NEAREST, optimizer=changed),)


def on_own(model: ModelConfig) -> list[Method]:
    """Two levels, the upper one by its latent."""
    return [Method.of("own-latents", planner_for(model))]


def matched(model: ModelConfig) -> list[Method]:
    """One level."""
    return [Method.of("matched", planner_for(model))]


LOSS = LossConfig(norm="l1", variance=0.0, correlation=0.0, smoothness=0.0, inverse_dynamics=0.0)
_FINE = LevelConfig(
    latent_dim=6,
    predictor="relative",
    width=256,
    depth=3,
    difference_scale=8.0,
    loss=LOSS,
)
_ABOVE = replace(_FINE, latent="shared", stride=5, macro="concat", rollout=4)
_MODEL = ModelConfig((_FINE, _ABOVE), EncoderConfig(kind="things"), recall=131072)
_STAGES = (
    StageConfig((0,), 6000, 2048, window=1, learning_rate=2e-3),
    StageConfig((0,), 4000, 768, window=3, learning_rate=1e-3),
    StageConfig((0,), 3000, 320, learning_rate=5e-4),
)
_UPPER = StageConfig((1,), 8000, 512, learning_rate=2e-3)
TRAIN = TrainConfig(stages=_STAGES, ema=0.0, held_out=HELD_OUT, num_threads=1)
_THIRD = replace(_ABOVE, stride=3, rollout=2)
_FOURTH = replace(_ABOVE, stride=2, rollout=1)
_OWN = LevelConfig(latent_dim=16, stride=5, macro="concat", rollout=4)


def only(level: int) -> TrainConfig:
    """One level above, with what lies below as it is."""
    return replace(TRAIN, stages=(replace(_UPPER, levels=(level,)),))


def _of(*levels: LevelConfig) -> ModelConfig:
    return replace(_MODEL, levels=levels)


_OTHERS = (
    Trained("one-level", _of(_FINE), TRAIN, flat),
    Trained("levels-3", _of(_FINE, _ABOVE, _THIRD), only(2), deeper, "base"),
    Trained("levels-4", _of(_FINE, _ABOVE, _THIRD, _FOURTH), only(3), deeper, "levels-3"),
    Trained("own-latents", _of(_FINE, _OWN), only(1), on_own, "one-level"),
    Trained("matched", _of(replace(_FINE, width=MATCHED)), TRAIN, matched),
)

PUSH_T = Benchmark(
    name="push-t",
    title="Push-T",
    task=PushTTask(),
    budgets=BUDGETS,
    unit="steps from start to goal, as logged",
    published={
        "HWM, flat": {"25": 84, "50": 55, "75": 17},
        "HWM, hierarchical": {"25": 89, "50": 78, "75": 61},
        "H-JEPA, 2 levels": {"75": 45.3},
    },
    collection=PushTCollect(episodes=2000),
    collect=pushing.collect,
    model=_MODEL,
    train=only(1),
    trials=trials,
    methods=methods,
    others=_OTHERS,
    start="one-level",
)
"""published: arXiv 2604.03208, DINO-WM's model and data; arXiv 2610.06805, 90 steps a trial"""


class PushTBench(Run):
    """A T-shaped block, to be pushed to where it was 25, 50 and 75 steps later in episodes that no
    model was trained on.

    Stopped at any moment, it goes on where it was.
    """

    benchmark: ClassVar[Benchmark] = PUSH_T
