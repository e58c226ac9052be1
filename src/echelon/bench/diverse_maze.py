"""HWM's Diverse Maze: goals in layouts that no episode was logged in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from echelon.bench.benchmark import SAME, Benchmark, Methods, Run, Trained, times
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
    """Two levels along shortest paths, and by the straight line, which is the distance of their
    latents; the lower one, shown the true way; and none.
    """
    straight = settings_of(model, "latent", 2)["latent-2-patient-small"]
    return [
        Method.of("default", planner_for(model)),
        Method.of("straight-2-levels", straight),
        Method("control:oracle-subgoals", "ahead-2", planner_for(model)[:1], ahead=2),
        Method("control:random", "uniform"),
    ]


def flat(_: ModelConfig) -> list[Method]:
    """One level: by the straight line, at three budgets; and along shortest paths, at two."""
    return [
        *(Method.of(f"straight{times(n)}", with_cost(_more(n), "latent")) for n in (1, 4, 16)),
        *(Method(SAME, f"paths{times(n)}", with_cost(_more(n), "learned")) for n in (1, 4)),
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


def only(level: int) -> TrainConfig:
    """One level above, with what lies below as it is."""
    return replace(TRAIN, stages=(replace(_UPPER, levels=(level,)),))


def others(model: ModelConfig, train: TrainConfig, flat: Methods) -> tuple[Trained, ...]:
    """What else is compared: one level, which the two are trained on top of; more levels; an upper
    level with a latent of its own, whose distance is descended; and one level with as many parameters
    as the two have, trained for as long.

    train: one level. flat: what is judged with it.
    """
    fine, above = model.levels
    third = replace(above, stride=3, spacing=1.5 * above.spacing, rollout=2)
    fourth = replace(above, stride=2, spacing=2.0 * above.spacing, rollout=1)
    own = LevelConfig(latent_dim=16, stride=above.stride, action_dim=8, rollout=3)
    encoder, lower = train.stages
    longer = replace(train, stages=(encoder, replace(lower, steps=lower.steps + _UPPER.steps)))

    def of(*levels: LevelConfig) -> ModelConfig:
        return replace(model, levels=levels)

    return (
        Trained("one-level", of(fine), train, flat),
        Trained("levels-3", of(fine, above, third), only(2), deeper, "base"),
        Trained("levels-4", of(fine, above, third, fourth), only(3), deeper, "levels-3"),
        Trained("own-latents", of(fine, own), only(1), on_own, "one-level"),
        Trained("matched", of(replace(fine, width=MATCHED)), longer, matched),
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
_ENCODER = StageConfig((), 200, 64, train_encoder=True, learning_rate=4e-3)
_LOWER = StageConfig((0,), 1500, 128, learning_rate=3e-3)
_UPPER = StageConfig((1,), 1000, 128, learning_rate=3e-3)
TRAIN = TrainConfig(stages=(_ENCODER, _LOWER), ema=0.0, num_threads=1)
"""one level"""

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
    train=only(1),
    trials=trials,
    methods=methods,
    others=others(_MODEL, TRAIN, flat),
    start="one-level",
)
"""published: arXiv 2604.03208, 2 trials a layout, a model trained on 5 million transitions"""


class DiverseMaze(Run):
    """HWM's protocol: 25 layouts to train on, 20 others to be judged in, goals at three distances.

    Stopped at any moment, it goes on where it was.
    """

    benchmark: ClassVar[Benchmark] = DIVERSE_MAZE
