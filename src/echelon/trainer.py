"""One training loop for all levels, in stages, resumable to the bit.

A stage trains some levels and leaves the others as they are. Whatever a step depends on is either in
the training file (weights, EMA targets, optimizer) or a function of (seed, stage, step): resuming
after a kill gives the weights that an undisturbed run gives.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim import AdamW

from echelon import checkpoint, losses, statistics
from echelon.config import ModelConfig, StageConfig, TrainConfig, to_dict
from echelon.data.episodes import Episodes
from echelon.data.windows import Batches, WindowSampler, prefetched
from echelon.files import open_run
from echelon.models.foreign import ForeignModel
from echelon.models.hierarchy import Hierarchy
from echelon.objective import Objective
from echelon.progress import Progress
from echelon.runlog import RunLog
from echelon.signals import Signals, Truth, good_for, in_words
from echelon.types import EchelonError, tree_map


class Trainer:
    """Trains a hierarchy on episodes, into a run folder.

    The folder holds config.json, log.jsonl, tensorboard/, training.safetensors (to resume from) and,
    at the end, checkpoint.safetensors. Running again resumes, or returns what is finished.
    """

    def __init__(
        self,
        episodes: Episodes,
        model: ModelConfig,
        train: TrainConfig,
        out: Path,
        truth: Truth | None = None,
        foreign: ForeignModel | None = None,
    ) -> None:
        """foreign: the model that level 0 stands for, where `model` says so; see echelon.on_top_of."""
        if episodes.image_size != model.image_size:
            raise EchelonError(
                f"{episodes.path}: frames are {episodes.image_size} pixels wide, the model expects "
                f"{model.image_size}; set --model.image-size {episodes.image_size}"
            )
        self.episodes, self.config, self.out = episodes, train, out
        self.train_ids, self.held_out_ids = episodes.split(train.held_out, train.seed)
        if train.num_threads:
            torch.set_num_threads(train.num_threads)
        self.fabric = _fabric(train)
        self._check_windows(model)
        self.foreign = foreign
        self._truth = truth
        self._warned: set[tuple[int, int]] = set()
        self._latents: Tensor | None = None  # of all frames, while the encoder stays as it is
        torch.manual_seed(train.seed)
        proprio_dim = _proprio_dim(episodes, model)
        self.model = Hierarchy(model, episodes.action_dim, proprio_dim, foreign)
        hidden = train.masked if any(stage.masked for stage in train.stages) else None
        self.objective = Objective(self.model, train.ema, hidden)
        self._signals = Signals.of(episodes, self.held_out_ids, self.model, truth)
        config = {"model": to_dict(model), "train": to_dict(train), **self.sources}
        with self.fabric.rank_zero_first():  # only one process writes, the others find it written
            open_run(out, config)
        self._runlog = RunLog(out)

    @property
    def identity(self) -> dict[str, Any]:
        """Name, size and checksum of the episodes, as records give them."""
        return self.episodes.identity

    @property
    def sources(self) -> dict[str, Any]:
        """What the model is made from: its data and, where there is one, the model beneath it."""
        below = {} if self.foreign is None else {"foreign": self.foreign.identity}
        return {"data": self.identity, **below}

    @property
    def checkpoint(self) -> Path:
        return self.out / "checkpoint.safetensors"

    def run(self, progress: Progress) -> Hierarchy:
        """Train to the end, from wherever the folder stands."""
        if self.checkpoint.exists():
            return checkpoint.load_model(self.checkpoint, self.fabric.device, self.foreign)
        statistics.fit_inputs(self.model, self.episodes, self.train_ids)
        if self.config.start_from:
            checkpoint.fill_lower(self.model, Path(self.config.start_from))
        self.objective.reset_targets()
        first, step = self._resume()
        self.objective.to(self.fabric.device)
        for index in range(first, len(self.config.stages)):
            self._stage(index, step if index == first else 0, progress)
        statistics.fit_search(self.model.eval(), self.episodes, self.train_ids, self.config.seed)
        every = tuple(range(len(self.model.levels)))
        found = self._signals(self.model, every)
        self.model.good_for = tuple(good_for(level, found) for level in every)
        if self.fabric.is_global_zero:
            about = {**self.sources, "meta": self.episodes.meta, "train": to_dict(self.config)}
            checkpoint.save_model(self.checkpoint, self.model, about)
            self._training_file.unlink(missing_ok=True)
        return self.model.eval()

    # ------------------------------------------------------------------ one stage

    def _stage(self, index: int, start: int, progress: Progress) -> None:
        stage = self.config.stages[index]
        parameters = self.objective.trained(stage)
        self.objective.requires_grad_(False)
        for parameter in parameters:
            parameter.requires_grad_(True)
        optimizer = AdamW(
            parameters,
            lr=stage.learning_rate,
            weight_decay=self.config.weight_decay,
            fused=True,  # a tenth of a step saved where tensors are many and small
        )
        if start:
            _restore_optimizer(optimizer, self._resumed)
        module, optimizer = self.fabric.setup(self.objective, optimizer)
        batches, held_out = self._batches(stage, index)
        name = "encoder" if stage.train_encoder else "levels " + ", ".join(map(str, stage.levels))
        saved = time.monotonic()
        self._train_mode(stage)
        with progress.task(f"train {name}", stage.steps, start) as advance:
            for step, (inputs, actions) in prefetched(batches, start, stage.steps):
                torch.manual_seed(hash((self.config.seed, index, step)) % 2**63)
                for group in optimizer.param_groups:
                    group["lr"] = stage.learning_rate * _schedule(step / stage.steps)
                how = (stage.levels, stage.gradient_below, stage.masked)
                terms: dict[str, Tensor] = module(inputs, actions, *how)
                loss = torch.stack(list(terms.values())).sum()
                self._check_finite("loss", loss, index, step)
                optimizer.zero_grad()
                self.fabric.backward(loss)
                norm = self.fabric.clip_gradients(
                    module,
                    optimizer,
                    max_norm=self.config.gradient_clip,
                    error_if_nonfinite=False,
                )
                self._check_finite("gradient's norm", norm, index, step)
                optimizer.step()
                self.objective.update_targets()
                done = step + 1
                every = (self.config.log_every, self.config.signals_every)
                if any(self._due(done, e, stage) for e in every):
                    self._log(index, done, stage, terms, held_out, progress)
                if done < stage.steps and time.monotonic() - saved > self.config.checkpoint_seconds:
                    self._save(index, done, optimizer)
                    saved = time.monotonic()
                advance(loss.item())
        self._save(index + 1, 0, None)

    def _train_mode(self, stage: StageConfig) -> None:
        """Frozen levels stay as in evaluation: no noise, and no statistics that move."""
        for index, level in enumerate(self.model.levels):
            level.train(index in stage.levels)

    def _check_finite(self, name: str, value: Tensor | None, stage: int, step: int) -> None:
        if value is not None and not torch.isfinite(value):
            raise EchelonError(
                f"{self.out}: the {name} became {value.item()} at step {step} of stage {stage}; the "
                "last good state is kept. Run with a lower learning rate, in another --out"
            )

    def _batches(self, stage: StageConfig, index: int) -> tuple[Batches, Batches]:
        device = self.fabric.device
        if stage.train_encoder:
            inputs, self._latents = {"pixels": torch.from_numpy(self.episodes.pixels)}, None
        else:
            if self._latents is None:
                self._latents = statistics.encode(self.model, self.episodes)
            inputs = {"latents": self._latents}
        if column := self.model.config.proprio:
            inputs["proprio"] = torch.from_numpy(self.episodes.column(column).astype(np.float32))
        actions = torch.from_numpy(np.nan_to_num(self.episodes.actions))
        inputs, actions = tree_map(lambda x: x.to(device), (inputs, actions))
        skipped = self.model.context - 1 if stage.train_encoder else 1
        length = skipped + self.config.window(self.model.config, stage)
        process = self.fabric.global_rank, self.fabric.world_size
        frames, paired = None, self.objective.paired
        apart = self.model.config.encoder.apart if stage.train_encoder else 0
        if paired and not stage.train_encoder:  # what is around is learned from images still
            frames = torch.from_numpy(self.episodes.pixels).to(device)
        seed, where = hash((self.config.seed, index)) % 2**32, self.episodes

        def of(ids: statistics.Ids) -> Batches:
            sampler = WindowSampler.of(where.lengths, where.offsets, ids, length, paired, apart)
            fixed = (sampler, stage.batch_size, seed, skipped, *process, frames)
            return Batches(inputs, actions, *fixed)

        return of(self.train_ids), of(self.held_out_ids)

    # ------------------------------------------------------------------ log and resume

    @torch.no_grad()
    def _log(
        self,
        index: int,
        step: int,
        stage: StageConfig,
        terms: dict[str, Tensor],
        held_out: Batches,
        progress: Progress,
    ) -> None:
        """A line of figures on training and held-out windows; a warning where latents collapse."""
        self.objective.eval()
        inputs, actions = held_out(step)
        seen = self.objective(inputs, actions, stage.levels, masked=stage.masked)
        figures = {name: value.item() for name, value in terms.items()}
        figures |= {f"held_out/{name}": value.item() for name, value in seen.items()}
        windows = self.objective.windows(inputs, actions, max(stage.levels, default=0))
        latents = [self.model.levels[i].channels(w.states["z"]) for i, (w, _) in enumerate(windows)]
        for level in stage.levels:
            z = latents[level]
            self._check_finite(f"largest latent of level {level}", z.abs().amax(), index, step)
            figures[f"level{level}/deviation"] = z.std(0).mean().item()
            figures[f"level{level}/rank"] = losses.effective_rank(z).item()
        if self._due(step, self.config.signals_every, stage):
            figures |= self._look(stage, progress)
        self._train_mode(stage)
        if not self.fabric.is_global_zero:
            return
        total = sum(s.steps for s in self.config.stages[:index]) + step
        self._runlog.add(index, step, total, figures)
        for level in stage.levels:
            collapsed = (
                figures[f"level{level}/deviation"] < 0.02 or figures[f"level{level}/rank"] < 1.1
            )
            if collapsed and step >= _early(stage) and (index, level) not in self._warned:
                self._warned.add((index, level))
                progress.warn(
                    f"level {level} has collapsed (deviation "
                    f"{figures[f'level{level}/deviation']:.3f}, effective rank "
                    f"{figures[f'level{level}/rank']:.1f}): too little keeps its states apart; raise "
                    "loss.variance, loss.sigreg or loss.inverse-dynamics, or lower loss.smoothness"
                )

    def _due(self, step: int, every: int, stage: StageConfig) -> bool:
        """Every so often, at a stage's end, and when 5 % are over: early enough to stop a bad run."""
        return step % every == 0 or step in (stage.steps, _early(stage))

    def _look(self, stage: StageConfig, progress: Progress) -> dict[str, float]:
        """Signals of the levels in training, said in a line each; a few trials, if the highest is."""
        if not stage.levels:
            return {}
        found = self._signals(self.model, stage.levels)
        for level in stage.levels:
            progress.say(in_words(level, found))
        whole = max(stage.levels) == len(self.model.levels) - 1
        if self._truth is not None and whole and self.fabric.is_global_zero:
            statistics.fit_search(self.model, self.episodes, self.train_ids, self.config.seed)
            planned = self._truth.plan(self.model)
            if planned:
                progress.say("  trials: " + ", ".join(f"{k} {v:.3g}" for k, v in planned.items()))
            found |= {f"trials/{name}": value for name, value in planned.items()}
        return found

    @property
    def _training_file(self) -> Path:
        return self.out / "training.safetensors"

    def _save(self, stage: int, step: int, optimizer: Any) -> None:
        """What resuming needs; a new stage begins with a new optimizer."""
        if not self.fabric.is_global_zero:
            return
        tensors = {f"objective.{k}": v for k, v in self.objective.state_dict().items()}
        if optimizer is not None:
            for number, state in optimizer.state_dict()["state"].items():
                for name, value in state.items():
                    tensors[f"optimizer.{number}.{name}"] = torch.as_tensor(value)
        header = {"format": checkpoint.FORMAT_VERSION, "stage": stage, "step": step}
        checkpoint.write_tensors(self._training_file, tensors, "training", header)

    def _resume(self) -> tuple[int, int]:
        """Stage and step to go on from; (0, 0) in a new folder. Later lines of the log are dropped."""
        self._resumed: dict[str, Tensor] = {}
        stage, step = 0, 0
        if self._training_file.exists():
            header, self._resumed = checkpoint.read_tensors(self._training_file, "training")
            prefix = "objective."
            objective = {
                name.removeprefix(prefix): value
                for name, value in self._resumed.items()
                if name.startswith(prefix)
            }
            checkpoint.fill(self.objective, objective, self._training_file)
            stage, step = header["stage"], header["step"]
        if self.fabric.is_global_zero:
            self._runlog.cut(stage, step)
        return stage, step

    def _check_windows(self, model: ModelConfig) -> None:
        """Fail before training, not an hour in, where a stage's windows do not fit the episodes."""
        for stage in self.config.stages:
            if max(stage.levels, default=0) >= len(model.levels):
                raise EchelonError(
                    f"stages: level {max(stage.levels)} is to be trained, but the model has "
                    f"{len(model.levels)} levels (0 to {len(model.levels) - 1})"
                )
            if model.encoder.kind == "foreign" and (stage.train_encoder or 0 in stage.levels):
                raise EchelonError(
                    "stages: level 0 is a model that stays as it is; train levels 1 and up, with "
                    "train_encoder False"
                )
            alone = stage.train_encoder and not stage.levels and not stage.masked
            if alone and model.encoder.kind != "keypoints":
                raise EchelonError(
                    f"stages: nothing trains an encoder of {model.encoder.kind} by itself but masked "
                    "video; name levels, or set masked"
                )
            if stage.batch_size % self.fabric.world_size:
                raise EchelonError(
                    f"stages: a batch of {stage.batch_size} windows does not divide between "
                    f"{self.fabric.world_size} processes; use a multiple"
                )
            length = model.encoder.frames + self.config.window(model, stage)
            for ids in (self.train_ids, self.held_out_ids):
                WindowSampler.of(self.episodes.lengths, self.episodes.offsets, ids, length)


def _early(stage: StageConfig) -> int:
    """The step at which 5 % of a stage are over."""
    return max(1, stage.steps // 20)


def _schedule(share: float) -> float:
    """Warm-up over the first 5 %, then a cosine to a twentieth."""
    return min(1.0, share / 0.05 + 1e-3) * (0.05 + 0.475 * (1 + math.cos(math.pi * share)))


def _restore_optimizer(optimizer: AdamW, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, number, name = key.split(".")
            state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def _fabric(config: TrainConfig) -> Fabric:
    """One process, or those that torchrun started."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    nodes = int(os.environ.get("WORLD_SIZE", "1")) // local
    try:
        fabric = Fabric(
            accelerator=config.accelerator,
            devices=local,
            num_nodes=nodes,
            precision=config.precision,
            strategy="ddp" if local * nodes > 1 else "auto",
        )
    except (RuntimeError, ValueError) as error:
        raise EchelonError(
            f"accelerator: '{config.accelerator}' cannot be used here; 'auto' takes what there is"
        ) from error
    fabric.launch()
    return fabric


def _proprio_dim(episodes: Episodes, model: ModelConfig) -> int:
    """Size of the column that joins the images."""
    if model.proprio is None:
        return 0
    column = episodes.column(model.proprio)
    if column.ndim != 2 or not np.isfinite(column).all():
        raise EchelonError(
            f"{episodes.path}: proprio must be a column of finite numbers, some a frame; "
            f"'{model.proprio}' has the shape {column.shape}"
            + ("" if column.ndim != 2 else " and some that are not finite")
        )
    return column.shape[1]
