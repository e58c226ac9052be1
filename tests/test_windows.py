"""Windows: inside one episode, each of them once, and the same for the same step."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise, product

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
    spans,
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


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    a, b = sampler_of(), sampler_of()
    b.rows(5, 7, 7)
    assert np.array_equal(a.rows(8, 1, 2), b.rows(8, 1, 2))
    seen = {tuple(a.rows(8, *key)[:, 0]) for key in ((1, 2), (0, 2), (1, 0))}
    assert len(seen) == 3


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_processes_share_the_batch_of_one(world: int) -> None:
    sampler = sampler_of()
    shares = [sampler.rows(12, 1, 2, rank, world) for rank in range(world)]
    assert [len(share) for share in shares] == [12 // world] * world
    assert np.array_equal(np.concatenate(shares), sampler.rows(12, 1, 2))


def test_a_batch_that_cannot_be_shared_equally() -> None:
    with pytest.raises(EchelonError, match=r"batch_size of 9 .* 2 processes; use a multiple of 2"):
        sampler_of().rows(9, 0, 0, 1, 2)


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


@given(st.data())
def test_spans_are_valid(data: st.DataObject) -> None:
    low, extra, count = (data.draw(st.integers(*ends)) for ends in ((1, 9), (0, 12), (1, 40)))
    high = low + extra
    total = data.draw(st.integers(count * low, count * high))
    found = spans(total, count, low, high, np.random.default_rng(data.draw(st.integers(0, 99))))
    lengths = np.diff(found)
    assert found[0] == 0
    assert found[-1] == total
    assert len(lengths) == count
    assert low <= lengths.min()
    assert lengths.max() <= high


def test_every_way_to_fill_a_span_is_equally_likely() -> None:
    rng, draws = np.random.default_rng(0), 3000
    seen = Counter(tuple(np.diff(spans(7, 3, 1, 4, rng)).tolist()) for _ in range(draws))
    ways = {lengths for lengths in product(range(1, 5), repeat=3) if sum(lengths) == 7}
    assert set(seen) == ways
    chi2 = sum((n - draws / len(ways)) ** 2 for n in seen.values()) / (draws / len(ways))
    assert chi2 < 31.3  # 12 ways: the 0.1 % point of 11 degrees of freedom


@pytest.mark.parametrize(
    "case", [(5, 2, 3, 4), (9, 2, 3, 4), (0, 1, 0, 2), (3, 0, 1, 2), (6, 2, 4, 3)]
)
def test_spans_that_cannot_be(case: tuple[int, int, int, int]) -> None:
    with pytest.raises(EchelonError, match=rf"{case[1]} segments.* span {case[0]} steps"):
        spans(*case, np.random.default_rng(0))


@pytest.mark.parametrize("boundaries", [[0, 3, 4, 6], [0, 1, 6], [0, 6], [0, 2, 5]])
def test_coarsen_at_boundaries_is_a_naive_loop(boundaries: list[int]) -> None:
    fine = window(6)
    seen: list[Tensor] = []

    def encode(segments: Tensor, lengths: Tensor) -> Tensor:
        seen.extend([segments, lengths])
        return segments.sum(-2)

    coarse = coarsen(fine, 99, lambda s: s["z"] * 2, encode, boundaries)
    segments, lengths = seen
    expected = [2 * fine.states["z"][:, t] for t in boundaries]
    assert torch.equal(coarse.states, torch.stack(expected, 1))
    for i, (a, b) in enumerate(pairwise(boundaries)):
        assert torch.equal(segments[:, i, : b - a], fine.actions[:, a:b])
        assert not segments[:, i, b - a :].any()
        assert torch.allclose(coarse.actions[:, i], fine.actions[:, a:b].sum(1))
        assert lengths[:, i].tolist() == [b - a] * 2
    assert segments.shape[2] == lengths.max()


def test_equal_boundaries_are_the_fixed_stride() -> None:
    fine = window(7)
    fixed = coarsen(fine, 3, identity, lambda a: a.flatten(-2))
    spanned = coarsen(fine, 3, identity, lambda a, _: a.flatten(-2), [0, 3, 6])
    assert torch.equal(fixed.states["z"], spanned.states["z"])
    assert torch.equal(fixed.actions, spanned.actions)


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
