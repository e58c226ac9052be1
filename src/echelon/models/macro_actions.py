"""Macro-actions: a segment of lower-level actions, summarised (a learned option)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from echelon.distributed import normal_like
from echelon.models.attention import Block
from echelon.models.predictors import mlp
from echelon.models.synced_norm import SyncedNorm


class PrimitiveAction(nn.Module):
    """Level 0: a segment of one action is that action, ``[..., 1, A] -> [..., A]``."""

    def forward(self, segment: Tensor) -> Tensor:
        return segment.squeeze(-2)


class SegmentMLP(nn.Module):
    """A fixed-length segment ``[..., stride, A] -> [..., A_macro]``, each dimension of unit variance.

    The normalisation is a batch norm without gain: it keeps the macro-actions where a search
    samples them, which a predictor alone would be free to scale and shift. Noise in training keeps
    neighbouring macro-actions meaning neighbouring things.
    """

    def __init__(self, stride: int, action_dim: int, macro_dim: int, noise: float) -> None:
        super().__init__()
        self.network = mlp(stride * action_dim, 64, 1, macro_dim)
        self.normalize = SyncedNorm(macro_dim)
        self.noise = noise

    def forward(self, segment: Tensor) -> Tensor:
        macro = self.network(segment.flatten(-2))
        macro = self.normalize(macro.reshape(-1, macro.shape[-1])).reshape(macro.shape)
        if self.training:
            macro = macro + self.noise * normal_like(macro)
        return macro


class ConcatenatedActions(nn.Module):
    """The control: nothing is summarised, ``[..., stride, A] -> [..., stride * A]``."""

    def __init__(self, stride: int, action_dim: int) -> None:
        super().__init__()
        self.macro_dim = stride * action_dim

    def forward(self, segment: Tensor) -> Tensor:
        return segment.flatten(-2)


class SegmentTransformer(nn.Module):
    """A segment of any length, ``[..., L, A] -> [..., A_macro + 1]``, its duration appended.

    A transformer over the actions and one token more, which is read out (CLS; BERT, arXiv
    1810.04805, section 3). The macro-action is normalised and disturbed as in :class:`SegmentMLP`.
    The last number is the segment's share of the stride, exactly: 1 where a search uses it.
    """

    def __init__(
        self,
        stride: int,
        action_dim: int,
        macro_dim: int,
        noise: float,
        width: int = 64,
        heads: int = 4,
        depth: int = 1,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.noise = noise
        self.embed = nn.Linear(action_dim, width)
        self.cls = nn.Parameter(0.02 * torch.randn(width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.readout = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, macro_dim))
        self.normalize = SyncedNorm(macro_dim)

    def forward(self, segment: Tensor, lengths: Tensor | None = None) -> Tensor:
        """lengths: [...] long, how many of the L actions count, from the first; None for all."""
        leading, longest = segment.shape[:-2], segment.shape[-2]
        if lengths is None:
            lengths = torch.full(leading, longest, device=segment.device)
        places = torch.arange(longest + 1, device=segment.device)
        seen = places <= lengths.reshape(-1, 1)  # [N, 1 + L]; CLS always
        actions = segment.reshape(-1, *segment.shape[-2:]).masked_fill(~seen[:, 1:, None], 0)
        tokens = torch.cat([self.cls.expand(len(actions), 1, -1), self.embed(actions)], 1)
        for block in self.blocks:
            tokens = block(tokens, places[:, None], seen[:, None, :])
        macro = self.normalize(self.readout(tokens[:, 0]))
        if self.training:
            macro = macro + self.noise * normal_like(macro)
        share = lengths / self.stride
        return torch.cat([macro.reshape(*leading, -1), share[..., None]], -1)
