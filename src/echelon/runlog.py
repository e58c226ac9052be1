"""What a training run writes down as it goes: lines of JSON, and the same for TensorBoard."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from echelon.files import write_atomically


class RunLog:
    """log.jsonl and tensorboard/ of a run folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "log.jsonl"
        self._writer: Any = None

    def add(self, stage: int, step: int, total: int, figures: dict[str, float]) -> None:
        """One line. `step`: done in this stage; `total`: done in all stages."""
        line = {"stage": stage, "step": step, "time": round(time.time(), 1), **figures}
        with self._file.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder / "tensorboard"))
        for name, value in figures.items():
            self._writer.add_scalar(name, value, total)

    def cut(self, stage: int, step: int) -> None:
        """Drop what was logged after a point that training goes back to, and half a line."""
        if not self._file.exists():
            return
        kept = [
            line
            for line in self._file.read_text().splitlines(keepends=True)
            if line.endswith("}\n") and _place(line) <= (stage, step)
        ]
        write_atomically(self._file, "".join(kept).encode())


def _place(line: str) -> tuple[int, int]:
    entry = json.loads(line)
    return entry["stage"], entry["step"]
