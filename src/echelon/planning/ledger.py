"""Counting what planning spends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def macs_of(function: Callable[..., Any], *inputs: Any) -> int:
    """Multiply-accumulates of one call, by PyTorch's own counter."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        function(*inputs)
    return counter.get_total_flops() // 2
