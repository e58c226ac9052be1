"""Predictors side by side, whose disagreement says where none of them knows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from echelon.models.predictors import WithMemory


class Ensemble(WithMemory):
    """Each member is trained on a share of the windows of its own; their mean is what they predict.

    Beside the state travels ``doubt [...]``: the spread of the members' latents (root mean square of
    their deviation from the mean), summed over the steps predicted so far. Source: PETS (arXiv
    1805.12114). Deviations: members predict states, no distributions, and a plan follows their mean.
    """

    part = "doubt"

    def __init__(self, members: Sequence[nn.Module], latent_dim: int) -> None:
        """latent_dim: how much of a state, from its beginning, is the place that doubt is about"""
        super().__init__()
        self.members = nn.ModuleList(members)
        self.latent_dim = latent_dim

    def forward(self, x: Tensor, action: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor]:
        """See :class:`WithMemory`; in training members share the rows, and nobody doubts."""
        if kept is None:
            kept = x.new_zeros(x.shape[:-1])
        count = len(self.members)
        if self.training:
            parts = zip(
                self.members, x.tensor_split(count), action.tensor_split(count), strict=True
            )
            return torch.cat([member(*part) for member, *part in parts]), kept
        every = torch.stack([member(x, action) for member in self.members])
        spread = every[..., : self.latent_dim].var(0, correction=0).mean(-1).sqrt()
        return every.mean(0), kept + spread
