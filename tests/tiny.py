"""A world too small to wait for: a dot that is pushed about on an 8-cell line, drawn in 16 pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from echelon.config import LevelConfig, LossConfig, ModelConfig, StageConfig, TrainConfig
from echelon.data.episodes import EpisodeWriter

IMAGE_SIZE = 16


def frame(x: float) -> np.ndarray:
    """[16, 16, 3] uint8, a bright column where the dot is; x in [0, 1]."""
    columns = np.arange(IMAGE_SIZE)
    glow = np.exp(-((columns - x * (IMAGE_SIZE - 1)) ** 2) / 4)
    return np.broadcast_to((255 * glow).astype(np.uint8)[None, :, None], (16, 16, 3)).copy()


def write_episodes(path: Path, episodes: int = 12, steps: int = 30, seed: int = 0) -> Path:
    """Episodes of a dot that moves by a tenth of its action, and bounces off the ends."""
    rng = np.random.default_rng(seed)
    with EpisodeWriter(path, {"task": "dot", "image_size": IMAGE_SIZE}) as writer:
        for _ in range(episodes):
            x = [rng.uniform()]
            actions = rng.uniform(-1, 1, (steps, 1)).astype(np.float32)
            for action in actions:
                x.append(float(np.clip(x[-1] + 0.1 * action[0], 0, 1)))
            pixels = np.stack([frame(value) for value in x])
            writer.add({"pixels": pixels, "action": actions, "state": np.array(x)[:, None]})
    return path


def model_config(levels: int = 2) -> ModelConfig:
    """Up to three levels, of durations 1, 4 and 8."""
    fine = LevelConfig(latent_dim=4, width=16, depth=1, lift_width=8, rollout=3)
    above = LevelConfig(
        latent_dim=3,
        stride=4,
        action_dim=2,
        width=16,
        depth=1,
        lift_width=8,
        rollout=2,
        loss=LossConfig(inverse_dynamics=0.0),
    )
    return ModelConfig(
        levels=(fine, above, replace(above, stride=2))[:levels],
        image_size=IMAGE_SIZE,
        bank_size=64,
    )


def train_config(levels: int = 2, steps: int = 12) -> TrainConfig:
    """A stage for the encoder and one for all levels, of a few steps each."""
    every = tuple(range(levels))
    return TrainConfig(
        stages=(
            StageConfig(levels=(0,), steps=steps, batch_size=8, train_encoder=True),
            StageConfig(levels=every, steps=steps, batch_size=8),
        ),
        held_out=0.2,
        checkpoint_seconds=0.0,
        log_every=4,
        accelerator="cpu",
    )
