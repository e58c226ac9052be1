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

KEPT = 0.9
"""share of the clips that windows should leave in the data"""


def survival(lengths: np.ndarray, span: int) -> float:
    """Share of the clips (`lengths` [E] in frames) that a window of `span` steps fits in."""
    return float((lengths > span).mean())


def longest_span(lengths: np.ndarray, share: float = KEPT) -> int:
    """Steps of the longest window that at least `share` of the clips (`lengths` [E] in frames) hold."""
    longest_first = np.sort(lengths)[::-1]
    return int(longest_first[int(np.ceil(share * len(lengths) - 1e-9)) - 1]) - 1


def lost_clips(lengths: np.ndarray, span: int) -> str | None:
    """What windows of `span` steps cost, in a sentence; None where they keep `KEPT` of the clips."""
    lost = int((lengths <= span).sum())
    if lost <= (1 - KEPT) * len(lengths) + 1e-9:
        return None
    return (
        f"a training window spans {span} steps, and {lost} of {len(lengths)} clips are shorter; the "
        f"longest span that keeps {KEPT:.0%} is {longest_span(lengths)}"
    ).replace("%", " %")


@dataclass(frozen=True)
class WindowSampler:
    """Where windows of `length` steps may start, and which of them a training step sees.

    A batch is a function of (seed, step, rank) alone, so that training resumed at a step sees what
    training never stopped would have seen.
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
            raise EchelonError(
                f"{lost_clips(lengths[episodes], length)} (the longest episode has "
                f"{int(lengths[episodes].max(initial=1)) - 1}): use a smaller stride or rollout, or "
                "longer episodes"
            )
        first = np.repeat(offsets[episodes] - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
        return WindowSampler(first + np.arange(counts.sum()), length)

    def rows(self, batch: int, seed: int, step: int, rank: int = 0) -> np.ndarray:
        """``[batch, length + 1]`` rows of the frames of a batch."""
        rng = np.random.default_rng((seed, step, rank))
        first = self.starts[rng.integers(len(self.starts), size=batch)]
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
