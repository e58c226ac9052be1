"""One batch over several processes: what a loss must know of it.

Under data-parallel training each process holds a share of the batch, the shares are equal, and the
gradient is the mean of the processes' gradients. A term that is a mean over the batch is right as it
stands; one that is a statistic of the whole batch must see all of it, and noise must be drawn as for
all of it. With one process, whether or not `torch.distributed` runs, nothing here does anything.

Random numbers are the same as with one process where all processes have the same seed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


def world_size() -> int:
    """Number of processes that share a batch."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather(z: Tensor) -> Tensor:
    """``[N, ...] -> [N * processes, ...]``: the rows of all processes, in the order of their ranks.

    The gradient that reaches `z` is the sum of what the losses of *all* processes ask of it, so that
    the mean over processes is the gradient of their mean loss, exactly. A collective call: every
    process must make it, with equal shapes.
    """
    return z if world_size() == 1 else _Gather.apply(z)


def normal_like(z: Tensor) -> Tensor:
    """Standard normal noise of the shape of `z` [N, ...]: its rows of the whole batch's noise."""
    world = world_size()
    noise = torch.randn((world * len(z), *z.shape[1:]), dtype=z.dtype, device=z.device)
    return noise if world == 1 else noise.chunk(world)[dist.get_rank()]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        parts = [torch.empty_like(z) for _ in range(world_size())]
        dist.all_gather(parts, z.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(world_size())[dist.get_rank()]
