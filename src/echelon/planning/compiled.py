"""Compiled code for what a search evaluates: fewer kernels, and on a GPU one launch of them all."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from functools import cache
from types import FunctionType

import torch
from torch import Tensor

from echelon.types import State, tree_leading, tree_map

LONGEST = 32
"""steps of a horizon that are compiled, at most: every one of them adds to the time it takes"""


class Compiled:
    """A function of trees of tensors ``[B, ...]`` to a tensor ``[B, ...]``, compiled when it is first
    called, for any sizes. Where there is no compiler, or it fails, the function as it is.

    On a GPU a call is a replay of CUDA graphs. One is recorded for each B, so B is filled up to a power
    of two with copies of the first row.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self._plain = function
        self._fast: Callable[..., Tensor] | None = None
        self._failed = False

    def __call__(self, *inputs: State) -> Tensor:
        if self._failed:
            return self._plain(*inputs)
        try:
            return self._run(*inputs)
        except Exception as error:
            # Compilers have many of them; one of the function's own comes again below.
            self._failed = True
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            tell(f"planning goes on without compiled code: {reason}")
            return self._plain(*inputs)

    def _run(self, *inputs: State) -> Tensor:
        (batch,) = tree_leading(inputs)
        on_gpu = inputs[-1].is_cuda
        fast = self._fast = self._fast or _compile(self._plain, on_gpu)
        if not on_gpu:
            return fast(*inputs)
        # The next replay writes its answer where this one did.
        return fast(*tree_map(filled, inputs))[:batch].clone()


def _compile(function: Callable[..., Tensor], on_gpu: bool) -> Callable[..., Tensor]:
    if not on_gpu and not _has_compiler():
        raise FileNotFoundError("no C++ compiler is found")
    mode = "reduce-overhead" if on_gpu else None
    return torch.compile(_alone(function), dynamic=True, mode=mode)


def filled(x: Tensor) -> Tensor:
    """``[B, ...]`` with copies of the first row, up to the next power of two."""
    more = (1 << (len(x) - 1).bit_length()) - len(x)
    return torch.cat([x, x[:1].expand(more, *x.shape[1:])]) if more else x


def _alone(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same under code of its own: PyTorch stops compiling what it has compiled a few times, and
    tells functions apart by their code.
    """

    def call(*inputs: State) -> Tensor:
        return function(*inputs)

    own = call.__code__.replace(co_name=f"call_{id(function)}")
    return FunctionType(own, call.__globals__, own.co_name, None, call.__closure__)


def _has_compiler() -> bool:
    """PyTorch would notice as well, but after most of the work."""
    names = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++", "cl"]
    return any(shutil.which(name) for name in names)


@cache
def tell(message: str) -> None:
    """Once."""
    logging.getLogger("echelon").warning(message)
