"""Windows: inside one episode, each of them once, and the same for the same step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from echelon.data.windows import (
    WindowSampler,
    as_tensor,
    coarsen,
    longest_span,
    lost_clips,
    survival,
)
from echelon.types import EchelonError, Window


@st.composite
def layouts(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Lengths in frames, some of the episodes, and steps of a window that fits one of them."""
    lengths = draw(st.lists(st.integers(2, 9), min_size=1, max_size=6))
    chosen = draw(st.sets(st.integers(0, len(lengths) - 1), min_size=1))
    steps = draw(st.integers(1, max(lengths[i] for i in chosen) - 1))
    return np.array(lengths), np.array(sorted(chosen)), steps


@given(layouts())
def test_windows_are_all_that_fit(case: tuple[np.ndarray, np.ndarray, int]) -> None:
    lengths, chosen, steps = case
    offsets = np.cumsum(lengths) - lengths
    sampler = WindowSampler.of(lengths, offsets, chosen, steps)
    expected = [
        offsets[i] + start
        for i in chosen
        for start in range(lengths[i])
        if start + steps < lengths[i]
    ]
    assert sampler.starts.tolist() == expected
    rows = sampler.rows(64, seed=0, step=0)
    assert rows.shape == (64, steps + 1)
    owner = np.repeat(np.arange(len(lengths)), lengths)[rows]
    assert (owner == owner[:, :1]).all()
    assert set(owner[:, 0]) <= set(chosen)
    assert (np.diff(rows, axis=1) == 1).all()


def sampler_of(frames: int = 100, steps: int = 3) -> WindowSampler:
    return WindowSampler.of(np.array([frames]), np.array([0]), np.array([0]), steps)


def test_every_window_is_drawn_equally_often() -> None:
    counts = np.bincount(sampler_of(13).rows(10_000, 0, 0)[:, 0], minlength=10)
    assert len(counts) == 10
    assert (abs(counts - 1000) < 150).all()


def test_a_batch_is_a_function_of_seed_step_and_rank() -> None:
    a, b = sampler_of(), sampler_of()
    b.rows(5, 7, 7)
    assert np.array_equal(a.rows(8, 1, 2, 3), b.rows(8, 1, 2, 3))
    seen = {tuple(a.rows(8, *key)[:, 0]) for key in ((1, 2, 3), (0, 2, 3), (1, 0, 3), (1, 2, 0))}
    assert len(seen) == 4


def test_a_window_longer_than_every_episode() -> None:
    with pytest.raises(EchelonError, match=r"spans 5 steps.*longest.*has 4") as caught:
        WindowSampler.of(np.array([5, 3]), np.array([0, 5]), np.array([0, 1]), 5)
    assert "stride or rollout" in str(caught.value)
    assert "2 of 2 clips are shorter; the longest span that keeps 90 % is 2" in str(caught.value)
    with pytest.raises(EchelonError, match="longest episode has 2"):
        WindowSampler.of(np.array([5, 3]), np.array([0, 5]), np.array([1]), 3)


def window(steps: int) -> Window:
    states = {"z": torch.randn(2, steps + 1, 3), "pose": (torch.randn(2, steps + 1, 4),)}
    return Window(states, torch.randn(2, steps, 5))


def identity(x: Tensor) -> Tensor:
    return x


@pytest.mark.parametrize(("steps", "stride"), [(6, 1), (6, 2), (6, 3), (7, 3), (8, 3), (3, 3)])
def test_coarsen_is_a_naive_loop(steps: int, stride: int) -> None:
    fine = window(steps)
    coarse = coarsen(fine, stride, lambda s: s["z"] * 2, lambda segments: segments.flatten(-2))
    places = range(0, steps // stride * stride + 1, stride)
    assert torch.equal(coarse.states, torch.stack([2 * fine.states["z"][:, t] for t in places], 1))
    segments = [torch.cat([fine.actions[:, t + i] for i in range(stride)], -1) for t in places[:-1]]
    assert torch.equal(coarse.actions, torch.stack(segments, 1))
    assert coarse.actions.shape[1] == coarse.states.shape[1] - 1 == steps // stride


@pytest.mark.parametrize("steps", range(4, 10))
def test_coarsening_twice_by_2_is_coarsening_by_4(steps: int) -> None:
    fine = window(steps)
    half = coarsen(fine, 2, identity, lambda a: a.flatten(-2))
    quarter = coarsen(half, 2, identity, lambda a: a.flatten(-2))
    whole = coarsen(fine, 4, identity, lambda a: a.flatten(-2))
    assert torch.equal(quarter.states["z"], whole.states["z"])
    assert torch.equal(quarter.states["pose"][0], whole.states["pose"][0])
    assert torch.equal(quarter.actions, whole.actions)


def test_as_tensor_shares_what_it_can() -> None:
    array = np.arange(6.0).reshape(2, 3)
    tensor = as_tensor(array, torch.device("cpu"))
    array[0, 0] = 9
    assert tensor[0, 0] == 9
    assert as_tensor(array.T, torch.device("cpu")).tolist() == array.T.tolist()


def test_survival_of_clips_of_known_lengths() -> None:
    lengths = np.array([11, 21, 31, 41, 51, 61, 71, 81, 91, 101])
    assert [survival(lengths, span) for span in (10, 11, 20, 100, 101)] == [1, 0.9, 0.9, 0.1, 0]
    assert longest_span(lengths) == 20
    assert longest_span(lengths, 1.0) == 10
    assert longest_span(lengths[:4]) == 10  # 3 of 4 would be too few
    assert lost_clips(lengths, 20) is None
    assert "spans 21 steps, and 2 of 10 clips" in str(lost_clips(lengths, 21))


@given(st.lists(st.integers(2, 40), min_size=1, max_size=30))
def test_the_longest_span_is_the_longest(frames: list[int]) -> None:
    lengths = np.array(frames)
    longest = longest_span(lengths)
    assert survival(lengths, longest) >= 0.9 > survival(lengths, longest + 1)
    assert lost_clips(lengths, longest) is None
    assert lost_clips(lengths, longest + 1) is not None
