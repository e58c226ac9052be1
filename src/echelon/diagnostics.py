"""What a trained model is good for: how far each level can be rolled out, and what its latents mean.

Figures in cells come from locating latents in an `Atlas`; the report draws what is found here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from echelon.atlas import Atlas
from echelon.data.episodes import Episodes
from echelon.data.windows import coarsen
from echelon.envs import layouts
from echelon.envs.layouts import Layout
from echelon.envs.mazes import MazeTask
from echelon.images import png_text
from echelon.losses import effective_rank
from echelon.models.hierarchy import Hierarchy
from echelon.planning.planner import rollout
from echelon.types import DistanceKind, EchelonError, Window, tree_map

Array = NDArray[Any]

FAR = 6
"""cells; from here on local sign agreement is counted"""
WINDOWS = 300
"""stretches of held-out episodes that the open-loop error is averaged over"""


@torch.no_grad()
def diagnose(
    model: Hierarchy, episodes: Episodes, held_out: Array, layout: Layout, seed: int = 0
) -> dict[str, Any]:
    """Everything that the report's section on the model shows; see :mod:`echelon.report.html`.

    layout: one of those that the episodes were collected in; those held out in it are looked at.
    """
    atlas = Atlas.of(model, layout, spacing=0.1)
    held_out = _collected_in(layout, episodes, held_out)
    frames, actions, places = _stretches(episodes, held_out, model.context, seed)
    example = frames[0, 1]
    return {
        "open_loop": open_loop(model, atlas, frames, actions, places),
        "latents": [
            latent_figures(model, index, atlas, frames) for index in range(len(model.levels))
        ],
        "layout": layout.tolist(),
        "observation_png": png_text(example),
        "goal_png": png_text(frames[1 % len(frames), -1]),
    }


def _collected_in(layout: Layout, episodes: Episodes, ids: Array) -> Array:
    some = MazeTask.layouts_of(episodes.meta)
    if len(some) == 1:
        return ids
    number = next(i for i, known in enumerate(some) if np.array_equal(known, layout))
    found = ids[episodes.column("layout")[episodes.offsets[ids]] == number]
    if len(found) == 0:
        raise EchelonError(
            f"{episodes.path}: no held-out episode is in layout {number}; collect more"
        )
    return found


def _stretches(
    episodes: Episodes, held_out: Array, context: int, seed: int
) -> tuple[Array, Array, Array]:
    """Held-out frames [W, T + context, ...], actions [W, T, A], places [W, T + 1, 2]."""
    lengths = episodes.lengths[held_out]
    length = int(np.median(lengths))
    fit = held_out[lengths >= length]
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(fit)[: min(len(fit), WINDOWS)]
    rows = episodes.offsets[chosen][:, None] + np.arange(length)
    places = episodes.column("state")[rows][:, context - 1 :, :2]
    return episodes.pixels[rows], episodes.actions[rows][:, context - 1 : -1], places


def open_loop(
    model: Hierarchy, atlas: Atlas, frames: Array, actions: Array, places: Array
) -> dict[str, Any]:
    """Mean error in cells of each level's rollout under the logged actions, by environment steps.

    A predicted latent is located as the known place with the nearest latent of that level. The bands
    are two standard errors over stretches.
    """
    device = next(model.parameters()).device
    clip = torch.from_numpy(frames[:, : model.context]).to(device)
    states = model.lift(model.encode(clip))
    window = Window(states[0], torch.from_numpy(actions).to(device))
    curves: list[dict[str, Any]] = []
    for index, (level, state) in enumerate(zip(model.levels, states, strict=True)):
        if index:
            window = coarsen(
                Window(tree_map(lambda x: x[:, None], state), window.actions),
                level.stride,
                lambda x: x,
                level.encode_action,
            )
        duration = model.config.durations[index]
        predicted = rollout(level, state, window.actions[:, None])["z"][:, 0]
        count = predicted.shape[1]
        shown = (
            np.unique(np.geomspace(1, count, 14).astype(int)) if index == 0 else range(1, count + 1)
        )
        error = np.stack(
            [
                np.linalg.norm(
                    atlas.locate(index, predicted[:, t - 1]) - places[:, t * duration], axis=-1
                )
                for t in shown
            ]
        )
        name = f"level {index}" + (" (fine)" if index == 0 else " (coarse)" if index == 1 else "")
        curves.append(_curve(name, [int(t) * duration for t in shown], error) | {"level": index})
    steps = [int(t) for t in np.unique(np.geomspace(1, actions.shape[1], 14).astype(int))]
    still = np.stack([np.linalg.norm(places[:, t] - places[:, 0], axis=-1) for t in steps])
    middle = places.reshape(-1, 2).mean(0)
    mean = np.stack([np.linalg.norm(places[:, t] - middle, axis=-1) for t in steps])
    curves += [_curve("no change", steps, still), _curve("mean", steps, mean)]
    return {"unit": "cells", "curves": curves}


def _curve(name: str, steps: list[int], error: Array) -> dict[str, Any]:
    """error: [steps, W]"""
    mean, spread = error.mean(1), 2 * error.std(1) / np.sqrt(error.shape[1])
    return {
        "name": name,
        "steps": steps,
        "error": _rounded(mean),
        "low": _rounded(mean - spread),
        "high": _rounded(mean + spread),
    }


def latent_figures(model: Hierarchy, index: int, atlas: Atlas, frames: Array) -> dict[str, Any]:
    """How level `index` uses its latent space, and whether its distance can be descended."""
    device = next(model.parameters()).device
    level0 = model.levels[0].lift
    latents: list[Tensor] = []
    for stretch in frames:
        state = level0(torch.from_numpy(stretch).to(device))
        latents.append(model.lift(state)[index]["z"].cpu())
    z = torch.stack(latents)
    flat = z.flatten(0, 1)
    gaps = [int(g) for g in np.unique(np.geomspace(1, z.shape[1] - 1, 12).astype(int))]
    apart = [(z[:, g:] - z[:, :-g]).square().mean(-1).sqrt().flatten() for g in gaps]
    quantiles = [
        torch.quantile(d[:: max(1, len(d) // 20000)], torch.tensor([0.1, 0.9])) for d in apart
    ]
    goal = int(np.argmax(atlas.path_lengths()))
    distance = (atlas.latents[index] - atlas.latents[index][goal]).square().mean(-1).sqrt()
    shown = np.arange(0, len(atlas.places), max(1, len(atlas.places) // 800))
    return {
        "level": index,
        "dim": z.shape[-1],
        "effective_rank": round(effective_rank(flat[::7]).item(), 2),
        "std": _rounded(np.sort(flat.std(0).numpy())[::-1]),
        "sign_agreement": sign_agreement(model, index, atlas),
        "distance_by_gap": {
            "steps": gaps,
            "mean": _rounded(np.array([d.mean().item() for d in apart])),
            "low": _rounded(np.array([q[0].item() for q in quantiles])),
            "high": _rounded(np.array([q[1].item() for q in quantiles])),
        },
        "distance_map": {
            "goal": _rounded(atlas.places[goal]),
            "places": [_rounded(p) for p in atlas.places[shown]],
            "distance": _rounded(distance.numpy()[shown]),
        },
    }


@torch.no_grad()
def sign_agreement(
    model: Hierarchy,
    level: int,
    atlas: Atlas,
    measure: DistanceKind = "level",
) -> float | None:
    """Of all steps to a neighbouring cell that is nearer to a goal at least `FAR` cells away, the
    share that lowers the level's distance to that goal, as `measure` has it; 0.5 is chance, below it
    is deceptive, and None is a layout without goals so far away.
    """
    cells = layouts.free_cells(atlas.layout)
    middle = torch.stack([_latent_at(atlas, level, cell + 0.5) for cell in cells])
    z = middle.to(next(model.parameters()).device)
    distance = model.levels[level].measure(measure)
    between = distance({"z": z[:, None]}, {"z": z}).cpu().numpy()
    length = layouts.between(atlas.layout)
    a, b = np.nonzero(length == 1)
    nearer = (length[b] == length[a] - 1) & (length[a] >= FAR)
    if not nearer.any():
        return None
    return round(float((between[b] < between[a])[nearer].mean()), 4)


def _latent_at(atlas: Atlas, level: int, place: Array) -> Tensor:
    return atlas.latents[level][int(np.linalg.norm(atlas.places - place, axis=-1).argmin())]


def _rounded(values: Array) -> list[float]:
    return [float(f"{v:.4g}") for v in np.asarray(values, float)]
