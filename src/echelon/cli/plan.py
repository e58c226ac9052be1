"""Plans, and trials of planners."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from echelon.cli.options import Positional, read_planner
from echelon.config import Precision, faster
from echelon.presets import planner_for
from echelon.progress import Progress
from echelon.types import EchelonError

if TYPE_CHECKING:
    from echelon.decoder import Decoder
    from echelon.models.hierarchy import Hierarchy


@dataclass(frozen=True)
class Evaluate:
    """Paired trials of planners in the layouts that a checkpoint was trained in."""

    checkpoint: Positional[Path]
    out: Path
    """run folder for records.json and report.html"""
    planner: tuple[Path, ...] = ()
    """JSON files, each a list of planner settings, level 0 first ('echelon inspect --planner' prints
    one); one level plans flat. 'auto' chooses one by measurement, on trials of its own. None compares
    what the demo compares"""
    success: float = 0.95
    """share of trials that --planner auto is to reach, at the least compute"""
    precision: Precision | None = None
    """of all planners' predictors; None as their settings say"""
    compile: bool = False
    """evaluate candidates by compiled code, where there is a compiler"""
    trials: int = 100
    """in each distance bin"""
    budget: int = 500
    """environment steps a trial"""
    seed: int = 0
    """of the trials"""

    def __call__(self) -> None:
        from echelon import report
        from echelon.experiment import evaluate_checkpoint

        auto = Path("auto") in self.planner
        files = [path for path in self.planner if path != Path("auto")]
        settings = {path.stem: read_planner(path) for path in files}
        if len(settings) < len(files) or (auto and "auto" in settings):
            raise EchelonError("planner: records go by the files' names; give each its own")
        records = evaluate_checkpoint(
            self.checkpoint,
            self.out,
            settings,
            self.trials,
            self.budget,
            self.seed,
            Progress(),
            self.success if auto else None,
            self.precision,
            self.compile,
        )
        print(report.summary(records))


@dataclass(frozen=True)
class Plan:
    """One plan from an image to a goal image, as JSON: actions, subgoals, what it took."""

    checkpoint: Positional[Path]
    observation: Path
    """PNG of now"""
    goal: Path
    """PNG of the goal"""
    planner: Path | None = None
    """JSON list of planner settings; None takes the model's own"""
    picture: Path | None = None
    """PNG to draw the plan into"""
    episodes: Path | None = None
    """HDF5 file whose frames stand for predicted states in the picture"""
    decoder: Path | None = None
    """file of 'echelon decoder', which draws predicted states into the picture"""
    budget_tflops: float | None = None
    """2 x multiply-accumulates that the plan may take, in 1e12; searches are scaled to it"""
    budget_ms: float | None = None
    """milliseconds that it may take"""
    precision: Precision | None = None
    """of the predictors; None as the settings say"""
    compile: bool = False
    """evaluate candidates by compiled code, where there is a compiler"""
    seed: int = 0

    def __call__(self) -> None:
        from echelon.agent import Agent
        from echelon.checkpoint import load_model
        from echelon.decoder import load_decoder
        from echelon.images import read_png
        from echelon.planning.ledger import Budget
        from echelon.report.plan import plan_picture

        if self.episodes and not self.picture:
            raise EchelonError("episodes: are looked through for the picture; give --picture too")
        if self.decoder and not self.picture:
            raise EchelonError("decoder: draws into the picture; give --picture too")
        model = load_model(self.checkpoint)
        decoder = load_decoder(self.decoder, model) if self.decoder else None
        settings = read_planner(self.planner) if self.planner else planner_for(model.config)
        settings = faster(settings, self.precision, self.compile)
        budget = Budget(self.budget_tflops, self.budget_ms)
        agent = Agent.of(model, settings, self.seed, budget=budget)
        observation, goal = read_png(self.observation), read_png(self.goal)
        agent.reset(goal)
        agent.act(observation)
        found = agent.explain()
        if self.picture:
            images = self._images(model, found["levels"], decoder)
            plan_picture(found["levels"], observation, goal, images, self.picture)
        print(json.dumps(found, indent=1))

    def _images(self, model: Hierarchy, levels: Any, decoder: Decoder | None) -> dict[str, Any]:
        """What stands for the predicted states of the upper levels, or of the only one."""
        import torch

        from echelon.data.episodes import Episodes
        from echelon.decoder import decoded
        from echelon.nearest import nearest_frames

        shown = [level for level in levels if level["level"]] or levels
        latents = {level["level"]: torch.tensor(level["predicted"]) for level in shown}
        rows: dict[str, Any] = {}
        if self.episodes:
            rows["nearest frame"] = nearest_frames(model, Episodes.open(self.episodes), latents)
        if decoder:
            rows["decoded"] = decoded(decoder, model, latents)
        return rows


@dataclass(frozen=True)
class Report:
    """Make report.html anew from a run folder's records."""

    run: Positional[Path]

    def __call__(self) -> None:
        from echelon.report import write_report

        print(write_report(self.run))
