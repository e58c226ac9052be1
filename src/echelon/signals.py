"""What tells of planning success while training goes on: figures of held-out clips, not losses.

For each level: how far its open-loop prediction stays better than predicting no change or the mean,
whether its distance grows with time apart, and whether a step of true progress lowers it. Where the
task of the episodes is known, true progress is what the task says, and a few trials are planned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from echelon.data.episodes import Episodes
from echelon.data.windows import coarsen
from echelon.geometry import hindsight, sign_agreement, time_correlation
from echelon.models.hierarchy import Hierarchy, Level
from echelon.planning.planner import rollout
from echelon.types import Window, tree_map

CLIPS = 48
"""held-out clips at most"""
LONGEST = 200
"""steps of a clip at most"""
GOALS = 16
"""frames that progress is measured towards"""


class Truth(Protocol):
    """What somebody who knows the environment adds; models and planners never see it."""

    @property
    def far(self) -> float:
        """True distance from which on sign agreement is counted."""
        ...

    def away(self, rows: NDArray[np.int64], goals: NDArray[np.int64]) -> NDArray[np.float64]:
        """True distance from frames [N, T] to frames [G] of the episodes, ``[N, T, G]``."""
        ...

    def plan(self, model: Hierarchy) -> dict[str, float]:
        """Success and compute of a few trials, by name."""
        ...


@dataclass(frozen=True)
class Signals:
    """Figures of a model in training, on clips that were held out of it."""

    inputs: dict[str, Tensor]
    """frames [N, T + context, ...], and proprioception"""
    actions: Tensor
    """[N, T, A]"""
    away: Tensor | None
    """[N, T + 1, G] true distances to the last frames of the first G clips, and `far`"""
    far: float

    @staticmethod
    def of(
        episodes: Episodes, ids: NDArray[np.int64], model: Hierarchy, truth: Truth | None
    ) -> Signals:
        """On clips of equal length, from episodes `ids` that are no shorter than their median."""
        length = min(int(np.median(episodes.lengths[ids])), LONGEST + model.context)
        long = ids[episodes.lengths[ids] >= length][:CLIPS]
        rows = episodes.offsets[long][:, None] + np.arange(length)
        inputs = {"pixels": torch.from_numpy(episodes.pixels[rows])}
        if column := model.config.proprio:
            inputs["proprio"] = torch.from_numpy(episodes.column(column)[rows].astype(np.float32))
        seen = rows[:, model.context - 1 :]
        away = None
        if truth is not None:
            away = torch.from_numpy(truth.away(seen, seen[:GOALS, -1])).float()
        actions = torch.from_numpy(episodes.actions[seen[:, :-1]])
        return Signals(inputs, actions, away, truth.far if truth is not None else 0.0)

    @torch.no_grad()
    def __call__(self, model: Hierarchy, levels: tuple[int, ...]) -> dict[str, float]:
        """Figures of `levels`, named ``level0/open_loop/8`` and so on; errors are root mean squares."""
        device = next(model.parameters()).device
        inputs = tree_map(lambda x: x.to(device), self.inputs)
        window = Window(model.levels[0].lift(inputs), self.actions.to(device))
        away, found = self.away, dict[str, float]()
        for index, level in enumerate(model.levels[: max(levels) + 1]):
            if index:
                window = coarsen(window, level.stride, level.lift, level.encode_action)
                away = (
                    None
                    if away is None
                    else away[:, :: level.stride][:, : window.actions.shape[1] + 1]
                )
            if index not in levels or window.actions.shape[1] == 0:
                continue
            z = window.states["z"]

            def distance(a: Tensor, b: Any, level: Level = level) -> Tensor:
                return level.distance({"z": a}, {"z": b} if isinstance(b, Tensor) else b)

            first = tree_map(lambda x: x[:, 0], window.states)
            predicted = rollout(level, first, window.actions[:, None])["z"][:, 0]
            name = f"level{index}"
            found[f"{name}/mean"] = _rms(z - z.mean((0, 1)))
            for step in (2**power for power in range(16)):
                if step <= predicted.shape[1]:
                    found[f"{name}/open_loop/{step}"] = _rms(predicted[:, step - 1] - z[:, step])
                    found[f"{name}/no_change/{step}"] = _rms(z[:, 0] - z[:, step])
            steps, ends = z.shape[1], tree_map(lambda x: x[:, -1], window.states)
            if away is not None:
                some = tree_map(lambda x: x[:GOALS], ends)
                goals = level.aim("level", some, some)
                agrees = sign_agreement(distance, z, goals, away.to(device), self.far)
            else:
                truth, goals = hindsight(steps, device).expand(len(z), -1, -1), z
                if level.paths is not None:  # the ways to a goal are measured for a few goals only
                    goals = tree_map(lambda x: x[:, None], level.aim("level", ends, ends))
                    truth = truth[..., -1:]
                agrees = sign_agreement(distance, z, goals, truth, far=steps / 2)
            for what, value in (
                ("sign_agreement", agrees),
                ("time_correlation", time_correlation(distance, z)),
            ):
                if value is not None:
                    found[f"{name}/{what}"] = value
        return found


def _rms(error: Tensor) -> float:
    return error.square().mean().sqrt().item()


def good_for(level: int, found: dict[str, float]) -> int | None:
    """Steps to which a level predicts better than no change and the mean; None if none was measured."""
    steps = [int(k.split("/")[2]) for k in found if k.startswith(f"level{level}/open_loop/")]
    better = [
        k
        for k in steps
        if found[f"level{level}/open_loop/{k}"]
        < min(found[f"level{level}/no_change/{k}"], found[f"level{level}/mean"])
    ]
    return max(better, default=0) if steps else None


def in_words(level: int, found: dict[str, float]) -> str:
    """One line of what the signals say of a level."""
    last = good_for(level, found) or 0
    says = [f"  level {level}: predicts better than no change and the mean to {last} steps"]
    for name in ("time_correlation", "sign_agreement"):
        if (value := found.get(f"level{level}/{name}")) is not None:
            says.append(f"{name.replace('_', ' ')} {value:.2f}")
    return ", ".join(says)
