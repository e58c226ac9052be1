"""What a model takes from its data besides weights: normalisation, action priors, known states.

All of it lies in buffers of the model, so that it travels with the weights.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from echelon.data.episodes import Episodes
from echelon.data.windows import WindowSampler
from echelon.models.hierarchy import Hierarchy, ImageLift, LatentLift

ENCODE_BATCH = 2048
"""frames encoded at once"""
SEGMENTS = 8192
"""segments of actions that a macro-action's statistics rest on"""

Ids = NDArray[np.int64]


@torch.no_grad()
def fit_inputs(model: Hierarchy, episodes: Episodes, ids: Ids) -> None:
    """Normalise images and actions by the episodes `ids`."""
    level = model.levels[0]
    assert isinstance(level.lift, ImageLift)
    rows = _rows_of(episodes, ids)
    some = episodes.pixels[rows[:: max(1, len(rows) // 2000)]].astype(np.float32)
    mean = some.mean(0)
    level.lift.encoder.mean.copy_(torch.from_numpy(mean))
    level.lift.encoder.scale.fill_(1 / max(float((some - mean).std()), 1e-3))
    actions = episodes.actions[rows]
    actions = actions[np.isfinite(actions).all(1)]
    level.action_mean.copy_(torch.from_numpy(actions.mean(0)))
    level.action_std.copy_(torch.from_numpy(actions.std(0)).clamp_min(1e-6))
    level.action_low.copy_(torch.from_numpy(actions.min(0)))
    level.action_high.copy_(torch.from_numpy(actions.max(0)))


@torch.no_grad()
def encode_all(model: Hierarchy, pixels: Tensor) -> Tensor:
    """``[N, H, W, 3] -> [N, D]`` by the encoder as it stands, on the model's device."""
    lift = model.levels[0].lift
    assert isinstance(lift, ImageLift)
    device = lift.encoder.mean.device
    return torch.cat([lift.encoder(chunk.to(device)) for chunk in pixels.split(ENCODE_BATCH)])


@torch.no_grad()
def fit_search(model: Hierarchy, episodes: Episodes, ids: Ids, seed: int) -> None:
    """What search needs of each upper level: its action prior, and the bank of known states."""
    latents = encode_all(model, torch.from_numpy(episodes.pixels))
    device = latents.device
    actions = torch.from_numpy(np.nan_to_num(episodes.actions)).to(device)
    rng = np.random.default_rng(seed)
    rows, size = _rows_of(episodes, ids), model.config.bank_size
    known = latents[torch.from_numpy(rng.choice(rows, size, replace=size > len(rows))).to(device)]
    for index, level in enumerate(model.levels[1:], start=1):
        duration = model.config.durations[index]
        sampler = WindowSampler.of(episodes.lengths, episodes.offsets, ids, duration)
        rows = sampler.rows(SEGMENTS, seed, 0)[:, :-1]
        macro = actions[torch.from_numpy(rows).to(device)]
        for lower in model.levels[1 : index + 1]:
            macro = lower.encode_action(macro.unflatten(1, (-1, lower.stride)))
        macro = macro[:, 0]
        level.action_mean.copy_(macro.mean(0))
        level.action_std.copy_(macro.std(0).clamp_min(1e-6))
        level.action_low.copy_(macro.quantile(0.02, 0))
        level.action_high.copy_(macro.quantile(0.98, 0))
        assert isinstance(level.lift, LatentLift)
        level.bank_below.copy_(known)
        known = level.lift.network(known)
        level.bank.copy_(known)


def _rows_of(episodes: Episodes, ids: Ids) -> Ids:
    """Rows of all frames of some episodes."""
    spans = zip(episodes.offsets[ids], episodes.lengths[ids], strict=True)
    return np.concatenate([np.arange(first, first + length) for first, length in spans])
