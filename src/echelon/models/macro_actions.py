"""Macro-actions: a segment of lower-level actions, summarised (a learned option)."""

from __future__ import annotations

from torch import Tensor, nn

from echelon.distributed import normal_like
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
