"""The recursion, on levels whose every answer is known: a point that is moved by its action."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from tiny import model_config
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from echelon.config import DistanceConfig, OptimizerConfig, PlannerConfig
from echelon.models.hierarchy import Hierarchy
from echelon.planning.cem import CEM
from echelon.planning.costs import DistanceCost, LiftedCost
from echelon.planning.ledger import macs_of
from echelon.planning.mppi import MPPI
from echelon.planning.planner import Planner, build, rollout
from echelon.types import (
    ActionPrior,
    EchelonError,
    LevelModel,
    Objective,
    Plan,
    Spent,
    State,
    tree_map,
)


def apart(state: State, goal: State) -> Tensor:
    """Root mean squared difference."""
    return (state["z"] - goal["z"]).square().mean(-1).sqrt()


COST = DistanceCost(apart)


@dataclass
class Point:
    """A point that one step moves by `reach` times its action; counts the rows it predicts."""

    stride: int = 1
    reach: float = 0.1
    size: int = 2
    mean: float = 0.0
    rows: int = 0

    @property
    def prior(self) -> ActionPrior:
        one = torch.ones(self.size)
        return ActionPrior(self.mean * one, 0.5 * one, -one, one)

    def predict(self, state: State, action: Tensor) -> State:
        self.rows += len(action)
        move = action @ (self.reach * torch.eye(self.size))
        return {"z": state["z"] + move, "dz": move}

    def lower(self, state: State) -> State:
        return state

    def distance(self, state: State, goal: State) -> Tensor:
        return apart(state, goal)


@dataclass
class Metered(Point):
    """Counts its operations as well, apart from those of a search."""

    flops: int = 0

    def predict(self, state: State, action: Tensor) -> State:
        with FlopCounterMode(display=False) as counter:
            moved = super().predict(state, action)
        self.flops += counter.get_total_flops()
        return moved


@dataclass
class Fixed:
    """Answers with given actions, and notes what it was asked."""

    actions: Tensor
    starts: list[Tensor] = field(default_factory=list)
    warms: list[Tensor] = field(default_factory=list)
    candidates: int = 3
    iterations: int = 1

    def minimize(
        self,
        objective: Objective,
        start: Tensor,
        warm: Tensor,
        prior: ActionPrior,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        self.starts.append(start)
        self.warms.append(warm)
        actions = self.actions.expand(len(start), -1, -1)
        return actions, objective(actions[:, None])[:, 0]


LEVELS = (Point(1, 0.1), Point(4, 0.4), Point(2, 0.8))
OPTIMIZER = OptimizerConfig(candidates=48, iterations=4, elites=6, correlation=0.5)


def at(*places: Sequence[float]) -> State:
    z = torch.tensor(places)
    return {"z": z, "dz": torch.zeros_like(z)}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fixed_planner(
    horizons: Sequence[int], replans: Sequence[int], action: float = 1.0
) -> tuple[Planner, list[Fixed]]:
    """A planner on LEVELS whose searches all answer `action`."""
    planner: Planner | None = None
    searches = [Fixed(torch.full((1, horizon, 2), action)) for horizon in horizons]
    for level, search, horizon, replan in zip(LEVELS, searches, horizons, replans, strict=False):
        planner = Planner(level, search, COST, horizon, replan, planner)
    assert planner is not None
    return planner, searches


def plan(
    planner: Planner, state: State, goal: State, now: int = 0, last: Plan | None = None
) -> Plan:
    depth = planner.depth
    return planner.plan((state,) * depth, (goal,) * depth, now, rng(now), last)


# ---------------------------------------------------------------------------- rollout


def test_rollout_is_step_by_step_prediction() -> None:
    level = Point()
    state = at([0.0, 1.0], [5.0, -2.0])
    actions = torch.rand(2, 3, 4, 2)
    found = rollout(level, state, actions)
    assert found["z"].shape == found["dz"].shape == (2, 3, 4, 2)
    for b in range(2):
        for k in range(3):
            one = tree_map(lambda x, b=b: x[b : b + 1], state)
            for t in range(4):
                one = level.predict(one, actions[b, k, t][None])
                assert torch.allclose(found["z"][b, k, t], one["z"][0])
                assert torch.allclose(found["dz"][b, k, t], one["dz"][0])


def test_rollout_of_any_tree() -> None:
    class Counter(Point):
        def predict(self, state: State, action: Tensor) -> State:
            first, (steps, picture) = state
            return first + action, (steps + 1, picture * 2)

    state = (torch.zeros(2, 2), (torch.tensor([0, 10]), torch.ones(2, 3, 3)))
    found, (steps, picture) = rollout(Counter(), state, torch.ones(2, 5, 3, 2))
    assert found[0, 0].tolist() == [[1, 1], [2, 2], [3, 3]]
    assert steps[:, 0].tolist() == [[1, 2, 3], [11, 12, 13]]
    assert picture.shape == (2, 5, 3, 3, 3)
    assert picture[1, 4, :, 0, 0].tolist() == [2, 4, 8]


# ---------------------------------------------------------------------------- reaching


def test_flat_planner_reaches_the_goal() -> None:
    config = PlannerConfig(10, 1, OptimizerConfig(candidates=256, iterations=6, elites=16))
    goal = at([0.5, -0.3], [-0.2, 0.1])
    found = plan(build(LEVELS, [config]), at([0.0, 0.0], [0.0, 0.0]), goal)
    nearest = apart(found.states, tree_map(lambda x: x[:, None], goal)).amin(1)
    assert nearest.max() < 0.03
    assert found.below is None
    assert found.lowest is found
    assert torch.allclose(
        found.cost, COST(tree_map(lambda x: x[:, None], found.states), goal)[:, 0]
    )


@pytest.mark.parametrize("kind", ["cem", "mppi"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_planners_of_any_depth_drive_to_the_goal(depth: int, kind: str) -> None:
    optimizer = replace(OPTIMIZER, kind=kind)
    configs = [PlannerConfig(4, 2, optimizer), PlannerConfig(3, 4, optimizer)]
    configs = [*configs, PlannerConfig(3, 8, optimizer)][:depth]
    planner = build(LEVELS, configs)
    assert (planner.depth, planner.duration) == (depth, (1, 4, 8)[depth - 1])
    state, goal = at([0.0, 0.0], [1.0, 1.0]), at([1.5, -0.9], [0.9, 1.0])
    last: Plan | None = None
    for now in range(28):
        last = plan(planner, state, goal, now, last)
        lowest = last.lowest
        state = LEVELS[0].predict(state, lowest.actions[:, now - lowest.time])
    assert apart(state, goal).max() < 0.1


# ---------------------------------------------------------------------------- handing down


def test_the_first_predicted_state_is_handed_down() -> None:
    planner, _ = fixed_planner((5, 3, 2), (1, 1, 1))
    found = plan(planner, at([0.0, 0.0]), at([9.0, 9.0]))
    middle = found.below
    assert middle is not None
    low = middle.below
    assert low is not None
    assert found.lowest is low
    assert found.states["z"][0, :, 0].tolist() == pytest.approx([0.8, 1.6])
    assert [len(p.goals) for p in (found, middle, low)] == [3, 2, 1]
    for goal in middle.goals:
        assert torch.equal(goal["z"], found.states["z"][:, 0])
    assert torch.equal(low.goals[0]["z"], middle.states["z"][:, 0])
    assert low.goals[0]["z"].tolist() == [pytest.approx([0.4, 0.4])]
    # A level is asked in its own words: its predicted states start from where it is.
    assert low.states["z"][0, 0].tolist() == pytest.approx([0.1, 0.1])


def test_what_is_handed_down_is_lowered_once_a_level() -> None:
    class Shifted(Point):
        def lower(self, state: State) -> State:
            return {"z": state["z"] + 10 * self.stride, "dz": state["dz"]}

    search = Fixed(torch.ones(1, 2, 2))
    planner: Planner | None = None
    for stride in (1, 4, 2):
        level = Shifted(stride, 0.5)
        planner = Planner(level, search, COST, 2, 1, planner)
    assert planner is not None
    found = plan(planner, at([0.0, 0.0]), at([99.0, 99.0]))
    assert found.below is not None
    low, middle = found.below.goals
    assert middle["z"][0, 0].item() == 20.5
    assert low["z"][0, 0].item() == 60.5
    # From a state of 0 the middle level steps to 0.5, far from 20.5, and hands that down.
    assert found.lowest.goals[0]["z"][0, 0].item() == 40.5


def test_a_goal_within_the_first_step_is_handed_down_itself() -> None:
    planner, _ = fixed_planner((5, 3), (1, 1))
    # The plan goes to 0.4, 0.8, 1.2: nearest to the first goal with its first step.
    goals = (at([0.3, 0.3], [0.9, 0.9]), at([0.35, 0.35], [0.9, 0.9]))
    states = (at([0.0, 0.0], [0.0, 0.0]),) * 2
    found = planner.plan(states, goals, 0, rng())
    assert found.below is not None
    asked = found.below.goals[0]["z"]
    assert torch.equal(asked[0], goals[0]["z"][0])
    assert asked[1].tolist() == pytest.approx([0.4, 0.4])


def test_states_with_leaves_of_any_rank_are_handed_down() -> None:
    class Remembering(Point):
        def predict(self, state: State, action: Tensor) -> State:
            moved = super().predict(state, action)
            return moved | {"age": state["age"] + 1, "map": state["map"] + 1}

    def here(age: int, *places: Sequence[float]) -> State:
        count = len(places)
        return at(*places) | {"age": torch.full((count,), age), "map": torch.zeros(count, 3, 2)}

    levels = [Remembering(1, 0.1), Remembering(4, 0.4)]
    search = Fixed(torch.ones(1, 3, 2))
    below = Planner(levels[0], search, COST, 3, 1)
    planner = Planner(levels[1], search, COST, 3, 1, below)
    goal = here(50, [0.3, 0.3], [0.9, 0.9])
    found = plan(planner, here(7, [0.0, 0.0], [0.0, 0.0]), goal)
    assert found.below is not None
    asked = found.below.goals[0]
    assert asked["age"].tolist() == [50, 8]
    assert asked["map"].shape == (2, 3, 2)
    assert asked["map"].flatten(1).mean(1).tolist() == [0, 1]


# ---------------------------------------------------------------------------- clocks


@pytest.mark.parametrize(
    ("replans", "expected"),
    [
        ((2, 4, 8), ([0, 2, 4, 6, 8], [0, 4, 8], [0, 8])),
        ((2, 3), ([0, 2, 3, 5, 6, 8, 9], [0, 3, 6, 9])),
        ((5, 3), ([0, 3, 6, 9], [0, 3, 6, 9])),
        ((4,), ([0, 4, 8],)),
    ],
)
def test_clocks(replans: Sequence[int], expected: Sequence[list[int]]) -> None:
    planner, searches = fixed_planner((8, 3, 3)[: len(replans)], replans)
    last: Plan | None = None
    times: list[list[int]] = [[] for _ in searches]
    for now in range(10):
        before = [len(search.starts) for search in searches]
        last = plan(planner, at([0.0, 0.0]), at([9.0, 9.0]), now, last)
        for index, search in enumerate(searches):
            if len(search.starts) > before[index]:
                times[index].append(now)
        # Whatever was kept says when it was made.
        part: Plan | None = last
        for made in reversed(times):
            assert part is not None
            assert part.time == made[-1]
            part = part.below
    assert times == list(expected)


def test_a_kept_plan_costs_nothing_and_keeps_its_subgoal() -> None:
    planner, _ = fixed_planner((8, 3), (2, 4))
    goal = at([9.0, 9.0])
    first = plan(planner, at([0.0, 0.0]), goal)
    assert first.below is not None
    kept = plan(planner, at([0.5, 0.5]), goal, 1, first)
    assert kept.spent == Spent()
    assert kept.below is not None
    assert kept.below.spent == Spent()
    assert kept.actions is first.actions
    assert kept.below.actions is first.below.actions
    below_only = plan(planner, at([0.5, 0.5]), goal, 2, kept)
    assert below_only.below is not None
    assert below_only.spent == below_only.below.spent == Spent((3 + 1) * 8, below_only.spent.macs)
    assert below_only.actions is first.actions
    # Seen from where it is by now, towards the subgoal it was given before.
    assert below_only.below.states["z"][0, 0].tolist() == pytest.approx([0.6, 0.6])
    assert torch.equal(below_only.below.goals[0]["z"], first.below.goals[0]["z"])
    all_again = plan(planner, at([0.5, 0.5]), goal, 4, below_only)
    assert all_again.spent.calls == (3 + 1) * (8 + 3)
    assert all_again.below is not None
    assert all_again.below.goals[0]["z"].tolist() == [pytest.approx([0.9, 0.9])]


def test_force_makes_a_new_plan() -> None:
    planner, searches = fixed_planner((8, 3), (4, 8))
    state, goal = (at([0.0, 0.0]),) * 2, (at([9.0, 9.0]),) * 2
    first = planner.plan(state, goal, 0, rng())
    other = (at([-5.0, 0.0]),) * 2
    forced = planner.plan(state, other, 1, rng(), first, force=True)
    assert [len(search.starts) for search in searches] == [2, 2]
    assert forced.goals is other
    assert forced.time == forced.lowest.time == 1


# ---------------------------------------------------------------------------- warm start


def test_a_search_starts_from_the_last_plan_shifted() -> None:
    ramp = torch.arange(1.0, 6.0)[None, :, None].expand(1, 5, 2) / 10
    search = Fixed(ramp)
    planner = Planner(Point(mean=-0.5), search, COST, 5, 1)
    state, goal = at([0.0, 0.0], [1.0, 0.0]), at([9.0, 9.0], [9.0, 9.0])
    last: Plan | None = None
    for now, expected in (
        (0, [-0.5] * 5),
        (2, [0.3, 0.4, 0.5, -0.5, -0.5]),
        (3, [0.2, 0.3, 0.4, 0.5, -0.5]),
        (8, [-0.5] * 5),
        (20, [-0.5] * 5),
    ):
        last = plan(planner, state, goal, now, last)
        start = search.starts[-1]
        assert start.shape == (2, 5, 2)
        wanted = torch.tensor(expected)[None, :, None].expand(2, 5, 2)
        assert torch.equal(start, wanted)
        assert search.warms[-1].tolist() == [now > 0] * 2


def test_the_start_is_shifted_by_steps_of_its_own_level() -> None:
    ramp = torch.tensor([0.1, 0.2, 0.3])[None, :, None].expand(1, 3, 2)
    searches = [Fixed(torch.zeros(1, 8, 2)), Fixed(ramp)]
    below = Planner(LEVELS[0], searches[0], COST, 8, 1)
    planner = Planner(LEVELS[1], searches[1], COST, 3, 1, below)
    last: Plan | None = None
    # The last plan is always one made in the call before, so what counts is the time since then.
    for now, expected in (
        (0, [0.0, 0.0, 0.0]),
        (3, [0.1, 0.2, 0.3]),
        (7, [0.2, 0.3, 0.0]),
        (15, [0.3, 0.0, 0.0]),
        (18, [0.1, 0.2, 0.3]),
    ):
        last = plan(planner, at([0.0, 0.0]), at([9.0, 9.0]), now, last)
        assert searches[1].starts[-1][0, :, 0].tolist() == pytest.approx(expected)
    # Two strides make a step of level 2 as long as 8 of the environment.
    top = Planner(LEVELS[2], Fixed(ramp), COST, 3, 1, planner)
    assert top.duration == 8
    last = plan(top, at([0.0, 0.0]), at([9.0, 9.0]))
    for now, expected in ((7, [0.1, 0.2, 0.3]), (15, [0.2, 0.3, 0.0])):
        last = plan(top, at([0.0, 0.0]), at([9.0, 9.0]), now, last)
        assert isinstance(top.optimizer, Fixed)
        assert top.optimizer.starts[-1][0, :, 0].tolist() == pytest.approx(expected)


# ---------------------------------------------------------------------------- ledger


@pytest.mark.parametrize("kind", ["cem", "mppi"])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_ledger_is_what_was_really_spent(kind: str, batch: int) -> None:
    levels = [Metered(1, 0.1), Metered(4, 0.4), Metered(2, 0.8)]
    optimizer = OptimizerConfig(kind=kind, candidates=6, iterations=3, elites=2)
    configs = [PlannerConfig(5, 1, optimizer), PlannerConfig(3, 2, optimizer), PlannerConfig(2, 4)]
    planner = build(levels, configs)
    state, goal = at(*[[0.0, 0.0]] * batch), at(*[[3.0, 3.0]] * batch)
    last = plan(planner, state, goal)  # which also counts, once
    for now in range(1, 6):
        for level in levels:
            level.rows = level.flops = 0
        last = plan(planner, state, goal, now, last)
        assert sum(level.rows for level in levels) == batch * last.spent.calls
        assert sum(level.flops for level in levels) == 2 * batch * last.spent.macs
        # A step is one matrix product of 2 x 2.
        assert last.spent.macs == 4 * last.spent.calls
    flat = build(levels, configs[:1])
    assert plan(flat, state, goal).spent == Spent((3 * 6 + 1) * 5, 4 * (3 * 6 + 1) * 5)


def test_the_ledger_counts_the_lift_of_a_cost() -> None:
    weight = torch.ones(2, 7)
    cost = LiftedCost(lambda state: {"z": state["z"] @ weight}, COST)
    # White noise, since to correlate it is a product of its own that the ledger leaves out.
    optimizer = OptimizerConfig(candidates=8, correlation=0.0)
    planner = build([Point()], [PlannerConfig(5, 1, optimizer)], [cost])
    state, goal = at([0.0, 0.0], [0.0, 0.0]), at([3.0, 3.0], [3.0, 3.0])
    last = plan(planner, state, goal)
    with FlopCounterMode(display=False) as counter:
        last = plan(planner, state, goal, 5, last)
    lifted = 2 * (8 * 5 + 1) * 14  # in each of 2 rounds the states of 8 candidates, and the goal
    assert last.spent.macs == (2 * 8 + 1) * 5 * 4 + lifted
    assert counter.get_total_flops() == 2 * 2 * last.spent.macs


def test_macs_of() -> None:
    one, other = torch.ones(3, 4), torch.ones(4, 5)
    assert macs_of(torch.matmul, one, other) == 3 * 4 * 5
    assert macs_of(torch.add, one, one) == 0


def test_spent_adds_up() -> None:
    assert Spent(1, 2) + Spent(10, 20) == Spent(11, 22)


# ---------------------------------------------------------------------------- costs


@pytest.mark.parametrize(
    ("minimum", "expected"), [(0.0, 2.0), (1.0, 1.0), (0.7, 1.3), (0.25, 1.75)]
)
def test_distance_cost(minimum: float, expected: float) -> None:
    # Distances 3, 1 and 2, in each of two dimensions, and the same towards a goal elsewhere.
    z = torch.tensor([3.0, -1.0, 2.0])[None, None, :, None].expand(2, 4, 3, 2).clone()
    z[1] += 5
    goal = {"z": torch.tensor([[0.0, 0.0], [5.0, 5.0]])}
    assert (
        DistanceCost(apart, minimum)({"z": z}, goal).tolist() == [pytest.approx([expected] * 4)] * 2
    )


def test_a_cost_by_a_distance_that_is_no_metric() -> None:
    """It is asked for the way from each state to the goal, and never back."""

    def upward(state: State, goal: State) -> Tensor:
        return (goal["z"] - state["z"]).squeeze(-1).relu()

    states = {"z": torch.tensor([[[[0.0], [2.0]], [[9.0], [9.0]]]])}
    assert DistanceCost(upward, 0.25)(states, {"z": torch.tensor([[6.0]])}).tolist() == [[4.75, 0]]


@pytest.mark.parametrize("kind", ["latent", "quasimetric", "expectile", "contrastive"])
def test_a_search_descends_the_distance_that_a_level_has(kind: Any) -> None:
    fine = replace(model_config(1).levels[0], distance=DistanceConfig(kind=kind, width=8))
    level = Hierarchy(replace(model_config(1), levels=(fine,)), 1).levels[0]
    states = {"z": torch.rand(2, 3, 5, 4), "dz": torch.rand(2, 3, 5, 4)}
    goal = {"z": torch.rand(2, 4)}
    planner = build([level], [PlannerConfig(5, 5, minimum=0.4)])
    found = planner.cost(states, goal)
    for b in range(2):
        for k in range(3):
            way = [level.distance({"z": z}, {"z": goal["z"][b]}) for z in states["z"][b, k]]
            expected = 0.4 * min(way) + 0.6 * sum(way) / 5
            assert found[b, k].item() == pytest.approx(expected.item(), rel=1e-4)


def test_lifted_cost_is_the_cost_of_what_is_lifted() -> None:
    def lift(state: State) -> State:
        return {"z": state["z"] * torch.tensor([2.0, 0.0])}

    states, goal = {"z": torch.rand(2, 3, 4, 2)}, {"z": torch.rand(2, 2)}
    inner = DistanceCost(apart, 0.4)
    assert torch.equal(LiftedCost(lift, inner)(states, goal), inner(lift(states), lift(goal)))
    assert not torch.allclose(LiftedCost(lift, inner)(states, goal), inner(states, goal))


# ---------------------------------------------------------------------------- building, selecting


def test_build() -> None:
    mppi = OptimizerConfig(kind="mppi")
    planner = build(LEVELS, [PlannerConfig(5, 5), PlannerConfig(3, 9, mppi, minimum=0.2)])
    assert planner.level is LEVELS[1]
    assert isinstance(planner.optimizer, MPPI)
    assert planner.cost == DistanceCost(LEVELS[1].distance, 0.2)
    assert (planner.horizon, planner.replan) == (3, 9)
    assert planner.below is not None
    assert planner.below.level is LEVELS[0]
    assert isinstance(planner.below.optimizer, CEM)
    assert planner.below.below is None
    other = DistanceCost(apart, 0.1)
    assert build(LEVELS, [PlannerConfig(5, 5)], [other]).cost is other


def test_build_refuses() -> None:
    levels: Sequence[LevelModel] = LEVELS
    with pytest.raises(EchelonError, match="at least one level"):
        build(levels, [])
    with pytest.raises(EchelonError, match="replan: 6 steps, but a plan of level 0 has only 5"):
        build(levels, [PlannerConfig(5, 6)])


def test_select_selects_at_every_level() -> None:
    planner = build(LEVELS, [PlannerConfig(4, 2), PlannerConfig(3, 4), PlannerConfig(2, 8)])
    goal = at([1.0, 2.0], [3.0, 4.0], [5.0, 6.0])
    found = plan(planner, at([0.0, 0.0], [0.1, 0.0], [0.2, 0.0]), goal, 3)
    index = torch.tensor([2, 0])
    whole: Plan | None = found
    part: Plan | None = found.select(index)
    while whole is not None:
        assert part is not None
        assert torch.equal(part.actions, whole.actions[index])
        assert torch.equal(part.cost, whole.cost[index])
        assert torch.equal(part.states["z"], whole.states["z"][index])
        assert torch.equal(part.states["dz"], whole.states["dz"][index])
        assert len(part.goals) == len(whole.goals)
        for one, all_ in zip(part.goals, whole.goals, strict=True):
            assert torch.equal(one["z"], all_["z"][index])
        assert (part.time, part.spent) == (whole.time, whole.spent)
        whole, part = whole.below, part.below
    assert part is None
