"""Upper levels on somebody's own world model, which stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from echelon.checkpoint import load_model
from echelon.config import EncoderConfig, LevelConfig, ModelConfig, StageConfig, TrainConfig
from echelon.data.episodes import Episodes
from echelon.models.foreign import ForeignModel
from echelon.models.hierarchy import Hierarchy
from echelon.progress import Progress
from echelon.signals import Truth
from echelon.trainer import Trainer
from echelon.types import EchelonError, State, WorldModel

UPPER = ModelConfig().levels[1:]
"""the levels above level 0 that are trained by default"""


def on_top_of(
    model: WorldModel,
    episodes: Episodes | Path | str,
    levels: Sequence[LevelConfig] = UPPER,
    train: TrainConfig | None = None,
    out: Path | str = "runs/on-top",
    *,
    features: Callable[[State], Tensor] | None = None,
    frames: int = 1,
    difference_scale: float = 4.0,
    bank_size: int = 4096,
    truth: Truth | None = None,
    progress: Progress | None = None,
) -> Hierarchy:
    """Train macro-actions and upper levels on a frozen model; level 0 of what is returned is it.

    Whatever has ``encode(clips [B, frames, H, W, 3] uint8) -> state`` and ``predict(state, action
    [B, A]) -> state`` will do, its states any tree of tensors with a row an observation; a module is
    put into evaluation mode and frozen. Actions are given to it in the episodes' own units. What it
    wants done to images or actions before, a wrapper of one's own does.

    levels: above it, the lowest first.
    train: by default one stage that trains all of them; no stage may train level 0.
    out: run folder, as of :class:`echelon.trainer.Trainer`: calling again resumes, or returns what is
        finished. Its checkpoint holds all but the model below: see :func:`load_on_top_of`.
    features: ``state -> [B, ...]``, in which distance means something, and which the upper levels
        see; by default a state that is a tensor itself, its `z`, or its first tensor.
    frames: consecutive ones that an observation of the model is made of.
    difference_scale: as :class:`echelon.config.LevelConfig` has it, of level 0's features.
    bank_size: as :class:`echelon.config.ModelConfig` has it.
    truth: adds what it knows to the figures of the log; see :class:`echelon.signals.Truth`.
    progress: where to tell how far along it is; by default nowhere.

    An EchelonError says in a line what is wrong with a model, with its features, or with an option.
    """
    if not levels:
        raise EchelonError(
            "on_top_of: levels: give at least one level to train on top of the model"
        )
    if not isinstance(episodes, Episodes):
        episodes = Episodes.open(episodes)
    foreign = ForeignModel(model, features, frames)
    size = foreign.check(*_some(episodes, foreign))
    config = ModelConfig(
        levels=(LevelConfig(latent_dim=size, difference_scale=difference_scale), *levels),
        encoder=EncoderConfig(kind="foreign", frames=frames),
        image_size=episodes.image_size,
        bank_size=bank_size,
    )
    every = tuple(range(1, len(config.levels)))
    stage = StageConfig(levels=every, steps=3000, batch_size=256, learning_rate=2e-3)
    chosen = train or TrainConfig(stages=(stage,))
    trainer = Trainer(episodes, config, chosen, Path(out), truth, foreign)
    return trainer.run(progress or Progress(quiet=True))


def load_on_top_of(
    path: Path | str,
    model: WorldModel,
    *,
    features: Callable[[State], Tensor] | None = None,
    frames: int = 1,
    device: torch.device | str = "cpu",
) -> Hierarchy:
    """A finished hierarchy from the checkpoint of :func:`on_top_of` and the model it was trained on.

    Another model is an EchelonError: the upper levels mean nothing on it.
    """
    return load_model(path, device, ForeignModel(model, features, frames))


def _some(episodes: Episodes, foreign: ForeignModel) -> tuple[Tensor, Tensor]:
    """Two clips and actions of the episodes, where the model's weights lie."""
    blank = foreign.clips(episodes.image_size)
    first = torch.from_numpy(episodes.pixels[:2])[:, None].expand_as(blank)
    return first.to(blank.device), torch.from_numpy(episodes.actions[:2]).nan_to_num().to(
        blank.device
    )
