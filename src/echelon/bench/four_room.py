"""H-JEPA's FourRoom Distractors: rooms to be crossed, whose doors may be closed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from echelon.bench import diverse_maze
from echelon.bench.benchmark import Benchmark, Run
from echelon.bench.diverse_maze import DIVERSE_MAZE
from echelon.config import DistanceConfig, EncoderConfig, ModelConfig
from echelon.data.episodes import Episodes
from echelon.envs import four_room
from echelon.envs.four_room import SPLITS, FourRoomCollect, FourRoomTask
from echelon.envs.task import Trial
from echelon.evaluation import Method
from echelon.experiment import FLAT_CHEAP, FLAT_MORE
from echelon.presets import with_cost

BUDGET = 210
"""environment steps a trial, as H-JEPA's"""

_FINE, _ABOVE = (
    replace(level, distance=DistanceConfig(kind="paths", resolution=56, clearance=0))
    for level in DIVERSE_MAZE.model.levels
)


def trials(mine: Benchmark, _: Episodes, each: int, seed: int) -> Sequence[Trial]:
    """A split after the other, each trial with doors of its own."""
    found = [four_room.make_trials(split, each, seed, "test") for split in mine.budgets]
    return [trial for split in found for trial in split]


def flat(model: ModelConfig) -> list[Method]:
    """As in the Diverse Maze; and by the straight line as far ahead as trials last, at two budgets."""
    far = [Method.of(s.name, with_cost(s.levels, "latent")) for s in (FLAT_CHEAP, FLAT_MORE)]
    return [*diverse_maze.flat(model), *far]


_MODEL = replace(
    DIVERSE_MAZE.model,
    levels=(replace(_FINE, spacing=1.0), replace(_ABOVE, spacing=1.5)),
    encoder=EncoderConfig(kind="keypoints", grid=14, apart=10),
    image_size=56,
)
_ENCODER, _LOWER = diverse_maze.TRAIN.stages
_TRAIN = replace(diverse_maze.TRAIN, stages=(replace(_ENCODER, steps=600), _LOWER))

FOUR_ROOM = Benchmark(
    name="four-room",
    title="Four rooms",
    task=FourRoomTask(),
    budgets=dict.fromkeys(SPLITS, BUDGET),
    unit="doors on the way",
    published={
        "LeWM, flat": {"2-doors": 40.7},
        "H-JEPA, 3 levels": {"2-doors": 96.0},
        "HWM-style, 3 levels": {"2-doors": 99.3},
    },
    collection=FourRoomCollect(episodes=300),
    collect=four_room.collect,
    model=_MODEL,
    train=diverse_maze.only(1),
    trials=trials,
    methods=diverse_maze.methods,
    others=diverse_maze.others(_MODEL, _TRAIN, flat),
    start="one-level",
)
"""published: arXiv 2610.06805, 3 models and 50 tasks, each planned with under 100 TFLOPs; tasks cross
two rooms"""


class FourRoomDistractors(Run):
    """H-JEPA's protocol: doors are closed with probability 0.5, and something teleports; goals behind
    one, two and three doors.

    Stopped at any moment, it goes on where it was.
    """

    benchmark: ClassVar[Benchmark] = FOUR_ROOM
