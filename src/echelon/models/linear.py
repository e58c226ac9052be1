"""Linear layers that take half of the time on an AMD processor."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEWEST = 64
"""rows for which oneDNN's multiplication is the faster one"""


class Linear(nn.Linear):
    """``[..., I] -> [..., O]``, as PyTorch's, by oneDNN where many rows are on a CPU. That was twice as
    fast on an AMD EPYC with AVX-512 as the BLAS that PyTorch comes with, which is Intel's.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not _suits(input):
            return super().forward(input)
        rows = input.reshape(-1, self.in_features).to_mkldnn()
        found: Tensor = F.linear(rows, self.weight, self.bias).to_dense()
        return found.unflatten(0, input.shape[:-1])


def _suits(x: Tensor) -> bool:
    if torch.compiler.is_compiling():  # before its size is asked for, to which code would be bound
        return False
    plain = x.device.type == "cpu" and x.dtype == torch.float32
    if not plain or x.numel() < FEWEST * x.shape[-1] or not torch.backends.mkldnn.is_available():
        return False
    return not torch.is_autocast_enabled("cpu")
