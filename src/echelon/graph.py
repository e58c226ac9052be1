"""A graph of known latents: landmarks among them, and how many steps lie between any two.

Latents in, numbers out: nothing here knows of models or episodes. :mod:`echelon.statistics` fits such
a graph to a level, and :class:`echelon.models.landmarks.LandmarkGraph` measures with it.

Source: the farthest-point landmarks and shortest paths over replayed transitions of SoRB (arXiv
1906.05253) and L3P (arXiv 2011.12491). Deviations: the edges are times that were seen, no learned
distance, so that the graph needs no training.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from echelon.config import LandmarkConfig

CANDIDATES = 20_000
"""latents that landmarks are chosen from, at most"""
WITHIN = 0.99
"""share of the latents that lie within `reach` of a landmark"""


@dataclass(frozen=True)
class Landmarks:
    """What :func:`fit_landmarks` finds; L may be less than asked for where latents are few."""

    rows: Tensor
    """[L] which latents became landmarks"""
    points: Tensor
    """[L, D] those latents"""
    steps: Tensor
    """[L, L] steps of the shortest path from row to column; infinite where there is none"""
    speed: Tensor
    """() latent distance of two landmarks that an edge joins, for each of its steps (median)"""
    reach: Tensor
    """() latent distance to the nearest landmark that nearly all latents lie within"""

    @property
    def unreachable(self) -> float:
        """Share of the pairs that no path joins."""
        return float(self.steps.isinf().float().mean())


@torch.no_grad()
def fit_landmarks(
    z: Tensor,
    lengths: Tensor,
    config: LandmarkConfig,
    rng: np.random.Generator,
    duration: int = 1,
    more: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
) -> Landmarks:
    """Landmarks and shortest paths of the episodes ``z [N, D]``, end to end, ``lengths [E]`` each.

    duration: frames a step of the level. Gaps are counted in frames, paths in steps.
    more: further edges, from ``(rows [L], points [L, D], reach [])`` to ``[L, L]`` steps, infinite
        where there is none.
    """
    rows = _choose(z, config, rng)
    points = z[rows]
    nearest, away = _nearest(z, points)
    reach = away.kthvalue(math.ceil(WITHIN * len(away))).values
    edges = _edges(nearest, lengths, len(points), config, duration)
    edges.fill_diagonal_(0)
    start, end = (edges.isfinite() & (edges > 0)).nonzero(as_tuple=True)
    apart = torch.linalg.vector_norm(points[start] - points[end], dim=-1)
    # Without a single edge any speed will do: nothing is reachable.
    speed = (apart / edges[start, end]).median() if len(start) else reach
    if more is not None:
        edges = torch.minimum(edges, more(rows, points, reach))
    return Landmarks(rows, points, shortest_paths(edges), speed.clamp_min(1e-6), reach)


def shortest_paths(edges: Tensor) -> Tensor:
    """``[L, L] -> [L, L]`` by Floyd and Warshall; infinite where there is no edge, or no path."""
    steps = edges.clone()
    for middle in range(len(steps)):
        torch.minimum(steps, steps[:, middle, None] + steps[middle], out=steps)
    return steps


def _choose(z: Tensor, config: LandmarkConfig, rng: np.random.Generator) -> Tensor:
    """``[N, D] -> [L]``: farthest points, moved to the middle of what is near, snapped to latents."""
    among = rng.permutation(len(z))[:CANDIDATES]
    index = torch.from_numpy(among).to(z.device)
    some, count = z[index], min(config.count, len(among))
    chosen = torch.zeros(count, dtype=torch.long, device=z.device)
    apart = torch.full((len(some),), torch.inf, device=z.device)
    for i in range(1, count):
        apart = torch.minimum(apart, (some - some[chosen[i - 1]]).square().sum(-1))
        chosen[i] = apart.argmax()
    centres = some[chosen]
    for _ in range(config.iterations):
        nearest, _ = _nearest(some, centres)
        sums = torch.zeros_like(centres).index_add_(0, nearest, some)
        sizes = nearest.bincount(minlength=count).to(z.dtype)[:, None]
        centres = torch.where(sizes > 0, sums / sizes.clamp_min(1), centres)
    snapped, _ = _nearest(centres, some)
    return index[snapped.unique()]


def _nearest(z: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """``[N, D], [L, D] -> [N], [N]``: the nearest point's index, and how far it is."""
    half = points.square().sum(-1) / 2
    index = torch.cat([(half - part @ points.T).argmin(-1) for part in z.split(CANDIDATES)])
    return index, torch.linalg.vector_norm(z - points[index], dim=-1)


def _edges(
    nearest: Tensor, lengths: Tensor, count: int, config: LandmarkConfig, duration: int
) -> Tensor:
    """``[N] -> [L, L]``: the least gap seen from near one landmark to near another, in steps."""
    least = torch.full((count * count,), torch.inf, device=nearest.device)
    episode = torch.repeat_interleave(lengths.to(nearest.device))
    for gap in range(config.gaps[1], config.gaps[0] - 1, -1):  # the shortest is written last
        same = episode[:-gap] == episode[gap:]
        pair = (nearest[:-gap] * count + nearest[gap:])[same]
        least[pair] = (gap + config.hop) / duration
    return least.view(count, count)
