"""Is a training that was killed the training that was not?"""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from echelon.evaluation import command, commit
from echelon.files import write_json
from echelon.types import EchelonError


@dataclass(frozen=True)
class Resume:
    """Kill training ten times at random moments, resume it, and compare with one never stopped."""

    kills: int = 10
    seconds: float = 10.0
    """longest time between kills"""
    steps: tuple[int, int] = (400, 800)
    """of the two stages; training has to outlast the kills"""
    seed: int = 0
    runs: Path = Path("runs/bench/resume")
    out: Path = Path("results/demo")

    def __call__(self) -> None:
        rng = random.Random(self.seed)
        data = self.runs / "episodes.h5"
        base = [sys.executable, "-m", "echelon.cli"]
        if not data.exists():
            subprocess.run([*base, "collect", "maze", str(data), "--episodes", "100"], check=True)
        first, second = map(str, self.steps)
        short = ["--train.stages.0.steps", first, "--train.stages.1.steps", second]
        short += ["--train.checkpoint-seconds", "1"]
        weights: dict[str, str] = {}
        killed: list[float] = []
        for name in ("undisturbed", "killed"):
            folder = self.runs / name
            training = [*base, "train", str(data), "--out", str(folder), *short]
            while name == "killed" and len(killed) < self.kills:
                process = subprocess.Popen(training)
                wait = rng.uniform(2, self.seconds)
                time.sleep(wait)
                if process.poll() is not None:
                    raise EchelonError(
                        f"training ended after {len(killed)} kills; give --steps higher values"
                    )
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed.append(round(wait, 2))
            subprocess.run(training, check=True)
            tensors = (folder / "checkpoint.safetensors").read_bytes()
            weights[name] = hashlib.sha256(tensors).hexdigest()
        equal = weights["undisturbed"] == weights["killed"]
        result = {
            "kills": killed,
            "weights_sha256": weights,
            "equal": equal,
            "command": command(),
            "commit": commit(),
        }
        write_json(self.out / "resume.json", result)
        print(result)
        if not equal:
            raise EchelonError("resumed weights differ from those of the undisturbed run")
