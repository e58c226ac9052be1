"""Windows of logged experience, and how each level sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from echelon.types import EchelonError, State, Window, tree_map

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class WindowSampler:
    """Where windows of `length` steps may start, and which of them a training step sees.

    A batch is a function of (seed, step) alone, so that training resumed at a step sees what training
    never stopped would have seen, and several processes see together what one would.
    """

    starts: np.ndarray
    """[N] row of the first frame of every window that fits in one episode"""
    length: int
    """steps; a window spans length + 1 frames"""

    @staticmethod
    def of(
        lengths: np.ndarray, offsets: np.ndarray, episodes: np.ndarray, length: int
    ) -> WindowSampler:
        """All windows of `length` steps inside `episodes` (lengths in frames, offsets in rows)."""
        counts = np.maximum(lengths[episodes] - length, 0)
        if counts.sum() == 0:
            longest = int(lengths[episodes].max(initial=1)) - 1
            raise EchelonError(
                f"a training window spans {length} steps, but the longest episode has {longest}: "
                "use a smaller stride or rollout, or longer episodes"
            )
        first = np.repeat(offsets[episodes] - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
        return WindowSampler(first + np.arange(counts.sum()), length)

    def rows(self, batch: int, seed: int, step: int, rank: int = 0, world: int = 1) -> np.ndarray:
        """``[batch / world, length + 1]`` rows of the frames of a batch: the share of process `rank`.

        The shares of all `world` processes, one after the other, are the batch of one process. They
        must be equal, so that the mean of the processes' gradients is that of the batch: else it is
        an EchelonError.
        """
        if batch % world:
            raise EchelonError(
                f"stages: a batch_size of {batch} cannot be shared equally by {world} processes; "
                f"use a multiple of {world}"
            )
        rng = np.random.default_rng((seed, step))
        share = slice(rank * batch // world, (rank + 1) * batch // world)
        first = self.starts[rng.integers(len(self.starts), size=batch)[share]]
        return first[:, None] + np.arange(self.length + 1)


def coarsen(
    window: Window,
    stride: int,
    lift: Callable[[State], State],
    encode_action: Callable[[Tensor], Tensor],
) -> Window:
    """The window of a level from the window of the level below; steps left over are dropped."""
    steps = window.actions.shape[1] // stride
    batch, _, size = window.actions.shape
    segments = window.actions[:, : steps * stride].reshape(batch, steps, stride, size)
    kept = tree_map(lambda x: x[:, : steps * stride + 1 : stride], window.states)
    return Window(lift(kept), encode_action(segments))


def prefetched(
    batches: Callable[[int], Batch], start: int, stop: int
) -> Iterator[tuple[int, Batch]]:
    """Batches in order, each gathered in the background while the one before is trained on."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(batches, start) if start < stop else None
        for step in range(start, stop):
            assert coming is not None
            ready = coming.result()
            coming = pool.submit(batches, step + 1) if step + 1 < stop else None
            yield step, ready


def as_tensor(array: np.ndarray, device: torch.device) -> Tensor:
    """A host array on `device`, without a copy where none is needed."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)
