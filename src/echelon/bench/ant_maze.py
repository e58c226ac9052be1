"""OGBench's ant maze: places that are 3 and 6 cells away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from echelon.bench.benchmark import SAME, Benchmark, Run, Trained, times
from echelon.config import (
    EncoderConfig,
    LandmarkConfig,
    LevelConfig,
    LossConfig,
    ModelConfig,
    PlannerConfig,
    StageConfig,
    TrainConfig,
)
from echelon.data.episodes import Episodes
from echelon.envs import ant_maze, walking
from echelon.envs.ant_maze import BUDGETS, AntMazeTask
from echelon.envs.task import Trial
from echelon.envs.walking import AntMazeCollect
from echelon.evaluation import Method
from echelon.presets import NEAREST

MATCHED = 378
"""width that gives one level about the parameters of both"""
AHEAD = 40
"""environment steps that levels above look ahead"""
CANDIDATES = NEAREST.optimizer.candidates
FLAT = replace(NEAREST, horizon=20, replan=5, cost="graph")
"""level 0 alone: two seconds, of which half a second is walked"""


def trials(_: Benchmark, __: Episodes, each: int, seed: int) -> Sequence[Trial]:
    """Of pairs of cells that no setting was chosen by."""
    return ant_maze.make_trials(each, seed, "test")


def methods(model: ModelConfig) -> list[Method]:
    """All levels, and none."""
    return [Method.of("default", searching(model)), Method("control:random", "uniform")]


def deeper(model: ModelConfig) -> list[Method]:
    """All levels."""
    return [Method.of(f"levels-{len(model.levels)}", searching(model))]


def flat(_: ModelConfig) -> list[Method]:
    """One level: by the straight line, which is the distance of its latents, at three budgets; by the
    hierarchy's distance, at two; with the best of what is recalled; and shown the true way.
    """
    straight = replace(FLAT, cost="latent")
    return [
        *(Method.of(f"straight{times(n)}", (_with(straight, n),)) for n in (1, 4, 16)),
        *(Method(SAME, f"graph{times(n)}", (_with(FLAT, n),)) for n in (1, 4)),
        Method("control:recalled", "best", (_best(FLAT),)),
        Method("control:oracle-subgoals", "ahead-1", (straight,), ahead=1),
    ]


def on_own(model: ModelConfig) -> list[Method]:
    """Two levels, the upper one by its latent."""
    fine, above = searching(model)
    fine = replace(fine, cost="latent")
    return [Method.of("own-latents", (fine, replace(above, cost="latent", hand_down="nearest")))]


def matched(_: ModelConfig) -> list[Method]:
    """One level, in the hierarchy's distance."""
    return [Method(SAME, "matched", (FLAT,))]


def searching(model: ModelConfig) -> tuple[PlannerConfig, ...]:
    """Searches by the graph that begin with what was done before. Level 0 varies it; levels above try
    it as it is, and follow a plan until it is used up or fails, when the goal is handed down once.
    """
    once = replace(NEAREST.optimizer, iterations=1, residual=0.0)
    above = replace(FLAT, optimizer=once, hand_down="either", watchdog=0.5, reached=0.6, trust=1)
    return (
        FLAT,
        *(
            replace(above, horizon=max(1, AHEAD // each), replan=2 * each)
            for each in model.durations[1:]
        ),
    )


def _with(level: PlannerConfig, count: int) -> PlannerConfig:
    """With so many times the candidates."""
    candidates = count * CANDIDATES
    return replace(level, optimizer=replace(level.optimizer, candidates=candidates))


def _best(level: PlannerConfig) -> PlannerConfig:
    """Of two candidates, the last plan and the best of what is recalled."""
    once = replace(level.optimizer, candidates=2, iterations=1)
    return replace(level, optimizer=once)


_LOSS = LossConfig(norm="l1", variance=0.0, correlation=0.0, smoothness=0.0, inverse_dynamics=0.0)
_FINE = LevelConfig(
    latent_dim=4,
    width=256,
    depth=3,
    difference_scale=30.0,
    loss=_LOSS,
    landmarks=LandmarkConfig(count=200),
)
_ABOVE = replace(_FINE, latent="shared", stride=10, macro="concat", rollout=3)
_MODEL = ModelConfig(
    (_FINE, _ABOVE),
    EncoderConfig(kind="things", things=2),
    proprio="proprio",
    recall=131072,
)
_STAGES = (
    StageConfig((0,), 6000, 1024, window=1, learning_rate=2e-3),
    StageConfig((0,), 3000, 320, learning_rate=1e-3),
)


def _above(level: int, steps: int) -> TrainConfig:
    """One step of the level at first, which takes so many of the environment; then several."""
    first = StageConfig((level,), 6000, 512, window=steps, learning_rate=2e-3)
    return replace(_TRAIN, stages=(first, StageConfig((level,), 1000, 256, learning_rate=5e-4)))


_TRAIN = TrainConfig(stages=_STAGES, ema=0.0, held_out=0.1, num_threads=1)
_THIRD = replace(_ABOVE, stride=2, rollout=2)
_FOURTH = replace(_ABOVE, stride=2, rollout=1)
_OWN = LevelConfig(latent_dim=16, stride=10, macro="concat", rollout=3)


def _of(*levels: LevelConfig) -> ModelConfig:
    return replace(_MODEL, levels=levels)


_OTHERS = (
    Trained("one-level", _of(_FINE), _TRAIN, flat),
    Trained("levels-3", _of(_FINE, _ABOVE, _THIRD), _above(2, 20), deeper, "base"),
    Trained("levels-4", _of(_FINE, _ABOVE, _THIRD, _FOURTH), _above(3, 40), deeper, "levels-3"),
    Trained("own-latents", _of(_FINE, _OWN), _above(1, 30), on_own, "one-level"),
    Trained("matched", _of(replace(_FINE, width=MATCHED)), _TRAIN, matched),
)

ANT_MAZE = Benchmark(
    name="ant-maze",
    title="Ant maze",
    task=AntMazeTask(),
    budgets=BUDGETS,
    unit="path from start to goal, in cells",
    published={
        "LeWM, flat": {"3": 18.0},
        "H-JEPA, 2 levels": {"3": 39.3},
        "H-JEPA, 3 levels": {"3": 73.3},
        "H-JEPA, 4 levels": {"3": 67.3},
        "HWM-style, 2 levels": {"3": 34.0},
        "HWM-style, 3 levels": {"3": 38.7},
        "HWM-style, 4 levels": {"3": 14.0},
    },
    collection=AntMazeCollect(episodes=1000),
    collect=walking.collect,
    model=_MODEL,
    train=_above(1, 10),
    trials=trials,
    methods=methods,
    others=_OTHERS,
    start="one-level",
)
"""published: arXiv 2610.06805, 3 models and 50 tasks, each planned with under 100 TFLOPs"""


class AntMazeBench(Run):
    """OGBench's ant, to walk to places 3 and 6 cells away in its medium maze.

    Stopped at any moment, it goes on where it was.
    """

    benchmark: ClassVar[Benchmark] = ANT_MAZE
