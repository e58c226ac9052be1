"""How a distance learns to be time apart, from windows of latents and nothing else.

Each term takes points [B, T + 1, E] of windows, drawn at random from all data, and a function
``distance(points [..., E], goals [..., E]) -> [...]`` in steps. A mean over pairs, so that a weight
keeps its meaning when the batch grows. Gradients reach whatever the points were computed from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from echelon.config import DistanceConfig
from echelon.types import EchelonError

Distance = Callable[[Tensor, Tensor], Tensor]

SHARPNESS = 8.0
"""of the soft limit on how far random pairs are pushed apart: ``softplus(8 - 8 d / horizon)``"""
FRAMES = 2048
"""of a batch that a head learns from at most: long windows hold more pairs than it has use for"""
GROUP = 64
"""windows among which the contrastive form compares every start with every goal"""


class Head(Protocol):
    """A distance in two halves, so that a latent in many pairs is embedded once."""

    def embed(self, z: Tensor) -> Tensor:
        """``z [..., D] -> point [..., E]``"""
        ...

    def between(self, point: Tensor, goal: Tensor) -> Tensor:
        """``points [..., E], [..., E] -> [...]`` steps"""
        ...


def distance_terms(head: Head, z: Tensor, config: DistanceConfig) -> dict[str, Tensor]:
    """The weighted terms that train a head by ``z [B, T + 1, D]``, T >= 1.

    Detach `z` where the distance shall not shape the latents. No terms where `kind` is latent.
    """
    if config.kind == "latent":
        return {}
    points = head.embed(z[: max(2, FRAMES // z.shape[1])])
    if config.kind == "quasimetric":
        terms = {
            "distance_apart": apart(head.between, points, config.horizon),
            "distance_excess": config.penalty * excess(head.between, points, config.gaps),
        }
    elif config.kind == "expectile":
        error = temporal_difference(head.between, points, config.horizon, config.expectile)
        terms = {"distance_expectile": error}
    else:
        terms = {"distance_contrastive": contrastive(head.between, points, config.mean_gap)}
    return {name: config.weight * term for name, term in terms.items()}


def apart(distance: Distance, points: Tensor, horizon: float) -> Tensor:
    """Pushes random pairs apart up to about the horizon (QRL, arXiv 2304.01203).

    The largest quasimetric in which no step is longer than 1 is the length of the shortest path;
    :func:`excess` is that constraint. Deviation: its multiplier is fixed, not learned, which needs
    nothing of the optimizer and leaves an excess that is known beforehand.
    """
    # Windows come in random order, so a neighbour in the batch is a random window.
    far = distance(points, points.roll(1, 0).flip(1))
    return functional.softplus(SHARPNESS * (1 - far / horizon)).mean()


def excess(distance: Distance, points: Tensor, gaps: Sequence[int]) -> Tensor:
    """Mean squared share by which frames k steps apart are farther apart than k, k in `gaps`.

    Relative, so that the longer gaps and the unit of time leave the term's scale as it is.
    """
    steps = points.shape[1] - 1
    fit = [gap for gap in gaps if gap <= steps]
    if not fit:
        raise EchelonError(
            f"distance.gaps: none of {tuple(gaps)} fits into a window of {steps} steps; add "
            "shorter gaps, or train with a longer rollout"
        )
    over = [distance(points[:, :-gap], points[:, gap:]) / gap - 1 for gap in fit]
    return torch.stack([torch.relu(share).square().mean() for share in over]).mean()


def temporal_difference(
    distance: Distance, points: Tensor, horizon: float, expectile: float
) -> Tensor:
    """Expectile regression of ``d(z_t, g)`` to ``1 + d(z_{t+1}, g)``, which takes no gradient.

    One goal a frame from its own future, one from another window. The expectile (the asymmetric
    squares of IQL, arXiv 2110.06169, here below a half) prefers the steps that turned out short.
    Deviations: a goal from its own future is never farther than the time that it took, which anchors
    the recursion, and no distance is learned beyond the horizon, which stops it where a goal is out
    of reach.
    """
    batch, frames, _ = points.shape
    now, after = points[:, :-1], points[:, 1:]
    left = torch.arange(frames - 1, 0, -1, device=points.device)
    chance = torch.rand(batch, frames - 1, device=points.device)
    gap = torch.minimum((chance * (left + 1)).long(), left)
    index = torch.arange(frames - 1, device=points.device) + gap
    future = points.gather(1, index[..., None].expand(-1, -1, points.shape[-1]))
    goal = torch.stack([future, points.roll(1, 0).flip(1)[:, 1:]])
    limit = torch.stack([gap.to(points.dtype), torch.full_like(gap, horizon, dtype=points.dtype)])
    with torch.no_grad():
        target = torch.minimum(1 + distance(after, goal).relu(), limit.clamp_max(horizon))
    error = (target - distance(now, goal)) * (SHARPNESS / horizon)
    return (torch.where(error < 0, 1 - expectile, expectile) * error.square()).mean()


def contrastive(distance: Distance, points: Tensor, mean_gap: float) -> Tensor:
    """InfoNCE: of all frames of a batch, which one came before a goal, `mean_gap` steps on average?

    For gaps k of probability ``(1 - c) c^k`` the best logit is ``log p(goal | z)``, up to what
    depends on the goal alone. It is ``d log c``, and d the steps to the goal where they are certain:
    the successor distance of arXiv 2406.17098. Deviations: normalised over starts alone, so that the
    goal's part cancels and needs no network; gaps end with the window.
    """
    log_discount = -math.log1p(1 / mean_gap)
    batch, frames, _ = points.shape
    row = torch.arange(batch, device=points.device)
    chance, place = torch.rand(2, batch, device=points.device)
    # The inverse of the cumulative probability of gaps that fit into the window.
    missing = torch.log1p(chance * math.expm1(log_discount * frames))
    gap = (missing / log_discount).long().clamp_max(frames - 1)
    first = torch.minimum((place * (frames - gap)).long(), frames - 1 - gap)
    starts, goals = points[row, first], points[row, first + gap]
    losses = [
        functional.cross_entropy(
            log_discount * distance(near, goal[:, None]),
            torch.arange(len(goal), device=points.device),
            reduction="sum",
        )
        for near, goal in zip(starts.split(GROUP), goals.split(GROUP), strict=True)
    ]
    return torch.stack(losses).sum() / batch
