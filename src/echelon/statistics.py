"""What a model takes from its data besides weights: normalisation, action priors, known states.

All of it lies in buffers of the model, so that it travels with the weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from echelon.config import LandmarkConfig
from echelon.data.episodes import Episodes
from echelon.data.windows import WindowSampler
from echelon.graph import Landmarks, fit_landmarks
from echelon.models.foreign import ForeignEncoder
from echelon.models.hierarchy import NEIGHBOURS, Hierarchy, ImageLift, LatentLift
from echelon.models.paths import logits_at
from echelon.models.things import ThingsEncoder
from echelon.types import EchelonError, tree_map

ENCODE_BATCH = 2048
"""frames encoded at once"""
CPU_BATCH = 64
"""the same on a processor, whose caches hold them"""
FLOORS, PLACES = 500, 4
"""frames, and places seen at other times of their episodes, that tell passable logits from others; as
many frames, and another of each episode, tell what moves"""
SEGMENTS = 8192
"""segments of actions that a macro-action's statistics rest on"""
GRAPH_ACTIONS = 64
"""known actions that a model's own edges of a landmark graph are predicted with"""

Ids = NDArray[np.int64]


@torch.no_grad()
def fit_inputs(model: Hierarchy, episodes: Episodes, ids: Ids) -> None:
    """Normalise images (or features of a foreign model), proprioception and actions by `ids`."""
    level = model.levels[0]
    assert isinstance(level.lift, ImageLift)
    rows = _rows_of(episodes, ids)
    chosen = rows[:: max(1, len(rows) // 2000)]
    encoder = level.lift.encoder
    if isinstance(encoder, ForeignEncoder):
        encoder.mean.zero_()
        encoder.scale.fill_(1.0)
        some = encode(model, episodes, chosen).cpu().numpy()
    else:
        some = episodes.pixels[chosen].astype(np.float32)
    mean = some.mean(tuple(range(some.ndim - encoder.mean.ndim)))
    encoder.mean.copy_(torch.from_numpy(mean))
    encoder.scale.fill_(1 / max(float((some - mean).std()), 1e-3))
    if isinstance(encoder, ThingsEncoder):
        _fit_things(encoder, episodes, ids)
    if model.config.proprio:
        proprio = episodes.column(model.config.proprio)[rows]
        level.lift.proprio_mean.copy_(torch.from_numpy(proprio.mean(0)))
        level.lift.proprio_std.copy_(torch.from_numpy(proprio.std(0)).clamp_min(1e-6))
    actions = episodes.actions[rows]
    actions = torch.from_numpy(actions[np.isfinite(actions).all(1)])
    level.action_mean.copy_(actions.mean(0))
    level.action_std.copy_(actions.std(0, correction=0).clamp_min(1e-6))
    level.prior_mean.copy_(level.action_mean)
    level.prior_std.copy_(level.action_std)
    level.prior_low.copy_(actions.amin(0))
    level.prior_high.copy_(actions.amax(0))
    level.prior_covariance.copy_(covariance(actions))
    bank = _sample(actions, model.config.bank_size, np.random.default_rng(0))
    level.action_bank.copy_(bank)
    for below, upper in pairwise(model.levels):
        if upper.config.macro == "concat":  # learned macro-actions normalise themselves
            upper.action_mean.copy_(below.action_mean.repeat(upper.stride))
            upper.action_std.copy_(below.action_std.repeat(upper.stride))


def _fit_things(encoder: ThingsEncoder, episodes: Episodes, ids: Ids) -> None:
    """What moves, from pairs of frames of one episode."""
    rng = np.random.default_rng(0)
    chosen = rng.choice(ids, FLOORS)
    when = rng.integers(episodes.lengths[chosen][:, None], size=(FLOORS, 2))
    rows = episodes.offsets[chosen][:, None] + when
    frames = torch.from_numpy(episodes.pixels[rows.flatten()]).to(encoder.mean.device)
    encoder.fit(frames[::2], frames[1::2])


@torch.no_grad()
def encode(model: Hierarchy, episodes: Episodes, rows: Ids | None = None) -> Tensor:
    """``rows [N] -> [N, D]``, the latents of frames (all) by the encoder as it stands, on its device.

    An encoder of clips sees the frames before; an episode's first frame stands for what is missing.
    """
    lift = model.levels[0].lift
    assert isinstance(lift, ImageLift)
    device, frames = lift.encoder.mean.device, lift.encoder.frames
    rows = np.arange(len(episodes.pixels)) if rows is None else rows
    first = episodes.offsets[np.searchsorted(episodes.offsets, rows, side="right") - 1]
    back = np.arange(frames) - frames + 1
    clips = np.maximum(rows[:, None] + back, first[:, None])
    latents: list[Tensor] = []
    together = CPU_BATCH if device.type == "cpu" else ENCODE_BATCH
    for chunk in np.array_split(clips, math.ceil(clips.size / together)):
        pixels = torch.from_numpy(episodes.pixels[chunk]).to(device)
        latents.append(lift.encoder(pixels)[:, 0])
    return torch.cat(latents)


@torch.no_grad()
def fit_search(model: Hierarchy, episodes: Episodes, ids: Ids, seed: int) -> None:
    """What search needs of each upper level: its action prior, and what is known of its states and
    actions.
    """
    device = next(model.parameters()).device
    actions = torch.from_numpy(np.nan_to_num(episodes.actions)).to(device)
    rng = np.random.default_rng(seed)
    rows, size = _rows_of(episodes, ids), model.config.bank_size
    known = encode(model, episodes, rng.choice(rows, size, replace=size > len(rows)))
    _fit_neighbours(model, episodes, ids, seed)
    _fit_recall(model, episodes, ids, seed)
    _fit_paths(model, episodes, ids, seed)
    for index, level in enumerate(model.levels[1:], start=1):
        duration = model.config.durations[index]
        sampler = WindowSampler.of(episodes.lengths, episodes.offsets, ids, duration)
        segments = sampler.rows(SEGMENTS, seed, 0)[:, :-1]
        macro = actions[torch.from_numpy(segments).to(device)]
        for lower in model.levels[1 : index + 1]:
            macro = lower.encode_action(macro.unflatten(1, (-1, lower.stride)))
        macro = macro[:, 0]
        level.prior_mean.copy_(macro.mean(0))
        level.prior_std.copy_(macro.std(0).clamp_min(1e-6))
        level.prior_low.copy_(macro.quantile(0.02, 0))
        level.prior_high.copy_(macro.quantile(0.98, 0))
        level.prior_covariance.copy_(covariance(macro))
        level.action_bank.copy_(_sample(macro, size, rng))
        if isinstance(level.lift, LatentLift):
            level.bank_below.copy_(known)
            known = level.lift.network(known)
            level.bank.copy_(known)
    _fit_graphs(model, episodes, ids, seed, range(len(model.levels)))


def _fit_paths(model: Hierarchy, episodes: Episodes, ids: Ids, seed: int) -> None:
    """Which logits count as passable: those of most places that were seen, in images of other times."""
    lift, paths = model.levels[0].lift, [level.paths for level in model.levels if level.paths]
    if not paths or not isinstance(lift, ImageLift) or lift.scene is None:
        return
    rng = np.random.default_rng((seed, 2))
    chosen = rng.choice(ids, FLOORS)
    when = rng.integers(episodes.lengths[chosen][:, None], size=(FLOORS, 1 + PLACES))
    rows = episodes.offsets[chosen][:, None] + when
    _, floor = lift.scene(
        torch.from_numpy(episodes.pixels[rows[:, 0]]).to(lift.encoder.mean.device)
    )
    places = encode(model, episodes, rows[:, 1:].flatten()).unflatten(0, (FLOORS, PLACES))
    seen = logits_at(floor, places)
    for each in paths:
        each.threshold.copy_(seen.quantile(each.rare))


def add_landmarks(
    model: Hierarchy,
    episodes: Episodes,
    ids: Ids,
    configs: Mapping[int, LandmarkConfig],
    seed: int = 0,
) -> dict[int, Landmarks]:
    """Give levels of a trained model landmark graphs, made from episodes `ids`: what was found, by
    level. Nothing else of the model changes, other levels' graphs included, and
    :func:`echelon.checkpoint.save_model` keeps them. A `count` of 0 takes a graph away.
    """
    levels = list(model.config.levels)
    for index, config in configs.items():
        if not 0 <= index < len(levels):
            raise EchelonError(f"landmarks: there is no level {index}; the model has {len(levels)}")
        levels[index] = replace(levels[index], landmarks=config)
    model.config = replace(model.config, levels=tuple(levels))
    for index, config in configs.items():
        model.levels[index].set_landmarks(config)
    return _fit_graphs(model, episodes, ids, seed, configs)


@torch.no_grad()
def _fit_graphs(
    model: Hierarchy, episodes: Episodes, ids: Ids, seed: int, indices: Iterable[int]
) -> dict[int, Landmarks]:
    """Fit the landmark graphs that some levels have, on latents of the same episodes."""
    graphs = {i: graph for i in indices if (graph := model.levels[i].graph) is not None}
    if not graphs:
        return {}
    rng = np.random.default_rng((seed, 1))
    order = rng.permutation(ids)
    ends = np.cumsum(episodes.lengths[order])
    counts = {i: int(np.searchsorted(ends, graph.config.frames)) for i, graph in graphs.items()}
    rows = _rows_of(episodes, order[: max(counts.values()) + 1])
    z, found = encode(model, episodes, rows), dict[int, Landmarks]()
    for index, level in enumerate(model.levels):
        if isinstance(level.lift, LatentLift):
            z = level.lift.network(z)
        if (graph := graphs.get(index)) is None:
            continue
        lengths = torch.from_numpy(episodes.lengths[order[: counts[index] + 1]])

        def predicted(chosen: Tensor, points: Tensor, reach: Tensor, index: int = index) -> Tensor:
            return _model_edges(model, episodes, index, rows[chosen.cpu().numpy()], points, reach)

        more = predicted if graph.config.model_edges else None
        some = z[: int(lengths.sum())]
        fitted = fit_landmarks(some, lengths, graph.config, rng, level.duration, more)
        graph.fill(fitted.points, fitted.steps, fitted.speed, fitted.reach)
        found[index] = fitted
    return found


def _model_edges(
    model: Hierarchy, episodes: Episodes, index: int, rows: Ids, points: Tensor, reach: Tensor
) -> Tensor:
    """``[L, L]`` steps between landmarks (frames `rows` [L], latents ``points [L, D]``) that a level
    predicts: from the frame's state, by known actions, to within `reach` of another landmark.

    An action is held until as much time has passed as an edge takes at least.
    """
    level, first = model.levels[index], model.levels[0].lift
    assert isinstance(first, ImageLift)
    config = level.config.landmarks
    opening = episodes.offsets[np.searchsorted(episodes.offsets, rows, side="right") - 1]
    pairs = np.stack([np.maximum(rows - 1, opening), rows], 1)
    latents = encode(model, episodes, pairs.reshape(-1)).unflatten(0, (-1, 2))
    observed = {"latents": latents}
    if column := model.config.proprio:
        proprio = episodes.column(column)[rows][:, None].astype(np.float32)
        observed["proprio"] = torch.from_numpy(proprio).to(latents.device)
    state = model.lift(tree_map(lambda x: x[:, 0], first(observed)))[index]
    actions = level.action_bank[:GRAPH_ACTIONS].repeat(len(rows), 1)
    state = tree_map(lambda x: x.repeat_interleave(len(actions) // len(rows), 0), state)
    steps = math.ceil(config.gaps[0] / level.duration)
    for _ in range(steps):
        state = level.predict(state, actions)
    apart = torch.cdist(state["z"], points)
    away, nearest = apart.min(-1)
    start = torch.arange(len(rows), device=points.device)
    start = start.repeat_interleave(len(actions) // len(rows))
    edges = points.new_full((len(points), len(points)), torch.inf)
    known = away <= reach
    edges[start[known], nearest[known]] = steps + config.hop / level.duration
    return edges


def _fit_neighbours(model: Hierarchy, episodes: Episodes, ids: Ids, seed: int) -> None:
    """For each level, known places one of its steps apart."""
    for index, level in enumerate(model.levels):
        length = model.config.durations[index]
        sampler = WindowSampler.of(episodes.lengths, episodes.offsets, ids, length)
        ends = sampler.rows(NEIGHBOURS, seed, 0)[:, [0, -1]]
        place = {"z": encode(model, episodes, ends.reshape(-1))}
        for upper in model.levels[1 : index + 1]:
            place = upper.place(place)
        level.before.copy_(place["z"][::2])
        level.after.copy_(place["z"][1::2])


def _fit_recall(model: Hierarchy, episodes: Episodes, ids: Ids, seed: int) -> None:
    """Some episodes as level 0 sees them, and what was done in them."""
    level = model.levels[0]
    if level.known is None:
        return
    assert isinstance(level.lift, ImageLift)
    some = np.random.default_rng((seed, 3)).permutation(ids)
    ends = episodes.lengths[some].cumsum()
    count = min(model.config.recall, int(ends[-1]))
    rows = _rows_of(episodes, some)[:count]
    which = np.searchsorted(ends, np.arange(count), side="right")
    left = np.minimum(ends[which], count) - 1 - np.arange(count)
    first = np.concatenate([[True], np.diff(which) > 0])
    z = encode(model, episodes, rows)
    changed = level.lift.scale * (z - z.roll(1, 0))
    changed[torch.from_numpy(first).to(z.device)] = 0
    actions = torch.from_numpy(np.nan_to_num(episodes.actions[rows])).to(z)
    state = {"z": z, "dz": changed}
    if column := model.config.proprio:
        sensed = torch.from_numpy(episodes.column(column)[rows].astype(np.float32)).to(z)
        state["p"] = (sensed - level.lift.proprio_mean) / level.lift.proprio_std
    level.known.fit(state, actions, torch.from_numpy(left).to(z.device))


def covariance(samples: Tensor) -> Tensor:
    """``[N, A] -> [A, A]``"""
    centred = samples - samples.mean(0)
    return centred.T @ centred / max(len(samples) - 1, 1)


def _sample(values: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """`count` rows drawn without replacement, where there are so many."""
    rows = rng.choice(len(values), count, replace=count > len(values))
    return values[torch.from_numpy(rows).to(values.device)]


def _rows_of(episodes: Episodes, ids: Ids) -> Ids:
    """Rows of all frames of some episodes."""
    spans = zip(episodes.offsets[ids], episodes.lengths[ids], strict=True)
    return np.concatenate([np.arange(first, first + length) for first, length in spans])
