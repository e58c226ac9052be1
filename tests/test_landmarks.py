"""Landmark graphs against the lengths of ways in worlds of two dimensions, where they are known."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from echelon.config import LandmarkConfig
from echelon.geometry import sign_agreement
from echelon.graph import Landmarks, fit_landmarks, shortest_paths
from echelon.models.landmarks import LandmarkGraph

SPEED = 0.5
"""latent distance that every walk covers in a frame"""
ARM = 10.0
"""length of a U's arms, which are 2 apart: 22 from tip to tip, 2 through the wall"""
LENGTH = 2 * ARM + 2


def along_u(s: Tensor) -> Tensor:
    """``[...] -> [..., 2]``: the place so far along the U from its left tip."""
    right = (s - ARM).clamp(0, 2)
    up = torch.relu(ARM - s) + torch.relu(s - ARM - 2)
    return torch.stack([right, up], -1)


def along_line(s: Tensor) -> Tensor:
    return torch.stack([s, torch.zeros_like(s)], -1)


def walk(start: float, end: float) -> Tensor:
    """How far along the walker is, frame by frame."""
    frames = round(abs(end - start) / SPEED) + 1
    return torch.linspace(start, end, frames)


def found_in(
    walks: Sequence[Tensor], where: Callable[[Tensor], Tensor], duration: int = 1, **options: Any
) -> tuple[Landmarks, LandmarkGraph]:
    """The graph of some logged walks."""
    config = LandmarkConfig(**{"count": 40} | options)
    lengths = torch.tensor([len(s) for s in walks])
    rng = np.random.default_rng(0)
    fitted = fit_landmarks(where(torch.cat(list(walks))), lengths, config, rng, duration)
    graph = LandmarkGraph(2, config, duration)
    graph.fill(fitted.points, fitted.steps, fitted.speed, fitted.reach)
    return fitted, graph


BOTH_WAYS = [walk(0, LENGTH), walk(LENGTH, 0)]
SHORT = [walk(s, s + 5) for s in range(0, 30, 3)]
"""episodes of 5 in length that overlap by 2, all in one direction"""


# --- known answers -------------------------------------------------------------------------------


def test_the_way_round_a_u() -> None:
    fitted, graph = found_in(BOTH_WAYS, along_u)
    assert fitted.unreachable == 0
    assert fitted.speed.item() == pytest.approx(SPEED, rel=0.2)
    s = torch.linspace(0, LENGTH, 23)
    z = along_u(s)
    d, steps = graph(z[:, None], z), (s[:, None] - s).abs() / SPEED
    assert (d.diagonal() == 0).all()
    # An edge joins what lies near two landmarks, and a hop is added: a path is only about right.
    assert ((d - steps).abs() < 3).all()
    assert d[0, -1] > 40 > 4 == (z[0] - z[-1]).norm() / SPEED


@pytest.mark.parametrize("nearest", [1, 5, 9])
def test_no_way_through_the_wall_where_landmarks_are_few(nearest: int) -> None:
    """With 20 of them, those that are nearest to a tip lie on both sides of the wall."""
    _, graph = found_in(BOTH_WAYS, along_u, count=20, nearest=nearest)
    s = torch.arange(0, 8, 0.7)
    d = graph(along_u(s), along_u(LENGTH - s))
    assert ((d - (LENGTH - 2 * s) / SPEED).abs() < 10).all()


def test_a_u_can_be_descended() -> None:
    """Every step of a walk to either tip lowers the graph's distance; that of the latents rises on
    the way out of one arm.
    """
    _, graph = found_in(BOTH_WAYS, along_u)
    s = torch.stack(BOTH_WAYS)[:, ::2]
    goals = torch.tensor([0.0, LENGTH])
    away = (s[..., None] - goals).abs() / SPEED
    agreement = [
        sign_agreement(distance, along_u(s), along_u(goals), away, far=8)
        for distance in (graph, lambda z, goal: (z - goal).norm(dim=-1))
    ]
    assert agreement[0] is not None
    assert agreement[1] is not None
    assert agreement[0] > 0.97
    assert agreement[1] < 0.65


def test_episodes_are_stitched() -> None:
    fitted, graph = found_in(SHORT, along_line)
    ends = along_line(torch.tensor([0.0, 32.0]))
    assert graph(ends[0], ends[1]).item() == pytest.approx(32 / SPEED, rel=0.1)
    apart, _ = found_in(SHORT[::2], along_line)
    assert fitted.unreachable == pytest.approx(0.5, abs=0.05)  # all that lies behind
    assert apart.unreachable > 0.8


def test_a_one_way_corridor() -> None:
    _, graph = found_in([walk(0, LENGTH)] * 2, along_u)
    s = torch.linspace(0, LENGTH, 12)
    d = graph(along_u(s)[:, None], along_u(s))
    there, back = d.triu(2)[d.triu(2) > 0], d.tril(-2)[d.tril(-2) > 0]
    assert len(there) == len(back) == 55
    assert there.max() < 1.1 * LENGTH / SPEED
    assert back.min() > 2 * graph.longest > 2 * 0.85 * LENGTH / SPEED
    # Farther back is farther still, by the latents: something can be descended there too.
    assert (d[:, 0].diff()[2:5] > 0).all()


def test_what_shares_a_landmark_is_compared_directly_in_both_directions() -> None:
    """Landmarks at 0, 10 and 20, from left to right alone, 10 steps apart, each latent beginning at
    its nearest: the distance knows the direction wherever two latents have not the same one.
    """
    graph = LandmarkGraph(1, LandmarkConfig(count=3, nearest=1))
    steps = torch.tensor([[0.0, 10, 20], [torch.inf, 0, 10], [torch.inf, torch.inf, 0]])
    graph.fill(torch.tensor([[0.0], [10], [20]]), steps, torch.tensor(1.0), torch.tensor(5.0))

    def d(z: float, goal: float) -> float:
        return graph(torch.tensor([float(z)]), torch.tensor([float(goal)])).item()

    assert (d(9, 12), d(12, 9)) == (3, 3)
    assert (d(1, 12), d(12, 1)) == (1 + 10 + 2, 2 * 20 + 11)
    assert d(4, 7) == 4 + 10 + 3  # the price of a border between them
    near = LandmarkGraph(1, LandmarkConfig(count=3, nearest=2))
    near.fill(graph.landmarks, steps, graph.speed, graph.reach)
    assert near(torch.tensor([4.0]), torch.tensor([7.0])).item() == 3
    assert near(torch.tensor([19.0]), torch.tensor([1.0])).item() == 18  # by 10, which both may use
    # Off the data each unit counts three times more, but no more than the goal is off it itself.
    assert d(28, 20) == 8 + 3 * 3
    assert d(20, 28) == 8
    assert d(27, 28) == 1
    assert d(28, 27) == 1 + 3


def test_steps_and_gaps_of_a_coarser_level() -> None:
    walks = [walk(0, 30)]
    fine, graph = found_in(walks, along_line)
    _, coarse = found_in(walks, along_line, duration=4)
    _, slowed = found_in(walks, along_line, hop=2.0)
    ends = along_line(torch.tensor([1.0, 29.0]))
    d = graph(*ends)
    assert coarse(*ends).item() == pytest.approx(d.item() / 4, rel=1e-4)
    assert d + 2 < slowed(*ends)  # 56 steps are at least three edges of at most 20
    assert fine.steps[fine.steps > 0].min() == 4 + 1
    assert not found_in(walks, along_line, gaps=(100, 120))[0].steps.isfinite().triu(1).any()


def test_few_latents_and_many_landmarks() -> None:
    """No more landmarks than latents, at most one for latents that are the same."""
    z = torch.tensor([[0.0, 0], [1, 0], [1, 0], [2, 0]])
    config = LandmarkConfig(count=9, gaps=(1, 1))
    found = fit_landmarks(z, torch.tensor([2, 2]), config, np.random.default_rng(0))
    assert len(found.rows) == 3
    assert torch.equal(found.points, z[found.rows])
    assert sorted(found.points[:, 0].tolist()) == [0, 1, 2]
    assert sorted(found.steps.flatten().tolist()) == [0, 0, 0, 2, 2, 4, *[torch.inf] * 3]
    one = fit_landmarks(torch.ones(5, 2), torch.tensor([5]), config, np.random.default_rng(0))
    assert one.steps.tolist() == [[0]]
    assert one.speed > 0


def test_reach_leaves_out_one_latent_in_a_hundred() -> None:
    z = torch.cat([torch.zeros(1), torch.arange(99) / 100, torch.tensor([50.0])])[:, None]
    config = LandmarkConfig(count=1, iterations=0)
    found = fit_landmarks(z, torch.tensor([101]), config, np.random.default_rng(0))
    away = (z - found.points).norm(dim=-1)
    assert 0.5 <= found.reach < 1
    assert (away <= found.reach).sum() == 100


# --- paths ---------------------------------------------------------------------------------------


def dijkstra(edges: list[list[float]], start: int) -> list[float]:
    """Plainly, for one row."""
    steps, queue = [float("inf")] * len(edges), [(0.0, start)]
    while queue:
        length, at = heapq.heappop(queue)
        if length < steps[at]:
            steps[at] = length
            for to, edge in enumerate(edges[at]):
                heapq.heappush(queue, (length + edge, to))
    return steps


@st.composite
def edges_of(draw: st.DrawFn) -> Tensor:
    """A directed graph, sparse enough that some places cannot be reached."""
    count = draw(st.integers(1, 7))
    entry = st.one_of(st.just(torch.inf), st.just(torch.inf), st.integers(1, 20).map(float))
    rows = draw(st.lists(st.lists(entry, min_size=count, max_size=count), min_size=count))
    return torch.tensor(rows[:count]).fill_diagonal_(0)


@given(edges_of())
def test_shortest_paths(edges: Tensor) -> None:
    found, before = shortest_paths(edges), edges.clone()
    assert found.tolist() == [dijkstra(edges.tolist(), row) for row in range(len(edges))]
    assert torch.equal(edges, before)
    detour = (found[:, :, None] + found[None]).amin(1)
    assert torch.equal(found, detour)


# --- as a distance -------------------------------------------------------------------------------


def test_leading_dimensions_broadcast() -> None:
    _, graph = found_in(BOTH_WAYS[:1], along_u, spare=5)
    z, goal = 10 * torch.rand(2, 3, 4, 2), 10 * torch.rand(2, 2)
    d = graph(z, goal[:, None, None])
    assert d.shape == (2, 3, 4)
    assert len(d.unique()) == 24
    for b, k, h in np.ndindex(2, 3, 4):
        assert d[b, k, h].item() == pytest.approx(graph(z[b, k, h], goal[b]).item(), rel=1e-5)
    assert graph(z[:, :, :1], z).shape == (2, 3, 4)


def test_gradients_are_finite_and_point_the_way() -> None:
    """Also at a landmark, at the goal, off the data and where there is no path."""
    fitted, graph = found_in(BOTH_WAYS, along_u, spare=3, nearest=3)
    _, one_way = found_in(BOTH_WAYS[:1], along_u, count=2)
    off = torch.tensor([[7.0, 9], [-4, -4], [1, 5]])
    for some in (graph, one_way):
        z = torch.cat([fitted.points, along_u(walk(0, 5)), off]).requires_grad_()
        goal = fitted.points[:3].clone().requires_grad_()
        some(z[:, None], goal).sum().backward()
        assert z.grad is not None
        assert goal.grad is not None
        assert torch.cat([z.grad, goal.grad]).isfinite().all()
    # In the left arm, the way to the right tip is down.
    z = along_u(torch.tensor(3.1)).requires_grad_()
    graph(z, along_u(torch.tensor(LENGTH))).backward()
    assert z.grad is not None
    assert z.grad[1] > 0


# --- growing -------------------------------------------------------------------------------------


PLACES = 7


@given(
    edges=edges_of(),
    spare=st.integers(0, 3),
    moves=st.lists(
        st.tuples(
            st.integers(0, PLACES - 1), st.integers(0, PLACES - 1), st.integers(1, 9).map(float)
        ),
        max_size=12,
    ),
)
def test_growing_is_fitting_from_all_edges(
    edges: Tensor, spare: int, moves: list[tuple[int, int, float]]
) -> None:
    """Places lie on a line, 1 apart; some are landmarks, and others become so as they are met."""
    known = len(edges)
    graph = LandmarkGraph(1, LandmarkConfig(count=known, spare=spare, gaps=(2, 8), hop=1.0))
    line = torch.arange(float(known))[:, None]
    graph.fill(line, shortest_paths(edges), torch.tensor(1.0), torch.tensor(0.4))
    slots = [float(x) for x in range(known)]
    every = torch.full((known + spare, known + spare), torch.inf).fill_diagonal_(0)
    every[:known, :known] = edges
    for start, end, steps in moves:
        before = shortest_paths(every)
        grew = graph.grow(torch.tensor([float(start)]), torch.tensor([float(end)]), steps)
        met = end not in slots
        if 2 <= steps <= 8 and (not met or len(slots) < known + spare):
            if met:
                slots.append(float(end))
            i = min(range(len(slots) - met), key=lambda n: abs(slots[n] - start))
            j = slots.index(end)
            every[i, j] = min(every[i, j].item(), steps + 1 if i != j else 0)
            assert grew == (met or not torch.equal(before, shortest_paths(every)))
        else:
            assert not grew
        assert torch.equal(graph.steps, shortest_paths(every))
        assert graph.landmarks[graph.used].flatten().tolist() == slots
        assert graph.longest == graph.steps[graph.steps.isfinite()].max()


def test_growing_opens_a_door() -> None:
    """Through the wall between the tips of a U, into a room behind it, until slots are used up."""
    _, graph = found_in(BOTH_WAYS, along_u, spare=1)
    left, right = along_u(torch.tensor([0.0, LENGTH]))
    room, beyond = torch.tensor([7.0, 10.0]), torch.tensor([11.0, 10.0])
    long = graph(left, right)
    assert not graph.grow(left, right, 3)  # gaps are from 4 to 20
    assert not graph.grow(left, right, 21)
    assert torch.equal(graph(left, right), long)
    assert graph.grow(left, right, 4)
    assert graph(left, right) < 6 < 36 < graph(right, left)  # one way, as it was gone
    assert not graph.grow(left, right, 5)  # nothing new
    outside = graph(left, room)
    assert graph.grow(right, room, 6)
    assert graph(left, room) <= 4 + 6 + 2 < outside
    assert not graph.grow(room, beyond, 8)  # no slot is left
    assert graph.used.all()
    empty = LandmarkGraph(2, LandmarkConfig(count=3))
    assert not empty.fitted
    assert not empty.grow(left, right, 5)
