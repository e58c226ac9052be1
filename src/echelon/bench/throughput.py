"""How much of a training step is the model: training as it is, against its model on one batch.

Both are timed in one run, in turns of a few steps, so that whatever else the machine does slows
both alike.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from echelon.config import ModelConfig, TrainConfig, to_dict
from echelon.data.episodes import Episodes
from echelon.demo import DemoConfig
from echelon.evaluation import command, commit
from echelon.files import write_json
from echelon.objective import Objective
from echelon.progress import Progress
from echelon.trainer import Trainer
from echelon.types import EchelonError


@dataclass(frozen=True)
class Throughput:
    """Images a second of the whole training step, and of the bare model on tensors in memory."""

    data: Path = Path("runs/bench/seed-0/episodes.h5")
    steps: int = 100
    """of each stage and kind"""
    turn: int = 10
    """steps of one kind before the other's turn"""
    out: Path = Path("results/throughput.json")

    def __call__(self) -> None:
        config = DemoConfig()
        stages = measure(self, Episodes.open(self.data), config.model, config.train, Progress())
        found = {"threads": torch.get_num_threads(), "stages": stages}
        found |= {"command": command(), "commit": commit()}
        write_json(self.out, found)
        for stage in stages:
            print({name: value for name, value in stage.items() if name != "stage"})


def measure(
    asked: Throughput,
    episodes: Episodes,
    model: ModelConfig,
    train: TrainConfig,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Images a second of each stage of a training, which is cut off after some steps.

    The whole step draws, gathers and holds ready its batch, updates weights and targets, and logs
    and saves as often as ever; the bare model's goes forward and back over the same tensors again
    and again. An image is a frame, or its latent where the encoder is frozen.
    """
    found: list[dict[str, Any]] = []
    for stage in train.stages:
        with TemporaryDirectory() as folder:
            trainer = Trainer(
                episodes, model, replace(train, stages=(stage,)), Path(folder) / "run"
            )
            clock = _Clock(trainer.objective, asked.turn, asked.steps, progress)
            with suppress(_Enough):
                trainer.run(clock)
        found.append({"stage": to_dict(stage), **clock.figures()})
    return found


class _Enough(Exception):
    """All steps are timed."""


class _Clock(Progress):
    """Told of every step of training, it lets the bare model take its turns in between."""

    def __init__(self, objective: Objective, turn: int, steps: int, shown: Progress) -> None:
        super().__init__(quiet=True)
        self._turn, self._steps, self._shown = turn, steps, shown
        self._batch: tuple[Any, ...] | None = None
        self._objective = objective
        self._bare: Objective | None = None
        self._handle = objective.register_forward_pre_hook(self._keep)
        self.seconds = {"whole": 0.0, "bare": 0.0}
        self.images = 0
        self.done = 0

    def _keep(self, _: nn.Module, arguments: tuple[Any, ...]) -> None:
        """The first batch of training, on its device."""
        self._batch, inputs = arguments, arguments[0]
        first = inputs["pixels"] if "pixels" in inputs else inputs["latents"]
        self.images = first.shape[0] * first.shape[1]
        self._handle.remove()

    @contextmanager
    def task(
        self, name: str, total: int, start: int = 0
    ) -> Generator[Callable[[float | None], None]]:
        step, began = 0, 0.0
        with self._shown.task(f"time {name}", self._steps) as advance:

            def timed(loss: float | None = None) -> None:
                nonlocal step, began
                step += 1
                advance(loss)
                if step % self._turn:
                    return
                whole, bare = now() - began, self._run()
                if step > self._turn:  # the first turn of either is a warm-up
                    self.seconds["whole"] += whole
                    self.seconds["bare"] += bare
                    self.done += self._turn
                if self.done >= self._steps:
                    raise _Enough
                began = now()

            yield timed

    def _run(self) -> float:
        """Seconds that the bare model takes for a turn on the batch that was kept."""
        assert self._batch is not None
        if self._bare is None:
            self._bare = copy.deepcopy(self._objective).train()
        began = now()
        for _ in range(self._turn):
            self._bare.zero_grad()
            terms: dict[str, Tensor] = self._bare(*self._batch)
            torch.stack(list(terms.values())).sum().backward()
        return now() - began

    def figures(self) -> dict[str, float]:
        """Images a second of both, and their ratio."""
        if not self.done:
            raise EchelonError(f"turn: training ended before two turns of {self._turn} steps")
        whole, bare = (self.done * self.images / self.seconds[k] for k in ("whole", "bare"))
        return {
            "steps": self.done,
            "whole_images_per_second": round(whole, 1),
            "bare_images_per_second": round(bare, 1),
            "ratio": round(whole / bare, 3),
        }


def now() -> float:
    """The time, once the accelerator is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
