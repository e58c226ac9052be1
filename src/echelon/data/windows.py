"""Windows of logged experience, and how each level sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

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

    A batch is a function of (seed, step) alone, so that training resumed at a step sees what training
    never stopped would have seen, and several processes see together what one would.
    """

    starts: np.ndarray
    """[N] row of the first frame of every window that fits in one episode"""
    length: int
    """steps; a window spans length + 1 frames"""
    of_episode: np.ndarray
    """[E + 1] which of `starts` are those of an episode: from its entry to the next one"""
    paired: bool = False
    """windows come in pairs of the same episode, one after the other"""
    apart: int = 0
    """steps between the two of a pair at most; 0 is any number"""

    @staticmethod
    def of(
        lengths: np.ndarray,
        offsets: np.ndarray,
        episodes: np.ndarray,
        length: int,
        paired: bool = False,
        apart: int = 0,
    ) -> WindowSampler:
        """All windows of `length` steps inside `episodes` (lengths in frames, offsets in rows)."""
        counts = np.maximum(lengths[episodes] - length, 0)
        if counts.sum() == 0:
            raise EchelonError(
                f"{lost_clips(lengths[episodes], length)} (the longest episode has "
                f"{int(lengths[episodes].max(initial=1)) - 1}): use a smaller stride or rollout, or "
                "longer episodes"
            )
        of_episode = np.concatenate([[0], np.cumsum(counts)])
        first = np.repeat(offsets[episodes] - of_episode[:-1], counts)
        return WindowSampler(first + np.arange(counts.sum()), length, of_episode, paired, apart)

    def rows(self, batch: int, seed: int, step: int, rank: int = 0, world: int = 1) -> np.ndarray:
        """``[batch / world, length + 1]`` rows of the frames of a batch: the share of process `rank`.

        The shares of all `world` processes, one after the other, are the batch of one process. They
        must be equal, so that the mean of the processes' gradients is that of the batch: else it is
        an EchelonError.
        """
        if batch % (world * (1 + self.paired)):
            pairs = "in pairs " if self.paired else ""
            raise EchelonError(
                f"stages: a batch_size of {batch} cannot be shared equally {pairs}by {world} "
                f"processes; use a multiple of {world * (1 + self.paired)}"
            )
        rng = np.random.default_rng((seed, step))
        share = slice(rank * batch // world, (rank + 1) * batch // world)
        chosen = rng.integers(len(self.starts), size=batch)
        if self.paired:
            episode = np.searchsorted(self.of_episode, chosen[::2], side="right")
            low, high = self.of_episode[episode - 1], self.of_episode[episode]
            if self.apart:
                low = np.maximum(low, chosen[::2] - self.apart)
                high = np.minimum(high, chosen[::2] + self.apart + 1)
            chosen[1::2] = rng.integers(low, high)
        first = self.starts[chosen[share]]
        return first[:, None] + np.arange(self.length + 1)


def spans(total: int, count: int, low: int, high: int, rng: np.random.Generator) -> list[int]:
    """Waypoints at random: boundaries ``0 < ... < total`` of `count` segments of `low` to `high` steps.

    The ends are fixed. All sequences of lengths that add up to `total` are equally likely: each
    length is drawn by the number of ways in which the segments after it can fill what is left.
    """
    if low < 1 or count < 1 or not count * low <= total <= count * high:
        raise EchelonError(
            f"{count} segments of {low} to {high} steps cannot span {total} steps: "
            f"use a span between {count * low} and {count * high}, in segments of at least 1"
        )
    lengths = np.arange(low, high + 1)
    once = np.zeros(high + 1, object)  # of Python's integers, which do not overflow
    once[low:] = 1
    ways = [np.array([1], object)]  # ways[k][n]: sequences of k lengths that add up to n
    for _ in range(count - 1):
        ways.append(np.convolve(ways[-1], once))
    boundaries = [0]
    for after in reversed(ways):
        left = total - boundaries[-1] - lengths
        fits = (left >= 0) & (left < len(after))
        chances = after[left[fits]]
        share = (chances / chances.sum()).astype(float)
        boundaries.append(boundaries[-1] + int(rng.choice(lengths[fits], p=share)))
    return boundaries


@dataclass(frozen=True)
class Batches:
    """What the steps of one stage of training see."""

    inputs: dict[str, Tensor]
    """`pixels` [N, H, W, 3] or `latents` [N, D] of all episodes, end to end, and `proprio` [N, P]"""
    actions: Tensor
    """[N, A]"""
    sampler: WindowSampler
    size: int
    """windows, over all processes"""
    seed: int
    skipped: int
    """frames at the head of a window that have no state"""
    rank: int = 0
    world: int = 1
    frames: Tensor | None = None
    """[N, H, W, 3], of which each window's `first` goes with it"""

    def __call__(self, step: int) -> tuple[dict[str, Tensor], Tensor]:
        rows = self.sampler.rows(self.size, self.seed, step, self.rank, self.world)
        rows = torch.from_numpy(rows).to(self.actions.device)
        inputs = {name: values[rows] for name, values in self.inputs.items()}
        if self.frames is not None:
            inputs["first"] = self.frames[rows[:, 0]]
        return inputs, self.actions[rows[:, self.skipped : -1]]


def coarsen(
    window: Window,
    stride: int,
    lift: Callable[[State], State],
    encode_action: Callable[..., Tensor],
    boundaries: Sequence[int] | None = None,
) -> Window:
    """The window of a level from the window of the level below; steps left over are dropped.

    boundaries: where the steps of this level begin and end (see :func:`spans`), in place of every
        `stride` steps. Segments are then filled up with zeros to the longest of them, and
        ``encode_action(segments [B, T, L, A], lengths [B, T])`` is told how long each one is.
    """
    batch, total, size = window.actions.shape
    if boundaries is None:
        steps = total // stride
        segments = window.actions[:, : steps * stride].reshape(batch, steps, stride, size)
        kept = tree_map(lambda x: x[:, : steps * stride + 1 : stride], window.states)
        return Window(lift(kept), encode_action(segments))
    parts = [window.actions[:, a:b].transpose(0, 1) for a, b in pairwise(boundaries)]
    segments = pad_sequence(parts, batch_first=True).permute(2, 0, 1, 3)
    lengths = torch.tensor([len(part) for part in parts], device=segments.device)
    # What is the same in a whole window is there once.
    kept = tree_map(lambda x: x[:, list(boundaries)] if x.shape[1] > 1 else x, window.states)
    return Window(lift(kept), encode_action(segments, lengths.expand(batch, -1)))


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
