"""Learned distances against the lengths of paths in small worlds."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from echelon import temporal
from echelon.config import DistanceConfig
from echelon.models.distances import Quasimetric, TemporalHead, head_for
from echelon.types import EchelonError

STATES = 6


def config(kind: Any, **options: Any) -> DistanceConfig:
    small: dict[str, Any] = {"width": 32, "components": 8, "component_size": 4, "horizon": 16.0}
    return DistanceConfig(kind=kind, **small | options)


def ring(batch: int, steps: int) -> Tensor:
    """Walks round a one-way ring, one state a step, as indices [B, steps + 1]."""
    return (torch.randint(STATES, (batch, 1)) + torch.arange(steps + 1)) % STATES


def chain(batch: int, steps: int, forward: float) -> Tensor:
    """Random walks on a chain that go forward with the given probability, else back."""
    at = torch.randint(STATES, (batch,))
    walk = [at]
    for _ in range(steps):
        at = (at + torch.where(torch.rand(batch) < forward, 1, -1)).clamp(0, STATES - 1)
        walk.append(at)
    return torch.stack(walk, 1)


def one_hot(walk: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(walk, STATES).float()


def trained(options: DistanceConfig, walks: Any, rounds: int, rate: float) -> Any:
    """The head after `rounds` steps on fresh walks."""
    head = head_for(options, STATES)
    assert head is not None
    optimizer = torch.optim.Adam(head.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, rounds)
    for _ in range(rounds):
        optimizer.zero_grad()
        terms = temporal.distance_terms(head, one_hot(walks()), options)
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        schedule.step()
    return head


@torch.no_grad()
def table(head: Any) -> Tensor:
    """Distance from each state (row) to each state (column)."""
    z = torch.eye(STATES)
    return head(z[:, None], z)


def ring_lengths() -> Tensor:
    state = torch.arange(STATES)
    return ((state - state[:, None]) % STATES).float()


def chain_lengths() -> Tensor:
    state = torch.arange(STATES)
    return (state - state[:, None]).abs().float()


# --- heads ---------------------------------------------------------------------------------------


def union(intervals: list[tuple[float, float]]) -> float:
    """Length of a union of intervals, by counting the pieces between all their ends."""
    ends = sorted({x for interval in intervals for x in interval})
    pieces = pairwise(ends)
    return sum(b - a for a, b in pieces if any(i <= a and b <= j for i, j in intervals))


def test_intervals_against_counting() -> None:
    head = Quasimetric(3, config("quasimetric", components=4, component_size=5, horizon=24.0))
    torch.nn.init.constant_(head.mix, 0.4)
    a, b = torch.randn(7, 20), torch.randn(7, 20)
    found = head.between(a, b)
    share = torch.tensor(0.4).sigmoid().item()
    for row in range(7):
        lengths: list[float] = []
        for some in range(4):
            x = a[row, 5 * some : 5 * some + 5].tolist()
            y = b[row, 5 * some : 5 * some + 5].tolist()
            lengths.append(union([(i, max(i, j)) for i, j in zip(x, y, strict=True)]))
        expected = 3 * (share * max(lengths) + (1 - share) * sum(lengths) / 4)
        assert found[row].item() == pytest.approx(expected, rel=1e-4)


@given(seed=st.integers(0, 10**6), scale=st.sampled_from([0.01, 1.0, 100.0]))
def test_a_quasimetric_whatever_its_weights(seed: int, scale: float) -> None:
    torch.manual_seed(seed)
    head = Quasimetric(4, config("quasimetric", width=16, components=3))
    torch.nn.init.normal_(head.mix, 0, 3)
    z = scale * torch.randn(9, 4)
    with torch.no_grad():
        d = head(z[:, None], z)
    assert d.shape == (9, 9)
    assert (d >= 0).all()
    assert (d.diagonal() == 0).all()
    detour = (d[:, :, None] + d[None]).amin(1)
    assert (d <= detour * (1 + 1e-5) + 1e-6).all()
    assert not torch.allclose(d, d.T, rtol=1e-2)


@pytest.mark.parametrize("kind", ["quasimetric", "expectile", "contrastive"])
def test_leading_dimensions_broadcast(kind: Any) -> None:
    head = head_for(config(kind), 5)
    assert head is not None
    z, goal = torch.randn(2, 3, 4, 5), torch.randn(2, 5)
    d = head(z, goal[:, None, None])
    assert d.shape == (2, 3, 4)
    assert d[1, 2, 3].item() == pytest.approx(head(z[1, 2, 3], goal[1]).item(), rel=1e-4)


def test_which_head() -> None:
    assert head_for(config("latent"), 4) is None
    assert isinstance(head_for(config("quasimetric"), 4), Quasimetric)
    assert isinstance(head_for(config("contrastive"), 4), Quasimetric)
    assert isinstance(head_for(config("expectile"), 4), TemporalHead)


# --- terms by hand -------------------------------------------------------------------------------


def gap(a: Tensor, b: Tensor) -> Tensor:
    """A distance whose value is known: the difference of one number."""
    return (a - b).abs().squeeze(-1)


def test_excess_by_hand() -> None:
    """A walk of 3, 0 and 1: too long by 2 of 1, in two steps by 1 / 2 of 2, and by none."""
    points = torch.tensor([0.0, 3.0, 3.0, 4.0])[None, :, None]
    one, two = (2**2 + 0 + 0) / 3, (0.5**2 + 0) / 2
    assert temporal.excess(gap, points, (1,)).item() == pytest.approx(one)
    assert temporal.excess(gap, points, (1, 2, 9)).item() == pytest.approx((one + two) / 2)


def test_apart_by_hand() -> None:
    points = torch.tensor([[0.0, 0.0], [5.0, 5.0]])[..., None]
    expected = torch.nn.functional.softplus(torch.tensor(8 - 8 * 5 / 16)).item()
    assert temporal.apart(gap, points, 16).item() == pytest.approx(expected)
    assert temporal.apart(gap, 100 * points, 16).item() == pytest.approx(0, abs=1e-6)


def test_temporal_difference_by_hand() -> None:
    """Frames 0 and 1. Towards the other window's goal 0, 1 + 2 is aimed at and 0 found. Towards the
    frame's own future, it finds 0 to itself, which is right, or 2 to frame 1, which took 1 step.
    """
    points = torch.tensor([[0.0], [1.0]])[None]

    def double(a: Tensor, b: Tensor) -> Tensor:
        return 2 * gap(a, b)

    short, late = 0.1 * 3**2, 0.9 * 1**2
    found = {
        round(temporal.temporal_difference(double, points, 8, 0.1).item(), 4) for _ in range(30)
    }
    assert found == {round(short / 2, 4), round((short + late) / 2, 4)}
    # A horizon of 2 cuts the first target off, and makes an error of 1 four units.
    near = {
        round(temporal.temporal_difference(double, points, 2, 0.1).item(), 4) for _ in range(30)
    }
    assert near == {round(0.1 * 8**2 / 2, 4), round((0.1 * 8**2 + 0.9 * 4**2) / 2, 4)}


def test_temporal_difference_sends_no_gradient_to_its_target() -> None:
    """Through the point that is moved from, never through the one moved to."""
    points = torch.tensor([[0.0], [5.0]])[None].requires_grad_()
    seen: list[bool] = []

    def watched(a: Tensor, b: Tensor) -> Tensor:
        seen.append(torch.is_grad_enabled())
        return gap(a, b)

    temporal.temporal_difference(watched, points, 8, 0.1)
    assert seen == [False, True]


def test_contrastive_by_hand() -> None:
    """Windows that stand still at 0 and at 10: each goal came from its own, c^10 against 1."""
    points = torch.tensor([0.0, 10.0])[:, None, None].expand(2, 4, 1)
    mean_gap = 10.0
    other = (mean_gap / (1 + mean_gap)) ** 10
    found = temporal.contrastive(gap, points, mean_gap).item()
    assert found == pytest.approx(math.log(1 + other), rel=1e-5)


def test_contrastive_gaps_are_geometric() -> None:
    seen: list[Tensor] = []

    def watched(a: Tensor, b: Tensor) -> Tensor:
        seen.append((b[:, 0] - a).squeeze(-1))
        return gap(a, b)

    temporal.contrastive(watched, torch.arange(5.0)[None, :, None].expand(40_000, 5, 1), 2.0)
    share = torch.cat(seen).long().bincount() / 40_000
    expected = (2 / 3) ** torch.arange(5.0)
    assert torch.allclose(share, expected / expected.sum(), atol=0.01)


def test_terms_are_weighted_and_reach_the_latents() -> None:
    for kind in ("quasimetric", "expectile", "contrastive"):
        once, twice = config(kind), config(kind, weight=2.0)
        head = head_for(once, 3)
        assert head is not None
        z = torch.randn(5, 4, 3, requires_grad=True)
        found: list[dict[str, Tensor]] = []
        for options in (once, twice):
            torch.manual_seed(1)
            found.append(temporal.distance_terms(head, z, options))
        assert all(name.startswith("distance_") for name in found[0])
        for name, term in found[0].items():
            assert term.shape == ()
            assert found[1][name].item() == pytest.approx(2 * term.item())
        torch.stack(list(found[0].values())).sum().backward()
        assert z.grad is not None
        assert z.grad.abs().sum() > 0
        assert all(parameter.grad is not None for parameter in head.parameters())
    assert temporal.distance_terms(head, z, config("latent")) == {}


@pytest.mark.parametrize("kind", ["quasimetric", "expectile", "contrastive"])
def test_terms_of_the_shortest_window(kind: Any) -> None:
    head = head_for(config(kind), 3)
    assert head is not None
    for term in temporal.distance_terms(head, torch.randn(4, 2, 3), config(kind)).values():
        assert term.isfinite()


def test_long_windows_teach_no_more_than_a_head_has_use_for() -> None:
    """2048 frames at most: of windows of 682 frames three, of those a frame longer two."""
    options = config("quasimetric")
    head = head_for(options, 3)
    assert head is not None
    z = torch.randn(5, 683, 3)

    def apart(windows: Tensor) -> float:
        return temporal.distance_terms(head, windows, options)["distance_apart"].item()

    assert apart(z) == apart(z[:2]) != apart(z[:, :-1])
    assert apart(z[:, :-1]) == apart(z[:3, :-1]) != apart(z[:2, :-1])


def test_gaps_longer_than_the_window() -> None:
    options = config("quasimetric", gaps=(5, 9))
    head = head_for(options, 3)
    assert head is not None
    with pytest.raises(EchelonError, match="none of \\(5, 9\\) fits into a window of 4 steps"):
        temporal.distance_terms(head, torch.randn(2, 5, 3), options)


@pytest.mark.parametrize(
    "options", [{"gaps": ()}, {"gaps": (0,)}, {"horizon": 0.0}, {"width": 0}, {"expectile": 1.0}]
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(EchelonError, match="distance"):
        DistanceConfig(**options)


# --- small worlds --------------------------------------------------------------------------------


def test_quasimetric_of_a_one_way_ring() -> None:
    """Windows of 2 steps are stitched to paths of 5, and the way back is another."""
    options = config("quasimetric")
    head = trained(options, lambda: ring(32, 2), 400, 1e-2)
    found, lengths = table(head), ring_lengths()
    assert (found - lengths).abs().mean() < 0.25
    assert (found - lengths).abs().max() < 1
    assert found[5, 0] < 1.2 < 4 < found[0, 5]
    points = head.embed(one_hot(ring(64, 2)))
    assert temporal.excess(head.between, points, (1, 2)).sqrt() < 0.05


def test_expectile_finds_the_shortest_of_wandering_ways() -> None:
    def walks() -> Tensor:
        return chain(64, 6, 0.5)

    lengths = chain_lengths()
    short, mean = (
        table(trained(config("expectile", expectile=share, width=64), walks, 350, 3e-3))
        for share in (0.05, 0.5)
    )
    assert (short - lengths).abs().max() < 0.6
    assert (mean - lengths).abs().mean() > 2


def test_contrastive_of_a_one_way_ring() -> None:
    options = config("contrastive", mean_gap=2.0)
    found, lengths = table(trained(options, lambda: ring(48, 7), 250, 1e-2)), ring_lengths()
    # Rare pairs of long gaps are told apart last.
    assert torch.equal(found.argsort(1)[:, :4], lengths.argsort(1)[:, :4])
    assert (found - lengths).abs().mean() < 0.5
