"""Every page that shows results, in one list."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from echelon.bench.ablation import Ablation
from echelon.bench.ant_maze import AntMazeBench
from echelon.bench.compare import Compare
from echelon.bench.cube import CubeBench
from echelon.bench.diverse_maze import DiverseMaze
from echelon.bench.foreign import Foreign
from echelon.bench.four_room import FourRoomDistractors
from echelon.bench.peers import Peers
from echelon.bench.planning import Planning
from echelon.bench.push_t import PushTBench
from echelon.records import load
from echelon.report import Page
from echelon.report.planning import far_goals
from echelon.report.published import overview

TASKS = (DiverseMaze(), FourRoomDistractors(), PushTBench(), CubeBench(), AntMazeBench())
BENCHMARKS = (*TASKS, *(replace(task, preset="gpu") for task in TASKS))


def overview_of(results: Path) -> str:
    """All published tasks that have records, in one table."""
    found = {
        run.task.title: (load(path), run.task.published)
        for run in BENCHMARKS
        if (path := results / run.task.name / "records.json").exists()
    }
    return overview(found) if found else ""


def far_goals_of(results: Path) -> str:
    """Costs by levels, where goals are far."""
    path = results / "planning" / "table.json"
    return far_goals(load(path)) if path.exists() else ""


PAGES = (
    Compare().shows,
    Page(
        Path("README.md"),
        Path("results"),
        {"benchmarks": overview_of, "planning-far": far_goals_of},
    ),
    Ablation().shows,
    Foreign().shows,
    *(run.shows for run in BENCHMARKS),
    Planning().shows,
    Peers().shows,
)


@dataclass(frozen=True)
class Tables:
    """Bring every table and picture that can be made of the records alone up to date with them.

    Works on the README, docs/ and results/ of the folder that it is run in. Nothing is trained.
    """

    def __call__(self) -> None:
        for page in PAGES:  # none is written where another cannot be
            page.check()
        for page in PAGES:
            page.write()
