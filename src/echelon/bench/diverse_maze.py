"""HWM's Diverse Maze: goals in layouts that no episode was logged in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from echelon.bench.benchmark import SAME, Benchmark, Run, Trained, times
from echelon.collect import CollectConfig, collect
from echelon.config import (
    DistanceConfig,
    EncoderConfig,
    LevelConfig,
    LossConfig,
    ModelConfig,
    PlannerConfig,
    StageConfig,
    TrainConfig,
)
from echelon.data.episodes import Episodes
from echelon.envs import layouts
from echelon.envs.layouts import Layout
from echelon.envs.mazes import MazeTask, spread_trials
from echelon.envs.task import Trial
from echelon.evaluation import Method
from echelon.presets import ALONG_PATHS, planner_for, settings_of, with_cost
from echelon.types import EchelonError

MATCHED = 360
"""width that gives one level about the parameters of both"""
HELD_OUT = 20
"""layouts to be judged in"""
HELD_OUT_SEED = 3001
"""maze seed of the first of them; those from 1001 on were looked at beforehand"""


_LOSS = LossConfig(variance=0.0, correlation=0.0, smoothness=0.0, inverse_dynamics=0.0)
_FINE = LevelConfig(
    latent_dim=2,
    lift_width=32,
    predictor="local",
    spacing=3.2,
    width=128,
    difference_scale=10.0,
    loss=_LOSS,
    distance=DistanceConfig(kind="paths"),
)


def held_out_layouts(config: CollectConfig, count: int) -> list[Layout]:
    """Layouts that have goals at all distances, none of which is trained on."""
    known = {layout.tobytes() for layout in config.layouts}
    found: list[Layout] = []
    for number in range(20 * count):
        layout = config.layout_of(HELD_OUT_SEED + number)
        if layouts.between(layout).max() >= 16 and layout.tobytes() not in known:
            found.append(layout)
        if len(found) == count:
            return found
    raise EchelonError(
        f"fewer than {count} layouts of this size have goals 13 to 16 cells away; use "
        "larger mazes, or fewer"
    )


def trials(mine: Benchmark, _: Episodes, each: int, seed: int) -> Sequence[Trial]:
    """Spread over the held-out layouts, a split after the other."""
    others = held_out_layouts(mine.collection, min(each, HELD_OUT))
    splits = [spread_trials(others, each, seed, "test", (split,)) for split in mine.budgets]
    return [trial for found in splits for trial in found]


def methods(model: ModelConfig) -> list[Method]:
    """Two levels along shortest paths; the same cost on one level, at two budgets, and on one that is
    shown the true way; the straight line, which is the distance of their latents, on both and on one,
    at three budgets; and none.
    """
    straight = settings_of(model, "latent", 2)["latent-2-patient-small"]
    return [
        Method.of("default", planner_for(model)),
        Method.of("straight-2-levels", straight),
        *(Method.of(f"straight{times(n)}", with_cost(_more(n), "latent")) for n in (1, 4, 16)),
        *(Method(SAME, f"paths{times(n)}", with_cost(_more(n), "learned")) for n in (1, 4)),
        Method("control:oracle-subgoals", "ahead-2", planner_for(model)[:1], ahead=2),
        Method("control:random", "uniform"),
    ]


def _more(count: int) -> tuple[PlannerConfig, ...]:
    """Flat planning with so many times the candidates."""
    return replace(ALONG_PATHS, candidates=count * ALONG_PATHS.candidates).levels


def deeper(model: ModelConfig) -> list[Method]:
    """All levels."""
    return [Method.of(f"levels-{len(model.levels)}", planner_for(model))]


def on_own(model: ModelConfig) -> list[Method]:
    """Two levels, the upper one by its latent."""
    return [Method.of("own-latents", settings_of(model, "upper", 2)["upper-2-patient-small"])]


def matched(model: ModelConfig) -> list[Method]:
    """One level, in both distances."""
    return [
        Method.of("matched-straight", with_cost(ALONG_PATHS.levels, "latent")),
        Method(SAME, "matched-paths", with_cost(ALONG_PATHS.levels, "learned")),
    ]


def others(model: ModelConfig, train: TrainConfig) -> tuple[Trained, ...]:
    """What else is compared: more levels; an upper level with a latent of its own, whose distance is
    descended; and one level with as many parameters as the two have.
    """
    fine, above = model.levels
    third = replace(above, stride=3, spacing=1.5 * above.spacing, rollout=2)
    fourth = replace(above, stride=2, spacing=2.0 * above.spacing, rollout=1)
    own = LevelConfig(latent_dim=16, stride=above.stride, action_dim=8, rollout=3)
    encoder, first, second = train.stages

    def only(level: int) -> TrainConfig:
        return replace(train, stages=(replace(second, levels=(level,)),))

    wide = replace(fine, width=MATCHED)
    alone = replace(train, stages=(encoder, replace(first, steps=first.steps + second.steps)))
    levels = (fine, above, third, fourth)
    return (
        Trained("levels-3", replace(model, levels=levels[:3]), only(2), deeper, "base"),
        Trained("levels-4", replace(model, levels=levels), only(3), deeper, "levels-3"),
        Trained("own-latents", replace(model, levels=(fine, own)), train, on_own),
        Trained("matched", replace(model, levels=(wide,)), alone, matched),
    )


_MODEL = ModelConfig(
    levels=(
        _FINE,
        replace(
            _FINE,
            latent="shared",
            stride=10,
            action_dim=8,
            width=192,
            glimpse=9,
            spacing=4.8,
            rollout=3,
        ),
    ),
    encoder=EncoderConfig(kind="keypoints", grid=16),
)
_TRAIN = TrainConfig(
    stages=(
        StageConfig((), 200, 64, train_encoder=True, learning_rate=4e-3),
        StageConfig((0,), 1500, 128, learning_rate=3e-3),
        StageConfig((1,), 1000, 128, learning_rate=3e-3),
    ),
    ema=0.0,
    num_threads=1,
)

DIVERSE_MAZE = Benchmark(
    name="diverse-maze",
    title="Diverse Maze",
    task=MazeTask(radius=0.5),
    budgets={"5-8": 365, "9-12": 365, "13-16": 485},
    unit="path from start to goal, in cells",
    published={
        "HWM, flat": {"5-8": 100, "9-12": 63, "13-16": 44},
        "HWM, hierarchical": {"5-8": 100, "9-12": 95, "13-16": 83},
    },
    collection=CollectConfig(
        episodes=1500,
        kind="open",
        maze_size=8,
        mazes=25,
        correlations=(0.5, 0.9, 0.97),
        speed=5.0,
    ),
    collect=collect,
    model=_MODEL,
    train=_TRAIN,
    trials=trials,
    methods=methods,
    others=others(_MODEL, _TRAIN),
)
"""published: arXiv 2604.03208, 2 trials a layout, a model trained on 5 million transitions"""


class DiverseMaze(Run):
    """HWM's protocol: 25 layouts to train on, 20 others to be judged in, goals at three distances.

    Stopped at any moment, it goes on where it was.
    """

    benchmark: ClassVar[Benchmark] = DIVERSE_MAZE
