"""Keeping the cheapest different sequences of a search."""

from __future__ import annotations

import torch
from torch import Tensor

from echelon.types import EchelonError


def finite(costs: Tensor) -> Tensor:
    """Costs with infinity for what is not a number, or not finite either way."""
    return costs.nan_to_num(torch.inf, torch.inf, torch.inf)


def take(plans: Tensor, index: Tensor) -> Tensor:
    """``plans [B, K, H, A], index [B, N] -> [B, N, H, A]``"""
    return torch.take_along_dim(plans, index[:, :, None, None], 1)


def cheapest(plans: Tensor, costs: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """``[B, K, H, A], [B, K] -> [B, keep, H, A], [B, keep]``, different and in order of cost.

    Where fewer than `keep` differ, or have a finite cost, the last one repeats.
    """
    left = costs
    found, paid = list[Tensor](), list[Tensor]()
    for number in range(keep):
        cost, index = left.min(1, keepdim=True)
        plan = take(plans, index)
        if number:
            more = cost.isfinite()
            plan = torch.where(more[:, :, None, None], plan, found[-1])
            cost = torch.where(more, cost, paid[-1])
        found.append(plan)
        paid.append(cost)
        if number + 1 < keep:
            left = left.masked_fill((plans == plan).all(-1).all(-1), torch.inf)
    return torch.cat(found, 1), torch.cat(paid, 1)


class Best:
    """The `keep` cheapest different sequences of all rounds so far."""

    def __init__(self, keep: int, candidates: int) -> None:
        """candidates: of the first round, which must fill it."""
        if not 1 <= keep <= candidates:
            raise EchelonError(
                f"keep: {keep} plans, but a round evaluates {candidates}; use 1 to {candidates}"
            )
        self.keep = keep
        self.found: tuple[Tensor, Tensor] | None = None
        """[B, keep, H, A] and their costs [B, keep], such as they are"""

    def add(self, plans: Tensor, costs: Tensor) -> None:
        """Those of another round: ``[B, K, H, A], [B, K]``."""
        new = cheapest(plans, costs, self.keep)
        if self.found is not None:
            plans, costs = self.found
            plans, costs = torch.cat([plans, new[0]], 1), torch.cat([costs, new[1]], 1)
            new = cheapest(plans, costs, self.keep)
        self.found = new

    def result(self) -> tuple[Tensor, Tensor]:
        """``[B, keep, H, A], [B, keep]``; an error where a row never had a finite cost."""
        assert self.found is not None
        plans, costs = self.found
        if not costs[:, 0].isfinite().all():
            bad = int((~costs[:, 0].isfinite()).sum())
            raise EchelonError(
                f"planning: the cost of every candidate is NaN or infinite in {bad} of {len(costs)} "
                "environments; the model's predictions are not finite there"
            )
        return plans, costs
