"""Is a collapse told early? Training with nothing that keeps latents apart, and as it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from echelon.config import ModelConfig, TrainConfig
from echelon.data.episodes import Episodes
from echelon.demo import DemoConfig
from echelon.evaluation import command, commit
from echelon.files import write_json
from echelon.progress import Progress
from echelon.trainer import Trainer
from echelon.types import EchelonError

AGAINST = ("variance", "correlation", "log_determinant", "sigreg", "inverse_dynamics")
"""terms that keep latents apart; without them a constant minimises what is left"""


@dataclass(frozen=True)
class Collapse:
    """All levels from images at once, with the terms against collapse and EMA, and without either.

    Writes at which share of training a collapse was told, and what the latents were like.
    """

    data: Path = Path("runs/bench/seed-0/episodes.h5")
    share: float = 0.1
    """of training after which both are cut off"""
    out: Path = Path("results/collapse.json")

    def __call__(self) -> None:
        config = DemoConfig()
        stage = replace(
            config.train.stages[0],
            levels=tuple(range(len(config.model.levels))),
            gradient_below=True,
        )
        train = replace(config.train, stages=(stage,))
        episodes = Episodes.open(self.data)
        found = {
            "as it is": watched(self, episodes, config.model, train, Progress()),
            "planted": watched(
                self, episodes, planted(config.model), replace(train, ema=0.0), Progress()
            ),
        }
        write_json(self.out, {**found, "command": command(), "commit": commit()})
        for name, run in found.items():
            print(name, run)
        if found["as it is"]["told"] or len(found["planted"]["told"]) < len(stage.levels):
            raise EchelonError("a collapse was missed, or told where there is none")


def planted(model: ModelConfig) -> ModelConfig:
    """The same model, with nothing that keeps the latents of any level apart."""
    off = dict.fromkeys(AGAINST, 0.0)
    levels = tuple(replace(level, loss=replace(level.loss, **off)) for level in model.levels)
    return replace(model, levels=levels)


def watched(
    asked: Collapse, episodes: Episodes, model: ModelConfig, train: TrainConfig, shown: Progress
) -> dict[str, Any]:
    """The beginning of a training: what it was warned of, and its latents when 5 % were over."""
    steps = train.stages[0].steps
    with TemporaryDirectory() as folder:
        watch = _Watch(round(asked.share * steps), shown)
        with suppress(_Enough):
            Trainer(episodes, model, train, Path(folder) / "run").run(watch)
        lines = (Path(folder) / "run" / "log.jsonl").read_text().splitlines()
    log = [json.loads(line) for line in lines]
    early = next(line for line in log if line["step"] >= steps // 20)
    figures = {
        name: round(early[name], 4)
        for level in range(len(model.levels))
        for name in (f"level{level}/deviation", f"level{level}/rank")
    }
    told = [{"step": s, "share": round(s / steps, 3), "line": line} for s, line in watch.warnings]
    return {"steps": steps, "told": told, "at_step": early["step"], **figures}


class _Enough(Exception):
    """The share that is watched is over."""


class _Watch(Progress):
    """Keeps warnings, with the step they came at, and stops training after some steps."""

    def __init__(self, steps: int, shown: Progress) -> None:
        super().__init__(quiet=True)
        self._steps, self._shown, self._done = steps, shown, 0
        self.warnings: list[tuple[int, str]] = []

    def warn(self, message: str) -> None:
        self.warnings.append((self._done + 1, message))

    @contextmanager
    def task(
        self, name: str, total: int, start: int = 0
    ) -> Generator[Callable[[float | None], None]]:
        with self._shown.task(name, self._steps) as advance:

            def counted(loss: float | None = None) -> None:
                self._done += 1
                advance(loss)
                if self._done >= self._steps:
                    raise _Enough

            yield counted
