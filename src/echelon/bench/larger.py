"""A published task at the size that a GPU carries: more data, in larger batches."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from echelon.config import ModelConfig, TrainConfig

if TYPE_CHECKING:
    from echelon.bench.benchmark import Benchmark

EPISODES = 8
"""times as many, and as many that a model keeps to recall"""
BATCH = 4
"""times as large, for as many steps"""


def larger(mine: Benchmark) -> Benchmark:
    """The same task, models, methods and trials a split, under a name of its own."""
    collection = replace(mine.collection, episodes=EPISODES * mine.collection.episodes)
    others = tuple(
        replace(other, model=_remembering(other.model), train=_in_batches(other.train))
        for other in mine.others
    )
    return replace(
        mine,
        name=f"{mine.name}-gpu",
        title=f"{mine.title}, on a GPU",
        collection=collection,
        model=_remembering(mine.model),
        train=_in_batches(mine.train),
        others=others,
    )


def _remembering(model: ModelConfig) -> ModelConfig:
    return replace(model, recall=EPISODES * model.recall)


def _in_batches(train: TrainConfig) -> TrainConfig:
    stages = (replace(stage, batch_size=BATCH * stage.batch_size) for stage in train.stages)
    return replace(train, stages=tuple(stages))
