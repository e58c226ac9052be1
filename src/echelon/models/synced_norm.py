"""Normalisation by the statistics of a batch that several processes may share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from echelon.distributed import gather


class SyncedNorm(nn.Module):
    """Batch norm (arXiv 1502.03167) without gain or shift, ``[N, D] -> [N, D]``.

    In one process it is ``nn.BatchNorm1d(D, affine=False)``: statistics of the batch in training,
    running ones in evaluation. With several, the batch is that of all processes; gathering the few
    dimensions of an action whole is simpler than PyTorch's SyncBatchNorm, and needs no GPU.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, dim: int, momentum: float = 0.02, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.register_buffer("running_mean", torch.zeros(dim))
        self.register_buffer("running_var", torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.running_mean.dtype)  # half precision is too coarse for statistics
        if not self.training:
            return (x - self.running_mean) / (self.running_var + self.eps).sqrt()
        whole = gather(x)
        mean, var = whole.mean(0), whole.var(0, correction=0)
        with torch.no_grad():
            unbiased = var * (len(whole) / max(len(whole) - 1, 1))
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
        return (x - mean) / (var + self.eps).sqrt()
