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
MATCHED = 374
"""width that gives one level about the parameters of both"""


def trials(mine: Benchmark, episodes: Episodes, each: int, seed: int) -> Sequence[Trial]:
    """From episodes that the seed's models are not trained on."""
    _, held_out = episodes.split(mine.train.held_out, seed)
    return push_t.make_trials(episodes, held_out, each, seed, "test")


def methods(model: ModelConfig) -> list[Method]:
    """Two levels; one, which has the same latents and so the same distance, at about their compute and
    at three larger budgets; one that is shown what was logged next; and none.
    """
    one = replace(model, levels=model.levels[:1])
    return [
        Method.of("default", planner_for(model)),
        *(Method.of(f"nearest{times(n)}", _with(n * CANDIDATES)) for n in (1, 4, 16)),
        Method(SAME, "nearest-half", _with(CANDIDATES // 2)),
        Method("control:oracle-subgoals", "ahead-2", planner_for(one), ahead=2),
        Method("control:random", "uniform"),
    ]


def _with(candidates: int) -> tuple[PlannerConfig, ...]:
    """Flat planning with so many candidates."""
    return (replace(NEAREST, optimizer=replace(NEAREST.optimizer, candidates=candidates)),)


def on_own(model: ModelConfig) -> list[Method]:
    """Two levels, the upper one by its latent."""
    return [Method.of("own-latents", planner_for(model))]


def matched(model: ModelConfig) -> list[Method]:
    """One level."""
    return [Method.of("matched", planner_for(model))]


_LOSS = LossConfig(norm="l1", variance=0.0, correlation=0.0, smoothness=0.0, inverse_dynamics=0.0)
_FINE = LevelConfig(
    latent_dim=6,
    predictor="relative",
    recall=30,
    width=256,
    depth=3,
    difference_scale=8.0,
    loss=_LOSS,
)
_ABOVE = replace(_FINE, latent="shared", stride=10, action_dim=8, rollout=3, recall=6)
_MODEL = ModelConfig((_FINE, _ABOVE), EncoderConfig(kind="things"), bank_size=16384)
_STAGES = (
    StageConfig((0,), 6000, 2048, window=1, learning_rate=2e-3),
    StageConfig((0,), 4000, 768, window=3, learning_rate=1e-3),
    StageConfig((0,), 3000, 320, learning_rate=5e-4),
)
_UPPER = StageConfig((1,), 4000, 512, learning_rate=2e-3)
_TRAIN = TrainConfig(stages=(*_STAGES, _UPPER), ema=0.0, held_out=HELD_OUT, num_threads=1)
_THIRD = replace(_ABOVE, stride=3, rollout=2, recall=3)
_FOURTH = replace(_ABOVE, stride=2, rollout=1, recall=1)
_OWN = LevelConfig(latent_dim=16, stride=10, action_dim=8, rollout=3, recall=6)


def _only(level: int) -> TrainConfig:
    return replace(_TRAIN, stages=(replace(_UPPER, levels=(level,)),))


def _of(*levels: LevelConfig) -> ModelConfig:
    return replace(_MODEL, levels=levels)


_OTHERS = (
    Trained("levels-3", _of(_FINE, _ABOVE, _THIRD), _only(2), deeper, "base"),
    Trained("levels-4", _of(_FINE, _ABOVE, _THIRD, _FOURTH), _only(3), deeper, "levels-3"),
    Trained("own-latents", _of(_FINE, _OWN), _TRAIN, on_own),
    Trained(
        "matched",
        _of(replace(_FINE, width=MATCHED)),
        replace(_TRAIN, stages=_STAGES),
        matched,
    ),
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
    train=_TRAIN,
    trials=trials,
    methods=methods,
    others=_OTHERS,
)
"""published: arXiv 2604.03208, DINO-WM's model and data; arXiv 2610.06805, 90 steps a trial"""


class PushTBench(Run):
    """A T-shaped block, to be pushed to where it was 25, 50 and 75 steps later in episodes that no
    model was trained on.

    Stopped at any moment, it goes on where it was.
    """

    benchmark: ClassVar[Benchmark] = PUSH_T
