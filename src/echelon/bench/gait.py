"""Where the gait of OGBench's ant comes from: a search over its numbers, by how far it walks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from echelon.config import OptimizerConfig
from echelon.envs.ant_maze import advance, simulation, standing
from echelon.envs.ant_views import PLACE, TURN
from echelon.envs.gait import Gait, Walker, upright
from echelon.envs.task import Array
from echelon.evaluation import command, commit
from echelon.files import write_json
from echelon.planning.optimizers import optimizer_of
from echelon.progress import Progress
from echelon.types import ActionPrior, EchelonError

NOISE = 0.2
"""standard deviation of what is added to each action"""
SECOND = 10
"""steps"""
FREE = np.array([2.0, 2.0])
"""amid four cells that no walls part"""
OFF = (0.0, 0.4, -0.4, 0.7, -0.7)
"""radians from which the direction to walk in differs from that of the side in front"""
AGAIN = 8
"""of the best gaits, which walk for longer, from headings all around, before one is taken"""
AROUND = tuple(np.linspace(-np.pi, np.pi, 24, endpoint=False).tolist())
LONGER = 5
"""times"""
WALKS = 96
"""that a gait is judged by"""
UNSEEN = 7001
"""seed of the noise and headings that a gait is judged by"""
DIGITS = 3

_ALL = ((1.0, 1.0), (1.0, 1.0))
_NONE = ((0.0, 0.0), (0.0, 0.0))
_BROAD = Gait(
    period=3.0,
    stiff=0.5,
    damped=0.05,
    amplitude=((0.5, 0.5), (0.5, 0.5)),
    phase=((1.5, 1.5), (1.5, 1.5)),
    offset=((0.4, 0.4), (0.4, 0.4)),
    to_left=((0.3, 0.3), (0.3, 0.3)),
    more_left=((0.4, 0.4), (0.4, 0.4)),
)


@dataclass(frozen=True)
class GaitSearch:
    """Search for a gait from legs that swing alike, by the cross-entropy method that plans are made
    with; and say how fast it walks, in walks that it was not chosen by.
    """

    rounds: int = 40
    candidates: int = 48
    """gaits a round"""
    seconds: float = 4.0
    """that each walks from each of five headings"""
    seed: int = 0
    out: Path = Path("results/gait.json")

    def __call__(self) -> None:
        if self.rounds < 1 or self.candidates < AGAIN or self.seconds <= 0:
            raise EchelonError(
                f"gait: at least 1 round of {AGAIN} candidates that walk for some time"
            )
        found = searched(self, Progress())
        figures = walks(found, WALKS, LONGER * self.seconds)
        asked = {"rounds": self.rounds, "candidates": self.candidates, "seed": self.seed}
        about = {"command": command(), "commit": commit()}
        write_json(self.out, {"numbers": found.numbers.tolist(), **asked, **figures, **about})
        print(found, figures, sep="\n")


def searched(asked: GaitSearch, progress: Progress) -> Gait:
    """The gait that comes farthest along its way, less half of how far it comes off it: of the best
    that were found, which had luck too, the one that goes on doing so.
    """
    mean, std = (torch.tensor(gait.numbers, dtype=torch.float32) for gait in (start(), _BROAD))
    low, high = mean - 4 * std, mean + 4 * std
    low[:3] = torch.tensor([4.0, 0.2, 0.0])
    config = OptimizerConfig(
        "cem", asked.candidates, asked.rounds, asked.candidates // 4, correlation=0.0
    )
    with progress.task("search", asked.rounds * asked.candidates) as done:

        def cost(numbers: Tensor) -> Tensor:
            found: list[float] = []
            for row in numbers[0, :, 0].double().numpy():
                found.append(-score(Gait.of(row), asked.seconds, asked.seed))
                done(None)
            return torch.tensor([found])

        best, _ = optimizer_of(config).minimize(
            cost,
            mean[None, None],
            torch.zeros(1, dtype=torch.bool),
            ActionPrior(mean, std, low, high),
            torch.Generator().manual_seed(asked.seed),
            keep=AGAIN,
        )
    some = [Gait.of(row) for row in best[0, :, 0].double().numpy().round(DIGITS)]
    return max(some, key=lambda gait: score(gait, LONGER * asked.seconds, asked.seed + 1, AROUND))


def start() -> Gait:
    """Legs that all swing alike."""
    return Gait(10.0, 1.0, 0.1, _ALL, _NONE, _NONE, _NONE, _NONE)


def score(gait: Gait, seconds: float, seed: int, off: Sequence[float] = OFF) -> float:
    """Metres a second along the way, less half of those beside it, the mean of all headings; a walk
    that ends in a fall counts for nothing.
    """
    along, beside, up = walk(gait, seconds, seed, off)
    return float(((along - 0.5 * beside) * (up > 0)).mean() / seconds)


def walks(gait: Gait, count: int, seconds: float = 20.0) -> dict[str, Any]:
    """How a gait does in so many long walks of other noise."""
    off = np.random.default_rng(UNSEEN).uniform(-np.pi, np.pi, count)
    along, beside, up = walk(gait, seconds, UNSEEN, off.tolist())
    return {
        "walks": count,
        "metres_a_second": round(float(along.mean() / seconds), 2),
        "slowest": round(float(along.min() / seconds), 2),
        "beside": round(float(beside.mean() / seconds), 2),
        "fell": int((up < 0).sum()),
    }


def walk(gait: Gait, seconds: float, seed: int, off: Sequence[float]) -> tuple[Array, Array, Array]:
    """Metres along the way, metres beside it, and how upright it ended, each [N], of walks that begin
    so far off their way. Nothing is ever in the way: what was walked is taken back.
    """
    world, ends = simulation(), list[tuple[float, float, float]]()
    for number, angle in enumerate(off):
        rng = np.random.default_rng((seed, number))
        state, walker, went = standing(FREE), Walker(int(rng.integers(100)), gait), np.zeros(2)
        state[TURN] = np.cos(angle / 2), 0.0, 0.0, np.sin(angle / 2)
        home = state[PLACE].copy()
        for _ in range(round(SECOND * seconds)):
            noise = NOISE * rng.normal(size=8)
            state = advance(world, state, walker.torques(state, 0.0) + noise)
            went += state[PLACE] - home
            state[PLACE] = home
        ends.append((went[0], abs(went[1]), float(upright(state))))
    along, beside, up = np.array(ends).T
    return along, beside, up
