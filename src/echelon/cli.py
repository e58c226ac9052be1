"""The command line. Options are the fields of the configuration classes; unknown ones are refused."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from echelon import schema
from echelon.collect import CollectConfig, collect
from echelon.config import ModelConfig, PlannerConfig, Precision, TrainConfig, faster, to_dict
from echelon.decoder import DecoderConfig
from echelon.demo import DemoConfig
from echelon.limits import in_one_line
from echelon.presets import planner_for
from echelon.progress import Progress
from echelon.types import EchelonError

if TYPE_CHECKING:
    from echelon.data.episodes import Episodes
    from echelon.decoder import Decoder as Drawer
    from echelon.models.hierarchy import Hierarchy

Positional = tyro.conf.Positional
Flat = tyro.conf.arg(name="")


@dataclass(frozen=True)
class Demo:
    """From nothing to a report on two cores in under ten minutes; run again, it resumes."""

    out: Path = Path("runs/demo")
    """run folder"""
    config: Annotated[DemoConfig, Flat] = field(default_factory=DemoConfig)

    def __call__(self) -> None:
        from echelon import demo, report

        progress = Progress()
        progress.say(
            "Echelon: collect, train, plan and compare in a maze; Ctrl-C stops, run again resumes."
        )
        records = demo.run(self.config, self.out, progress)
        print(report.summary(records))
        print(f"\nreport: {(self.out / 'report.html').resolve()}")


@dataclass(frozen=True)
class Collect:
    """Log exploratory trajectories in a generated maze (PointMaze, 64 x 64 images)."""

    out: Positional[Path]
    """HDF5 file to write"""
    config: Annotated[CollectConfig, Flat] = field(default_factory=CollectConfig)

    def __call__(self) -> None:
        _refuse_existing(self.out)
        collect(self.config, self.out, Progress())
        print(self.out)


@dataclass(frozen=True)
class Train:
    """Train a hierarchy on episodes, from images and actions alone; run again, it resumes."""

    data: Positional[Path]
    """HDF5 file of episodes"""
    out: Path
    """run folder"""
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    model_from: Path | None = None
    """JSON of a model, such as 'echelon scales' writes, in place of the --model options; --train.stages
    that train upper levels then train all of its upper levels"""
    train_from: Path | None = None
    """JSON of a training, such as the one in a run's config.json, in place of the --train options:
    any number of stages"""
    levels: Literal["given", "auto"] = "given"
    """auto measures the episodes first and takes depth, strides and rollouts from them, and the rest
    from --model; stages that train upper levels then train all of them"""

    def __call__(self) -> None:
        from echelon.data.episodes import Episodes
        from echelon.proposal import fit_stages, lost_in_training
        from echelon.trainer import Trainer
        from echelon.truth import MazeTruth

        progress, episodes = Progress(), Episodes.open(self.data)
        model, train = self._model(episodes, progress), self._train()
        if self.levels == "auto" or (self.model_from and not self.train_from):
            train = fit_stages(train, len(model.levels))
        trainer = Trainer(episodes, model, train, self.out, MazeTruth.of(episodes))
        for lost in lost_in_training(model, train, episodes.lengths):
            progress.warn(lost)
        trainer.run(progress)
        print(trainer.checkpoint)

    def _train(self) -> TrainConfig:
        from echelon.files import read_json

        if self.train_from is None:
            return self.train
        if self.train != TrainConfig():
            raise EchelonError("train-from: a file says the whole training; leave out --train.*")
        return schema.read(TrainConfig, read_json(self.train_from), str(self.train_from))

    def _model(self, episodes: Episodes, progress: Progress) -> ModelConfig:
        from echelon.files import read_json
        from echelon.measure import measure
        from echelon.proposal import explain, propose

        if self.model_from:
            if self.levels == "auto" or self.model != ModelConfig():
                raise EchelonError(
                    "model-from: a file says the whole model; leave out --levels auto and --model.*"
                )
            return schema.read(ModelConfig, read_json(self.model_from), str(self.model_from))
        if self.levels == "given":
            return self.model
        scales = measure(episodes)
        proposal = propose(scales, replace(self.model, image_size=episodes.image_size))
        progress.say(explain(scales, proposal))
        return proposal.model


@dataclass(frozen=True)
class Scales:
    """Measure how long things last in episodes, and propose depth and strides of a hierarchy."""

    data: Positional[Path]
    """HDF5 file of episodes"""
    checkpoint: Path | None = None
    """a model trained on such episodes: its latents and rollouts are measured, and what is proposed
    keeps its other options; None measures cheap features of the frames"""
    out: Path = Path("runs/scales")
    """folder for scales.json (what was measured), scales.png and model.json, which
    'echelon train --model-from' reads"""
    depth: int | None = None
    """levels to propose; None takes the fewest that do"""

    def __call__(self) -> None:
        from echelon.checkpoint import describe, load_model
        from echelon.data.episodes import Episodes
        from echelon.files import write_json
        from echelon.measure import held_out_of, measure
        from echelon.proposal import explain, propose
        from echelon.report.scales import write_scales

        episodes = Episodes.open(self.data)
        model, held_out, base = None, None, ModelConfig()
        if self.checkpoint:
            model = load_model(self.checkpoint)
            held_out = held_out_of(episodes, describe(self.checkpoint)["about"])
            base = model.config
        found = measure(episodes, model, held_out)
        proposal = propose(found, replace(base, image_size=episodes.image_size), self.depth)
        write_json(self.out / "scales.json", to_dict(found))
        write_json(self.out / "model.json", to_dict(proposal.model))
        write_scales(found, proposal.model, self.out / "scales.png")
        print(explain(found, proposal))
        print(f"\n{self.out / 'scales.png'}\n{self.out / 'model.json'}")


@dataclass(frozen=True)
class Evaluate:
    """Paired trials of planners on the layout that a checkpoint was trained in."""

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
        settings = {path.stem: _planner(path) for path in files}
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
        settings = _planner(self.planner) if self.planner else planner_for(model.config)
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

    def _images(self, model: Hierarchy, levels: Any, decoder: Drawer | None) -> dict[str, Any]:
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
class Decoder:
    """Fit a decoder of images to a trained model, to draw plans with ('echelon plan --decoder'). It
    takes a minute or two; stopped by Ctrl-C, it leaves nothing, and begins again.
    """

    checkpoint: Positional[Path]
    data: Path
    """HDF5 file of episodes like those that the model was trained on"""
    out: Path | None = None
    """file to write; None is decoder.safetensors beside the checkpoint"""
    config: Annotated[DecoderConfig, Flat] = field(default_factory=DecoderConfig)

    def __call__(self) -> None:
        from echelon.checkpoint import load_model
        from echelon.data.episodes import Episodes
        from echelon.decoder import fit_decoder, save_decoder

        out = self.out or self.checkpoint.with_name("decoder.safetensors")
        _refuse_existing(out)
        model, episodes = load_model(self.checkpoint), Episodes.open(self.data)
        decoder, fitted = fit_decoder(model, episodes, self.config, Progress())
        save_decoder(out, decoder, model, self.config)
        print(f"{fitted.in_words()}\n{out}")


@dataclass(frozen=True)
class Report:
    """Make report.html anew from a run folder's records."""

    run: Positional[Path]

    def __call__(self) -> None:
        from echelon.report import write_report

        print(write_report(self.run))


@dataclass(frozen=True)
class Inspect:
    """What a file of episodes or a checkpoint holds, as JSON."""

    file: Positional[Path]
    planner: bool = False
    """print the planner settings that a checkpoint's model is used with"""
    verify: bool = False
    """compare every value of the episodes with their checksum"""

    def __call__(self) -> None:
        print(json.dumps(self._found(), indent=1))

    def _found(self) -> Any:
        from echelon import checkpoint
        from echelon.data.episodes import Episodes

        if self.file.suffix != ".safetensors":
            episodes = Episodes.open(self.file)
            if self.verify:
                episodes.verify()
            return episodes.describe()
        header = checkpoint.describe(self.file)
        if self.planner:
            return [
                to_dict(p)
                for p in planner_for(
                    schema.read(ModelConfig, header["model"], f"{self.file}: model")
                )
            ]
        return header


def _planner(path: Path) -> tuple[PlannerConfig, ...]:
    from echelon.files import read_json

    levels = read_json(path)
    if not isinstance(levels, list) or not levels:
        raise EchelonError(f"{path}: must be a JSON list of planner settings, level 0 first")
    return tuple(
        schema.read(PlannerConfig, level, f"{path}: level {i}") for i, level in enumerate(levels)
    )


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise EchelonError(f"{path}: is there already; choose another name, or delete it")


def main(arguments: list[str] | None = None) -> int:
    """Entry point; 0, or 2 for a user's mistake, or 130 for Ctrl-C."""
    from echelon.bench import Bench

    commands = (Demo, Collect, Train, Evaluate, Plan, Decoder, Report, Scales, Inspect, Bench)
    subcommands = {command.__name__.lower(): command for command in commands}
    try:
        command = tyro.extras.subcommand_cli_from_dict(
            subcommands, args=arguments, prog="echelon", description=__doc__
        )
        with in_one_line():
            command()
    except EchelonError as error:
        print(f"echelon: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"echelon: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nechelon: stopped; the same command goes on from what it kept", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
