"""The temporal scales of episodes, as they are and as a model sees them.

Without a model, frames are described by the principal components of their down-sampled pixels: a
cheap stand-in that forgets sooner than a trained latent does. With one, its latents are measured on
held-out clips, and every level's open-loop error in one common space, without any true state: a
predicted latent of level l is replaced by the nearest latent of a bank of known frames at that level,
and judged by the distance between that frame's level-0 latent and the level-0 latent of the frame
that came. All levels are judged by the same encoder and pay alike for the bank's gaps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from echelon.data.episodes import Episodes
from echelon.data.windows import KEPT, coarsen, longest_span
from echelon.models.hierarchy import Hierarchy
from echelon.planning.planner import rollout
from echelon.scales import (
    Distance,
    Error,
    Scales,
    correlation_times,
    saturation,
    survival_of,
)
from echelon.types import EchelonError, Window, tree_map

Ids = NDArray[np.int64]

CLIPS = 120
"""most clips measured, each cut to one length; a sixth as many where they are long"""
FRAMES = 16_000
"""frames measured, in all clips together"""
BANK = 4000
"""known frames that predictions are looked up among, and that the features are fitted to"""
SIZE = 16
"""side of a down-sampled frame"""
COMPONENTS = 16
"""principal components of the down-sampled frames"""
SHORTEST = 3
"""steps without which nothing can be measured"""


def measure(
    episodes: Episodes, model: Hierarchy | None = None, held_out: Ids | None = None, seed: int = 0
) -> Scales:
    """Measure everything that :func:`echelon.proposal.propose` goes by.

    held_out: episodes that the model was not trained on; None measures on a random half of all.
    """
    longest = longest_span(episodes.lengths)
    clips, others = _chosen(episodes, held_out, longest, seed)
    length = min(longest, FRAMES // len(clips) - 1)
    rows = episodes.offsets[clips][:, None] + np.arange(length + 1)
    errors: tuple[Error, ...] = ()
    if model is None:
        seen = [_features(episodes.pixels, rows, others)]
        source = (
            f"{seen[0].shape[-1]} principal components of {SIZE} x {SIZE} pixels (no checkpoint)"
        )
    else:
        if episodes.image_size != model.config.image_size:
            raise EchelonError(
                f"{episodes.path}: frames are {episodes.image_size} pixels wide, the checkpoint's "
                f"model expects {model.config.image_size}; measure the data that it was trained on"
            )
        seen, errors = _latents(model, episodes, rows, others)
        source = "the checkpoint's level-0 latents"
    return Scales(
        source,
        length,
        survival_of(episodes.lengths, longest),
        correlation_times(seen[0]),
        tuple(distance_by_gap(level, z) for level, z in enumerate(seen)),
        errors,
    )


def held_out_of(episodes: Episodes, about: Mapping[str, Any]) -> Ids | None:
    """Episodes that a checkpoint was not trained on, by what it says of its training; None where it
    was trained on other data, or does not say.
    """
    data, train = about.get("data", {}), about.get("train", {})
    if not episodes.sha256 or data.get("sha256") != episodes.sha256:
        return None
    if not {"held_out", "seed"} <= set(train):
        return None
    return episodes.split(train["held_out"], train["seed"])[1]


def distance_by_gap(level: int, z: np.ndarray) -> Distance:
    """Root mean squared difference of the moments of ``z [W, T, D]`` by the time between them."""
    gaps = _spread(z.shape[1] - 1, 24)
    mean = [float(_norm(z[:, g:] - z[:, :-g]).mean()) for g in gaps]
    apart = float(np.mean([_norm(z - np.roll(z, by, 0)).mean() for by in {1, (len(z) + 1) // 2}]))
    return Distance(level, gaps, tuple(mean), apart, saturation(gaps, mean, apart))


def _chosen(episodes: Episodes, held_out: Ids | None, longest: int, seed: int) -> tuple[Ids, Ids]:
    """Clips to measure, and rows of frames of others (but their first, which has none before it)."""
    if len(episodes.lengths) < 4:
        raise EchelonError(
            f"{episodes.path}: {len(episodes.lengths)} episodes are too few to measure scales on; "
            "record at least 4"
        )
    if longest < SHORTEST:
        share = f"{KEPT:.0%}".replace("%", " %")
        raise EchelonError(
            f"{episodes.path}: {share} of the clips hold only {longest} steps, too few to measure "
            f"scales on; record longer episodes, at least {SHORTEST} steps, or drop the short ones"
        )
    rng = np.random.default_rng(seed)
    everything = rng.permutation(len(episodes.lengths))
    if held_out is None:
        held_out = everything[: len(everything) // 2]
    fit = held_out[episodes.lengths[held_out] > longest]
    if len(fit) < 2:  # the few held out happen to be short
        fit = everything[episodes.lengths[everything] > longest][:2]
    clips = rng.permutation(fit)[: min(CLIPS, max(CLIPS // 6, FRAMES // (longest + 1)))]
    other = np.setdiff1d(everything, np.union1d(clips, held_out))
    if not len(other):
        other = np.setdiff1d(everything, clips)
    spans = zip(episodes.offsets[other], episodes.lengths[other], strict=True)
    rows = np.concatenate([np.arange(first + 1, first + length) for first, length in spans])
    return clips, rng.permutation(rows)[:BANK]


def _features(pixels: NDArray[np.uint8], rows: Ids, others: Ids) -> np.ndarray:
    """``rows [W, T] -> [W, T, C]``: principal components, fitted to the frames `others`."""
    fit = _small(pixels[others])
    middle = fit.mean(0)
    basis = np.linalg.svd(fit - middle, full_matrices=False)[2][:COMPONENTS]
    return np.stack([(_small(pixels[clip]) - middle) @ basis.T for clip in rows])


def _small(frames: NDArray[np.uint8]) -> np.ndarray:
    """``[N, H, H, 3] -> [N, S * S * 3]`` by the mean of blocks of pixels, between 0 and 1."""
    count, side = frames.shape[:2]
    size = max(s for s in range(1, SIZE + 1) if side % s == 0)
    blocks = frames.reshape(count, size, side // size, size, side // size, 3)
    return (blocks.mean((2, 4), dtype=np.float32) / 255).reshape(count, -1)


@torch.no_grad()
def _latents(
    model: Hierarchy, episodes: Episodes, rows: Ids, others: Ids
) -> tuple[list[np.ndarray], tuple[Error, ...]]:
    """Latents ``[W, T, D]`` of each level, and what its rollouts get wrong."""
    device = next(model.parameters()).device
    by_clip = [
        model.lift(model.levels[0].lift(torch.from_numpy(episodes.pixels[clip]).to(device)))
        for clip in rows
    ]
    states = [tree_map(lambda *x: torch.stack(x), *level) for level in zip(*by_clip, strict=True)]
    known: list[list[Tensor]] = [[] for _ in model.levels]
    for chunk in np.array_split(others, max(1, len(others) // 500)):
        pairs = torch.from_numpy(episodes.pixels[np.stack([chunk - 1, chunk], 1)]).to(device)
        for level, state in enumerate(model.lift(model.encode(pairs))):
            known[level].append(state["z"])
    bank = [torch.cat(z) for z in known]
    actions = torch.from_numpy(episodes.actions[rows][:, 1:-1]).to(device)
    seen = [state["z"].flatten(2).cpu().numpy() for state in states]
    return seen, open_loop(model, states, actions, bank)


@torch.no_grad()
def open_loop(
    model: Hierarchy, states: list[Any], actions: Tensor, bank: list[Tensor]
) -> tuple[Error, ...]:
    """Mean error of each level's rollout under the logged actions, from the first moment on.

    states: of each level, [W, T + 1, ...]. actions: [W, T, A]. bank: ``z [N, D]`` of each level, of
    the same frames. Baselines: staying where it began, and the mean of all known frames.
    """
    truth = states[0]["z"].flatten(2)
    made: list[Error] = []
    for index, (level, state) in enumerate(zip(model.levels, states, strict=True)):
        if index:
            if actions.shape[1] < level.stride:
                break
            below = Window({}, actions)
            actions = coarsen(below, level.stride, lambda x: x, level.encode_action).actions
        first = tree_map(lambda x: x[:, 0], state)
        predicted = rollout(level, first, actions[:, None])["z"][:, 0].flatten(2)
        duration, count = model.config.durations[index], predicted.shape[1]
        shown = _spread(count, 16)
        error = [
            _distance(
                bank[0].flatten(1)[_nearest(predicted[:, t - 1], bank[index].flatten(1))],
                truth[:, t * duration],
            )
            for t in shown
        ]
        made.append(
            Error(f"level {index}", index, tuple(t * duration for t in shown), tuple(error))
        )
    steps = _spread(truth.shape[1] - 1, 16)
    still = tuple(_distance(truth[:, t], truth[:, 0]) for t in steps)
    mean = tuple(_distance(truth[:, t], bank[0].flatten(1).mean(0)) for t in steps)
    return (*made, Error("no change", None, steps, still), Error("mean", None, steps, mean))


def _nearest(z: Tensor, known: Tensor) -> Tensor:
    # the other way confuses latents that lie close
    return torch.cdist(z, known, compute_mode="donot_use_mm_for_euclid_dist").argmin(-1)


def _distance(a: Tensor, b: Tensor) -> float:
    return (a - b).square().mean(-1).sqrt().mean().item()


def _norm(difference: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(difference).mean(-1))


def _spread(last: int, count: int) -> tuple[int, ...]:
    """Whole numbers from 1 to `last`, spread evenly in the logarithm."""
    return tuple(int(x) for x in np.unique(np.geomspace(1, max(last, 1), count).round()))
