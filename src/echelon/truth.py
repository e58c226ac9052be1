"""What is known of the maze that models never see, for the signals of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from echelon.data.episodes import Episodes
from echelon.envs import layouts
from echelon.envs.layouts import Layout
from echelon.envs.mazes import MazeTask, farthest, spread_trials
from echelon.evaluation import Method, run_trials
from echelon.models.hierarchy import Hierarchy
from echelon.presets import planner_for
from echelon.progress import Progress

TRIALS = 12
BUDGET = 300
"""environment steps a trial"""


@dataclass(frozen=True)
class MazeTruth:
    """True distances, and a few trials that no setting is judged by; see :class:`signals.Truth`."""

    task: MazeTask
    layouts: Sequence[Layout]
    which: NDArray[np.int64]
    """[N] layout of every frame of the episodes"""
    places: NDArray[np.float64]
    """[N, 2] in cells"""
    far: float = 6.0
    """cells"""

    @staticmethod
    def of(episodes: Episodes) -> MazeTruth | None:
        """The truth of episodes that were collected in mazes, else None."""
        task = MazeTask.of(episodes.meta)
        if task is None:
            return None
        found = MazeTask.layouts_of(episodes.meta)
        places = episodes.column("state")[:, :2]
        alone = np.zeros(len(places), np.int64)
        which = episodes.column("layout") if len(found) > 1 else alone
        return MazeTruth(task, found, which, places)

    def away(self, rows: NDArray[np.int64], goals: NDArray[np.int64]) -> NDArray[np.float64]:
        """Shortest paths in cells, frames [N, T] to frames [G] ``-> [N, T, G]``; not a number between
        frames of two layouts.
        """
        cells = np.floor(self.places).astype(int)
        here = cells[rows]
        found: list[NDArray[np.float64]] = []
        for goal in goals:
            row, column = cells[goal]
            field = layouts.distances(self.layouts[int(self.which[goal])], (row, column))
            away = field[here[..., 0], here[..., 1]].astype(float)
            found.append(np.where(self.which[rows] == self.which[goal], away, np.nan))
        return np.stack(found, -1)

    def plan(self, model: Hierarchy) -> dict[str, float]:
        """Success and TFLOPs an episode of the model's usual planner, for goals as far as there are any
        in all layouts; nothing where there are none.
        """
        method = Method("hierarchical", "signals", planner_for(model.config))
        some = self.layouts[:TRIALS]
        split = farthest(some, "tune")
        if split is None:
            return {}
        trials = spread_trials(some, TRIALS, 0, "tune", (split,))
        found = run_trials(model, method, trials, BUDGET, self.task, 0, Progress(quiet=True))
        return {
            "success": float(found.success.mean()),
            "tflops": 2e-12 * float(found.macs.mean()),
        }
