"""From episodes to models."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from echelon import schema
from echelon.cli.options import Flat, Positional, refuse_existing
from echelon.config import ModelConfig, TrainConfig
from echelon.decoder import DecoderConfig
from echelon.demo import DemoConfig
from echelon.progress import Progress
from echelon.types import EchelonError

if TYPE_CHECKING:
    from echelon.data.episodes import Episodes


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
        refuse_existing(out)
        model, episodes = load_model(self.checkpoint), Episodes.open(self.data)
        decoder, fitted = fit_decoder(model, episodes, self.config, Progress())
        save_decoder(out, decoder, model, self.config)
        print(f"{fitted.in_words()}\n{out}")
