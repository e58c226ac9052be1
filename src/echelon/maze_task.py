"""What is known of the maze that models never see, for the signals of training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from echelon.data.episodes import Episodes
from echelon.envs import layouts
from echelon.envs.layouts import Layout
from echelon.evaluation import Method, make_trials, run_trials
from echelon.models.hierarchy import Hierarchy
from echelon.presets import planner_for
from echelon.progress import Progress

TRIALS = 12
BUDGET = 300
"""environment steps a trial"""


@dataclass(frozen=True)
class MazeTask:
    """True distances, and a few trials that no setting is judged by; see :class:`signals.Task`."""

    layout: Layout
    places: NDArray[np.float64]
    """[N, 2] of every frame of the episodes"""
    action_repeat: int
    far: float = 6.0
    """cells"""

    @staticmethod
    def of(episodes: Episodes) -> MazeTask | None:
        """The task of episodes that were collected in a maze, else None."""
        meta = episodes.meta
        if meta.get("task") != "point-maze":
            return None
        layout = np.array(meta["layout"], np.int8)
        return MazeTask(layout, episodes.column("state")[:, :2], meta["action_repeat"])

    def away(self, rows: NDArray[np.int64], goals: NDArray[np.int64]) -> NDArray[np.float64]:
        """Shortest paths in cells, frames [N, T] to frames [G] ``-> [N, T, G]``."""
        cells = np.floor(self.places).astype(int)
        fields = [layouts.distances(self.layout, (int(r), int(c))) for r, c in cells[goals]]
        here = cells[rows]
        return np.stack([field[here[..., 0], here[..., 1]] for field in fields], -1).astype(float)

    def plan(self, model: Hierarchy) -> dict[str, float]:
        """Success and TFLOPs an episode of the model's usual planner, far goals."""
        method = Method("hierarchical", "signals", planner_for(model.config))
        trials = make_trials(self.layout, TRIALS, 0, "tune", ("9+",))
        found = run_trials(
            model, method, trials, BUDGET, self.action_repeat, 0, Progress(quiet=True)
        )
        return {
            "success": float(found.success.mean()),
            "tflops": 2e-12 * float(found.macs.mean()),
        }
