"""Whether a distance of latents can be descended: figures of held-out clips that tell before any
planning does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from echelon.types import State, tree_map

Distance = Callable[[Tensor, Any], Tensor]


@torch.no_grad()
def sign_agreement(
    distance: Distance,
    z: Tensor,
    goals: State,
    away: Tensor,
    far: float,
    margin: float = 0.0,
    limit: int = 16384,
) -> float | None:
    """Far from a goal, does a step of true progress lower the distance, and a step back raise it?

    distance: ``z [M, D], goal [M, ...] -> [M]``
    z: [N, T + 1, D] held-out clips, frames one step of the level apart
    goals: [G, D], or [N, G, D] for goals of each clip's own; or a tree that has such a ``z``
    away: [N, T + 1, G] how far each frame truly is from each goal: :func:`hindsight`, or what a task
        knows of positions that no model sees, such as path lengths; NaN where it means nothing, as
        between two layouts
    far: steps that begin at least so far away are counted
    margin: ... and that change the true distance by more than this
    limit: of all that could be counted, so many at most, evenly picked

    Returns the share of steps where both distances change in the same direction (no change at all
    is half of one): 1 is perfect, 0.5 is chance, less is deceptive; None where no step counts.
    """
    before, after = away[:, :-1], away[:, 1:]
    change = after - before
    counted = ((before >= far) & (change.abs() > margin)).nonzero()
    if not len(counted):
        return None
    clip, time, goal = counted[_even(len(counted), limit, z.device)].unbind(1)
    own = (goals["z"] if isinstance(goals, Mapping) else goals).ndim == 3
    aim = tree_map(lambda x: x[clip, goal] if own else x[goal], goals)
    descent = distance(z[clip, time + 1], aim) - distance(z[clip, time], aim)
    agrees = descent.sign() * change[clip, time, goal].sign().to(descent)
    return float((1 + agrees).mean() / 2)


def hindsight(frames: int, device: torch.device | None = None) -> Tensor:
    """``[frames, frames]`` steps from each frame of a clip to each later one, NaN to earlier ones.

    For `sign_agreement(distance, z, z, hindsight(T + 1).expand(N, -1, -1), far)`: what the clip did
    next counts as progress. Noisy truth: wandering clips take detours, and reach what they would
    have reached in less time.
    """
    time = torch.arange(frames, dtype=torch.float32, device=device)
    gap = time - time[:, None]
    return gap.masked_fill(gap < 0, torch.nan)


@torch.no_grad()
def time_correlation(distance: Distance, z: Tensor, limit: int = 65536) -> float | None:
    """Spearman's rank correlation of distance with time apart, over pairs of one clip's frames.

    z: [N, T + 1, D]. At most `limit` pairs are used, evenly picked. None where there is nothing to
    rank: a single time apart, or distances that are all the same.
    """
    clips, frames, _ = z.shape
    first, second = torch.triu_indices(frames, frames, 1, device=z.device)
    pairs = _even(clips * len(first), limit, z.device)
    clip, pair = pairs // max(1, len(first)), pairs % max(1, len(first))
    found = distance(z[clip, first[pair]], z[clip, second[pair]])
    return _spearman(found, (second - first)[pair])


def _spearman(a: Tensor, b: Tensor) -> float | None:
    """Pearson's correlation of the ranks of ``a [M]`` and ``b [M]``."""
    a, b = (ranks - ranks.mean() for ranks in (_ranks(a), _ranks(b)))
    scale = float(a.norm() * b.norm())
    return float(a @ b) / scale if scale else None


def _ranks(values: Tensor) -> Tensor:
    """``[M] -> [M]``, from 1 up; equal values share the mean of their ranks."""
    _, which, counts = values.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2).double()[which]


def _even(count: int, limit: int, device: torch.device) -> Tensor:
    """At most `limit` of the numbers below `count`, evenly spaced, the first always among them."""
    kept = min(count, limit)
    return torch.arange(kept, device=device) * count // max(1, kept)
