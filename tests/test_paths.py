"""Shortest paths over the places of an image: against Dijkstra, and what closes a way."""

from __future__ import annotations

import heapq
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import model_config
from torch import Tensor

from echelon.agent import Agent
from echelon.config import (
    DistanceConfig,
    EncoderConfig,
    ModelConfig,
    OptimizerConfig,
    PlannerConfig,
)
from echelon.models.hierarchy import Hierarchy, Level
from echelon.models.paths import BLOCKED, PathDistance, floor_loss, logits_at
from echelon.models.scene import HALF
from echelon.planning.planner import build
from echelon.planning.reach import left_by_step
from echelon.planning.subgoals import lower
from echelon.types import EchelonError

SIDE = 12
CELL = 2 * HALF / SIDE


def distance_of(clearance: int = 0) -> PathDistance:
    return PathDistance(DistanceConfig(kind="paths", resolution=SIDE, clearance=clearance))


def floor_of(free: np.ndarray) -> Tensor:
    """Logits so sure that a way costs its length where it is free, and the most elsewhere."""
    return torch.from_numpy(np.where(free, 40.0, -40.0)).float()[None]


def at(row: int, column: int) -> Tensor:
    """[1, 2] the middle of a place, in latent units."""
    return (torch.tensor([[row, column]]) + 0.5) * CELL - HALF


def dijkstra(cost: np.ndarray, goal: tuple[int, int]) -> np.ndarray:
    """From every place, by the same steps; a diagonal one costs what its dearer corner does."""
    side = len(cost)
    walled = np.pad(cost, 1, constant_values=BLOCKED)
    length = np.full((side, side), np.inf)
    length[goal] = 0
    queue = [(0.0, goal)]
    while queue:
        known, (r, c) = heapq.heappop(queue)
        if known > length[r, c]:
            continue
        for dr in (-1, 0, 1):
            for dc in (-1, 0, 1):
                row, column = r + dr, c + dc
                if (dr, dc) == (0, 0) or not (0 <= row < side and 0 <= column < side):
                    continue
                step = (cost[r, c] + cost[row, column]) / 2
                if dr and dc:
                    step = max(step, walled[1 + r, 1 + column], walled[1 + row, 1 + c])
                new = known + CELL * np.hypot(dr, dc) * step
                if new < length[row, column]:
                    length[row, column] = new
                    heapq.heappush(queue, (new, (row, column)))
    return length


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from((0, 1)))
def test_fields_are_those_of_dijkstra(seed: int, clearance: int) -> None:
    rng = np.random.default_rng(seed)
    paths = distance_of(clearance)
    floors = torch.cat([floor_of(rng.uniform(size=(SIDE, SIDE)) < 0.7) for _ in range(2)])
    goals = rng.integers(SIDE, size=(2, 2))
    found = paths.field(floors, torch.cat([at(*goal) for goal in goals.tolist()]))
    costs = paths._costs(floors).double().numpy()
    for field, cost, goal in zip(found, costs, goals.tolist(), strict=True):
        assert np.allclose(field.numpy(), dijkstra(cost, (goal[0], goal[1])), rtol=1e-4)


def test_a_wall_is_walked_around() -> None:
    free = np.ones((SIDE, SIDE), bool)
    free[:9, 6] = False  # open below
    paths = distance_of()
    field = paths.field(floor_of(free), at(0, 11))
    ways = {row: paths(at(row, 0), at(0, 11), field[0]).item() / CELL for row in (0, 11)}
    assert ways[11] < ways[0]
    assert 15 < ways[0] < 40  # some of it beside the wall, which costs twice
    assert paths(at(0, 0), at(0, 11), None).item() == pytest.approx(11 * CELL)


def test_walls_that_touch_let_nothing_by() -> None:
    free = np.zeros((SIDE, SIDE), bool)
    free[:6, :6] = free[6:, 6:] = True
    blocked = distance_of().field(floor_of(free), at(11, 11))
    assert blocked[0, 0, 0] > BLOCKED * CELL / 2
    free[5, 6] = True
    assert distance_of().field(floor_of(free), at(11, 11))[0, 0, 0] < 40 * CELL
    narrow = distance_of(clearance=1).field(floor_of(free), at(11, 11))
    assert narrow[0, 0, 0] > BLOCKED * CELL / 2


def test_a_field_is_read_between_its_places() -> None:
    """Linear there, broadcast over candidates and steps, and its gradient points away."""
    rows = (torch.arange(SIDE) + 0.5) * CELL - HALF
    field = (rows + 9.0)[:, None].expand(SIDE, SIDE).expand(2, 1, 1, SIDE, SIDE)
    z = torch.empty(2, 3, 4, 2).uniform_(-2, 2).requires_grad_()
    found = distance_of()(z, torch.zeros(2, 1, 1, 2), field)
    assert torch.allclose(found, z[..., 0] + 9, atol=1e-5)
    (slope,) = torch.autograd.grad(found.sum(), z)
    assert torch.allclose(slope[..., 0], torch.ones(2, 3, 4), atol=1e-4)
    assert slope[..., 1].abs().max() < 1e-4


def test_the_floor_learns_what_is_there_and_not_who_is_near() -> None:
    """Half an image is floor. To tell that helps; to tell only that the keypoint is near does not: the
    others are just as near.
    """
    torch.manual_seed(0)
    rows = torch.linspace(-HALF, HALF, 64)
    place = torch.tensor([[-1.0, 0.0]]).expand(64, -1)
    rows_seen, columns = -torch.rand(64, 8) * HALF, (2 * torch.rand(64, 8) - 1) * HALF
    seen = torch.stack([rows_seen, columns], -1)
    half = torch.where(rows < 0, 0.5, -6.0)[:, None].expand(64, 64).expand(64, -1, -1)
    near = 2 - (torch.cartesian_prod(rows, rows).reshape(64, 64, 2) - place[0]).norm(dim=-1)
    blank = floor_loss(torch.zeros(64, 64, 64), place, seen).item()
    known = floor_loss(half, place, seen).item()
    shift = floor_loss(near.expand(64, -1, -1), place, seen).item()
    assert blank == pytest.approx(np.log(2), rel=0.1)
    assert known < 0.9 * blank
    assert shift > 0.95 * blank
    assert torch.allclose(logits_at(half[:1], place[None, 0, :].expand(1, 1, 2)), torch.tensor(0.5))


def with_paths(levels: int) -> Hierarchy:
    """Untrained, with shortest ways on every level; of durations 1, 4 and 8."""
    (fine,) = model_config(1).levels
    fine = replace(
        fine, latent_dim=2, predictor="local", glimpse=3, distance=DistanceConfig(kind="paths")
    )
    above = replace(fine, latent="shared", stride=4, action_dim=2, rollout=2)
    every = (fine, above, replace(above, stride=2))[:levels]
    encoder = EncoderConfig(kind="keypoints", grid=4, channels=2)
    return Hierarchy(ModelConfig(every, encoder, image_size=16), 1)


SEARCH = OptimizerConfig(candidates=4, iterations=1, elites=1)
SEARCHES = (
    PlannerConfig(4, 2, SEARCH),
    PlannerConfig(2, 4, SEARCH),
    PlannerConfig(2, 8, SEARCH),
)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_levels_that_are_asked_for_what_may_be_far_measure_ways(depth: int) -> None:
    goal = np.zeros((16, 16, 3), np.uint8)
    agent = Agent.of(with_paths(3), SEARCHES[:depth])
    agent.reset(goal)
    expected = [depth == 1, True, True][:depth]
    assert ["field" in goal for goal in agent.goals] == expected
    for _ in range(9):
        assert np.isfinite(agent.act(goal)).all()
    assert agent.plan is not None
    for plan in agent.plan.levels:
        assert ["field" in goal for goal in plan.goals] == expected[: len(plan.goals)]


def test_ways_to_a_subgoal_are_those_over_the_floor_in_view() -> None:
    model = with_paths(3)
    planner = build(model.levels, SEARCHES)
    free = np.random.default_rng(0).uniform(size=(8, 8)) < 0.8
    here = model.encode(torch.zeros(1, 2, 16, 16, 3, dtype=torch.uint8)) | {"floor": floor_of(free)}
    subgoal = {"z": at(3, 4), "dz": torch.zeros(1, 2)}
    low, middle = lower(planner, subgoal, tuple(model.lift(here))[:2])
    paths = model.levels[1].paths
    assert paths is not None
    assert torch.equal(middle["field"], paths.field(floor_of(free), at(3, 4)))
    assert list(low) == ["z"]
    assert torch.equal(low["z"], at(3, 4))


@torch.no_grad()
def test_what_is_around_is_seen_from_each_place_of_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = with_paths(2), list[Tensor]()
    here = model.encode(torch.randint(256, (1, 2, 16, 16, 3), dtype=torch.uint8))
    predict = Level.predict

    def watched(level: Level, state: Any, action: Tensor) -> Any:
        seen.append(state["scene"][:1, 0])
        return predict(level, state, action)

    monkeypatch.setattr(Level, "predict", watched)
    ahead = {"z": torch.zeros(1, 2, 2), "dz": torch.zeros(1, 2, 2)}
    planner = build(model.levels, SEARCHES[:2])
    shares = left_by_step(planner, (here,), ahead, torch.Generator().manual_seed(0))
    assert shares.shape == (1, 2)
    assert len(seen) > 12
    assert all(torch.equal(scene, here["scene"]) for scene in seen)


def test_paths_are_those_of_one_keypoint() -> None:
    (fine,) = model_config(1).levels
    paths = replace(fine, distance=DistanceConfig(kind="paths"))
    with pytest.raises(EchelonError, match="paths are those of one keypoint"):
        ModelConfig((paths,), image_size=16)
    with pytest.raises(EchelonError, match="rare a share below 1"):
        DistanceConfig(rare=1.0)
