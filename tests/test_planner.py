"""The recursion, on levels whose every answer is known: a point that is moved by its action."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from tiny import model_config
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from echelon.config import (
    DistanceConfig,
    EncoderConfig,
    LevelConfig,
    ModelConfig,
    OptimizerConfig,
    PlannerConfig,
)
from echelon.models.hierarchy import Hierarchy
from echelon.planning import planner as planners
from echelon.planning.cem import CEM
from echelon.planning.costs import DistanceCost, lifted
from echelon.planning.ledger import macs_of
from echelon.planning.mppi import MPPI
from echelon.planning.optimizers import optimizer_of
from echelon.planning.planner import Planner, build, rollout
from echelon.planning.subgoals import MISTRUST
from echelon.presets import planner_for, settings_for
from echelon.types import (
    ActionPrior,
    EchelonError,
    LevelModel,
    Objective,
    Plan,
    Spent,
    State,
    never,
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
    most: int = 0
    """rows at a time"""

    @property
    def prior(self) -> ActionPrior:
        one = torch.ones(self.size)
        return ActionPrior(self.mean * one, 0.5 * one, -one, one)

    def predict(self, state: State, action: Tensor) -> State:
        self.rows += action[..., 0].numel()
        self.most = max(self.most, action[..., 0].numel())
        move = action @ (self.reach * torch.eye(self.size))
        return {"z": state["z"] + move, "dz": move}

    @property
    def neighbours(self) -> tuple[State, State]:
        return at([0.0, 0.0]), at([self.reach, self.reach])

    def lower(self, state: State) -> State:
        return state

    def place(self, state: State) -> State:
        return state

    def aim(self, kind: str, state: State, here: State) -> State:
        return state

    def measure(self, kind: str) -> Callable[[State, State], Tensor]:
        return apart


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
    """Answers with given actions, of which it evaluates 3, and notes what it was asked."""

    actions: Tensor
    """[1, H, A], or [1, M, H, A] for the best M"""
    starts: list[Tensor] = field(default_factory=list)
    warms: list[Tensor] = field(default_factory=list)
    evaluations: int = 3

    def scaled(self, effort: float) -> Fixed:
        return self

    def minimize(
        self,
        objective: Objective,
        start: Tensor,
        warm: Tensor,
        prior: ActionPrior,
        generator: torch.Generator,
        keep: int = 1,
        stop: Callable[[], bool] = never,
    ) -> tuple[Tensor, Tensor]:
        self.starts.append(start)
        self.warms.append(warm)
        best = self.actions if self.actions.ndim == 4 else self.actions[:, None]
        best = best.expand(len(start), keep, -1, -1)
        cost = objective(torch.cat([best, best[:, :1].expand(-1, 3 - keep, -1, -1)], 1))
        return best, cost[:, :keep]


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
        planner = Planner(level, search, COST, PlannerConfig(horizon, replan), planner)
    assert planner is not None
    return planner, searches


def took(spent: Spent) -> list[tuple[int, int]]:
    """Calls and multiply-accumulates of each environment."""
    return list(zip(spent.calls.tolist(), spent.macs.tolist(), strict=True))


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
        state = LEVELS[0].predict(state, lowest.actions[torch.arange(2), now - lowest.made])
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
        planner = Planner(level, search, COST, PlannerConfig(2, 1), planner)
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
    below = Planner(levels[0], search, COST, PlannerConfig(3, 1))
    planner = Planner(levels[1], search, COST, PlannerConfig(3, 1), below)
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
            assert part.made.tolist() == made[-1:]
            part = part.below
    assert times == list(expected)


def test_a_kept_plan_costs_nothing_and_keeps_its_subgoal() -> None:
    planner, _ = fixed_planner((8, 3), (2, 4))
    goal = at([9.0, 9.0])
    first = plan(planner, at([0.0, 0.0]), goal)
    assert first.below is not None
    kept = plan(planner, at([0.5, 0.5]), goal, 1, first)
    assert took(kept.total) == [(0, 0)]
    assert kept.total.seconds == 0
    assert kept.below is not None
    assert kept.actions is first.actions
    assert kept.below.actions is first.below.actions
    below_only = plan(planner, at([0.5, 0.5]), goal, 2, kept)
    assert below_only.below is not None
    assert took(below_only.spent) == [(0, 0)]
    assert below_only.total.calls.tolist() == [(3 + 1) * 8]
    assert below_only.total.seconds > 0
    assert below_only.actions is first.actions
    # Seen from where it is by now, towards the subgoal it was given before.
    assert below_only.below.states["z"][0, 0].tolist() == pytest.approx([0.6, 0.6])
    assert torch.equal(below_only.below.goals[0]["z"], first.below.goals[0]["z"])
    all_again = plan(planner, at([0.5, 0.5]), goal, 4, below_only)
    assert all_again.total.calls.tolist() == [(3 + 1) * (8 + 3)]
    assert all_again.below is not None
    assert all_again.below.goals[0]["z"].tolist() == [pytest.approx([0.9, 0.9])]


def test_force_makes_a_new_plan() -> None:
    planner, searches = fixed_planner((8, 3), (4, 8))
    state, goal = (at([0.0, 0.0]),) * 2, (at([9.0, 9.0]),) * 2
    first = planner.plan(state, goal, 0, rng())
    other = (at([-5.0, 0.0]),) * 2
    forced = planner.plan(state, other, 1, rng(), first, torch.tensor([True]))
    assert [len(search.starts) for search in searches] == [2, 2]
    assert torch.equal(forced.goals[-1]["z"], other[-1]["z"])
    assert forced.made.tolist() == forced.lowest.made.tolist() == [1]


def clocked(action: float = 1.0, **clocks: Any) -> tuple[Planner, list[Fixed]]:
    """Two levels: the upper one of 4 steps' duration and horizon 3, its plan kept for 12."""
    searches = [Fixed(torch.full((1, horizon, 2), action)) for horizon in (8, 3)]
    below = Planner(LEVELS[0], searches[0], COST, PlannerConfig(8, 2))
    config = PlannerConfig(3, 12, **clocks)
    return Planner(LEVELS[1], searches[1], COST, config, below), searches


def follow(
    planner: Planner, places: Sequence[Sequence[Sequence[float]]], times: Sequence[int]
) -> list[Plan]:
    """The plans of environments that are at `places` [len(times)][B][2] whatever is planned."""
    plans: list[Plan] = []
    for now, here in zip(times, places, strict=True):
        goal = at(*[[9.0, 9.0]] * len(here))
        plans.append(plan(planner, at(*here), goal, now, plans[-1] if plans else None))
    return plans


def aimed_at(found: Plan) -> list[float]:
    """The first coordinate of each environment's subgoal."""
    assert found.below is not None
    return found.below.goals[-1]["z"][:, 0].tolist()


def test_subgoals_are_pursued_one_after_the_other_without_another_search() -> None:
    planner, searches = clocked()
    plans = follow(planner, [[[0.0, 0.0]]] * 7, range(0, 14, 2))
    # Predicted are 0.4, 0.8 and 1.2; after 12 steps the search is made again, from 0.
    expected = [0.4, 0.4, 0.8, 0.8, 1.2, 1.2, 0.4]
    assert [aimed_at(p)[0] for p in plans] == pytest.approx(expected)
    assert len(searches[1].starts) == 2
    assert [p.made.item() for p in plans] == [0] * 6 + [12]
    # The level below searches on its own clock, and where its goal changed.
    assert [p.lowest.made.item() for p in plans] == list(range(0, 14, 2))
    # What was pursued to its end is left out of the next start.
    assert searches[1].starts[-1][0, :, 0].tolist() == [0.0, 0.0, 0.0]


def test_a_subgoal_that_is_reached_early_gives_way_to_the_next() -> None:
    planner, searches = clocked(reached=0.5)
    # Of the way to 0.4 (where it is 0.57 away), less than half is left at 0.25; then 0.8 is 0.55 away.
    places = [[[x, x]] for x in (0.0, 0.1, 0.25, 0.3, 0.55)]
    plans = follow(planner, places, (0, 2, 3, 4, 5))
    assert [aimed_at(p)[0] for p in plans] == pytest.approx([0.4, 0.4, 0.8, 0.8, 1.2])
    assert [p.since.item() for p in plans] == [0, 0, 3, 3, 5]
    assert len(searches[1].starts) == 1
    assert plans[2].gap.item() == pytest.approx(0.55)


def test_each_environment_has_a_clock_of_its_own() -> None:
    planner, searches = clocked(reached=0.5)
    places = [[[0.0, 0.0], [0.0, 0.0]], [[0.05, 0.05], [0.35, 0.35]]]
    _, later = follow(planner, places, (0, 1))
    assert aimed_at(later) == pytest.approx([0.4, 0.8])
    assert later.lowest.made.tolist() == [0, 1]
    assert [len(start) for start in searches[0].starts] == [2, 1]
    assert later.total.calls.tolist() == [0, (3 + 1) * 8]


def test_the_watchdog_searches_again_where_the_world_departs() -> None:
    planner, searches = clocked(watchdog=0.5)
    # After 2 of 4 steps half of the way may be left, and half of it more: 0.4 of 0.4, not 0.5.
    places = [[[0.0, 0.0]] * 3, [[0.2, 0.2], [0.0, 0.0], [-0.1, -0.1]]]
    _, later = follow(planner, places, (0, 2))
    assert later.made.tolist() == [0, 0, 2]
    assert len(searches[1].starts[-1]) == 1
    assert aimed_at(later) == pytest.approx([0.4, 0.4, 0.3])
    blind, searches = clocked()
    _, later = follow(blind, places, (0, 2))
    assert later.made.tolist() == [0, 0, 0]


def test_where_plans_fail_in_a_row_the_goal_itself_is_handed_down() -> None:
    planner, _ = clocked(watchdog=0.5, trust=2)
    # The first environment never moves, though its plans said so; the second one follows.
    places = [[[0.0, 0.0], [x, x]] for x in (0.0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.4, 2.8)]
    plans = follow(planner, places, range(0, 32, 4))
    assert [p.lost[0].item() for p in plans] == [0, 1, 1, 1, 1, 1, 1, 1]
    assert [p.direct[0].item() for p in plans] == [
        False,
        False,
        True,
        True,
        True,
        False,
        True,
        True,
    ]
    assert [p.below.goals[-1]["z"][0, 0].item() for p in plans if p.direct[0] and p.below] == [
        9.0
    ] * 5
    assert not any(p.direct[1] or p.lost[1] for p in plans)
    with pytest.raises(EchelonError, match="set watchdog"):
        PlannerConfig(4, 4, trust=1)
    with pytest.raises(EchelonError, match="a level below that may make"):
        PlannerConfig(4, 4, options=2, hand_down="either")


def test_a_plan_that_is_followed_to_its_end_is_trusted_again() -> None:
    planner, _ = clocked(watchdog=0.5, trust=2)
    # One plan is lost, the next one is followed to its end, and another is lost.
    places = [[[x, x]] for x in (0.0, 0.0, 0.4, 0.8, 1.2, 1.2)]
    plans = follow(planner, places, range(0, 24, 4))
    assert [p.lost.item() for p in plans] == [0, 1, 1, 1, 0, 1]
    assert not any(p.direct for p in plans)


def test_near_the_goal_planning_enters_below() -> None:
    planner, searches = clocked(enter=1.0)
    # One step here is 0.4 in each direction.
    states = (at([0.0, 0.0], [0.0, 0.0]),) * 2
    goals = (at([0.39, 0.39], [0.7, 0.7]),) * 2
    found = planner.plan(states, goals, 0, rng())
    assert found.direct.tolist() == [True, False]
    assert [len(start) for search in searches for start in search.starts] == [2, 1]
    assert found.spent.calls.tolist() == [3, (3 + 1) * 3]  # one rollout says where it would go
    assert aimed_at(found) == pytest.approx([0.39, 0.4])
    # Nothing is near any more: the goal moved away, and the upper level searches for both.
    away = (at([9.0, 9.0], [9.0, 9.0]),) * 2
    found = planner.plan(states, away, 1, rng(), found, torch.tensor([True, True]))
    assert found.direct.tolist() == [False, False]
    assert aimed_at(found) == pytest.approx([0.4, 0.4])


# ---------------------------------------------------------------------------- reachability


def test_a_subgoal_out_of_reach_is_refused() -> None:
    # The best plan wants to go to the right, the next one up; the level below can only go one way.
    right, up, both = ([1.0, 0.0], [0.0, 1.0], [0.7, 0.7])
    options = torch.tensor([right, up, both])[None, :, None].expand(1, 3, 2, 2)
    for can, taken in ((up, up), (right, right), (both, both)):
        below = Planner(
            LEVELS[0], Fixed(torch.tensor(can).expand(1, 4, 2)), COST, PlannerConfig(4, 4)
        )
        planner = Planner(LEVELS[1], Fixed(options), COST, PlannerConfig(2, 4, options=3), below)
        found = plan(planner, at([0.0, 0.0], [1.0, 1.0]), at([9.0, 9.0], [9.0, 9.0]))
        assert torch.equal(found.actions, torch.tensor(taken).expand(2, 2, 2))
        start = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
        assert found.below is not None
        assert torch.allclose(found.below.goals[0]["z"], start + 0.4 * torch.tensor(taken))
        # 3 evaluated and 3 rolled out here; below, 3 searches that try the options, then the plan.
        assert found.spent.calls.tolist() == [(3 + 3) * 2 + 3 * (3 + 1) * 4] * 2
        assert found.below.spent.calls.tolist() == [(3 + 1) * 4] * 2


def test_where_nothing_can_be_reached_the_nearest_miss_is_taken() -> None:
    options = torch.tensor([[1.0, 0.0], [0.0, 1.0]])[None, :, None].expand(1, 2, 2, 2)
    mostly_up = Fixed(torch.tensor([0.05, 0.1]).expand(1, 4, 2))
    below = Planner(LEVELS[0], mostly_up, COST, PlannerConfig(4, 4))
    config = PlannerConfig(2, 4, options=2, reach=0.1)
    planner = Planner(LEVELS[1], Fixed(options), COST, config, below)
    found = plan(planner, at([0.0, 0.0]), at([9.0, 1.0]))
    assert found.actions[0, 0].tolist() == [0, 1]


@pytest.mark.parametrize("hand_down", ["lift", "either"])
@pytest.mark.parametrize("depth", [2, 3])
def test_all_of_it_together_drives_to_the_goal(depth: int, hand_down: str) -> None:
    upper = {"reached": 0.2, "watchdog": 0.5, "enter": 1.0, "hand_down": hand_down}
    if hand_down == "lift":
        upper["options"] = 3
    configs = [PlannerConfig(4, 2, OPTIMIZER), PlannerConfig(3, 12, OPTIMIZER, **upper)]
    configs = [*configs, PlannerConfig(3, 16, OPTIMIZER, **upper)][:depth]
    planner = build(LEVELS, configs)
    generator = rng()
    state, goal = at([0.0, 0.0], [1.0, 1.0]), at([1.5, -0.9], [0.9, 1.0])
    last: Plan | None = None
    for now in range(32):
        last = planner.plan((state,) * depth, (goal,) * depth, now, generator, last)
        state = LEVELS[0].predict(
            state, last.lowest.actions[torch.arange(2), now - last.lowest.made]
        )
    assert apart(state, goal).max() < 0.1


def test_the_level_below_can_be_judged_by_the_subgoal_itself() -> None:
    class Halved(Point):
        def place(self, state: State) -> State:
            return {"z": state["z"] / 2}

        def lower(self, state: State) -> State:
            return {"z": torch.full_like(state["z"], 77.0)}

    levels = [Point(1, 0.1), Halved(4, 0.4)]
    configs = [PlannerConfig(4, 4), PlannerConfig(2, 4, hand_down="lift")]
    planner = build(levels, configs)
    planner.optimizer = Fixed(torch.ones(1, 2, 2))
    far = ({"z": torch.full((1, 2), 9.0)},) * 2
    found = planner.plan((at([0.0, 0.0]),) * 2, far, 0, rng())
    assert found.below is not None
    asked = found.below.goals[0]
    assert asked["z"].tolist() == [[77.0, 77.0]]
    assert asked["above"]["z"].tolist() == [pytest.approx([0.4, 0.4])]
    # Below, 0.4 up here is 0.8: out of reach, and in that direction.
    assert found.below.actions.mean() > 0.5
    reached = found.below.states["z"][0, -1]
    cost = apart({"z": found.below.states["z"] / 2}, asked["above"] | {}).amin()
    assert cost == pytest.approx((0.4 - reached.mean() / 2).item(), abs=0.05)
    # A goal that is near is handed down as itself, in both words.
    goals = ({"z": torch.full((1, 2), 0.5)}, {"z": torch.full((1, 2), 0.25)})
    near = planner.plan((at([0.0, 0.0]),) * 2, goals, 0, rng())
    assert near.below is not None
    assert near.direct.tolist() == [True]
    assert near.below.goals[0]["z"].tolist() == [[0.5, 0.5]]
    assert near.below.goals[0]["above"]["z"].tolist() == [[0.25, 0.25]]


@pytest.mark.parametrize(
    ("goal", "first"),
    [([0.0, 0.4], [0, 1]), ([0.4, 1.2], [1, 0])],
    ids=["the goal, which the plan above passes by", "the subgoal, since the goal is out of reach"],
)
def test_the_level_below_makes_for_the_subgoal_or_the_goal(
    goal: list[float], first: list[float]
) -> None:
    passes = DistanceCost(apart, minimum=1.0)
    below = Planner(LEVELS[0], CEM(OPTIMIZER), passes, PlannerConfig(4, 4))
    aside = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]])
    config = PlannerConfig(4, 16, hand_down="either")
    planner = Planner(LEVELS[1], Fixed(aside), passes, config, below)
    found = plan(planner, at([0.0, 0.0]), at(goal)).below
    assert found is not None
    asked = found.goals[0]
    assert asked["z"].tolist() == [pytest.approx([0.4, 0.0])]
    assert asked["instead"]["z"].tolist() == [pytest.approx(goal)]
    nearest = apart(at([0.4, 0.0], [0.4, 0.4], [0.4, 0.8], [0.4, 1.2]), at(goal)).amin()
    assert asked["promise"].tolist() == [pytest.approx(MISTRUST * nearest.item(), abs=1e-6)]
    assert found.actions[0].mean(0).tolist() == [pytest.approx(x, abs=0.2) for x in first]


def test_what_may_be_made_for_instead_is_handed_on() -> None:
    configs = [PlannerConfig(4, 4), *[PlannerConfig(2, 32, hand_down="either")] * 2]
    planner = build(LEVELS, configs)
    found = planner.plan((at([0.0, 0.0]),) * 3, (at([5.0, -5.0]),) * 3, 0, rng())
    assert found.below is not None
    assert found.below.below is not None
    middle, low = found.below.goals[1], found.below.below.goals[0]
    assert middle["instead"]["z"].tolist() == low["instead"]["z"].tolist() == [[5, -5]]
    assert not torch.equal(middle["z"], low["z"])
    # One that does not offer it hands down its subgoal alone.
    planner = build(LEVELS, [configs[0], PlannerConfig(2, 32), configs[2]])
    found = planner.plan((at([0.0, 0.0]),) * 3, (at([5.0, -5.0]),) * 3, 0, rng())
    assert found.below is not None
    assert found.below.below is not None
    assert found.below.below.goals[0].keys() == {"z", "dz"}


# ---------------------------------------------------------------------------- warm start


def test_a_search_starts_from_the_last_plan_shifted() -> None:
    ramp = torch.arange(1.0, 6.0)[None, :, None].expand(1, 5, 2) / 10
    search = Fixed(ramp)
    planner = Planner(Point(mean=-0.5), search, COST, PlannerConfig(5, 1))
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
    below = Planner(LEVELS[0], searches[0], COST, PlannerConfig(8, 1))
    planner = Planner(LEVELS[1], searches[1], COST, PlannerConfig(3, 1), below)
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
    top = Planner(LEVELS[2], Fixed(ramp), COST, PlannerConfig(3, 1), planner)
    assert top.duration == 8
    last = plan(top, at([0.0, 0.0]), at([9.0, 9.0]))
    for now, expected in ((7, [0.1, 0.2, 0.3]), (15, [0.2, 0.3, 0.0])):
        last = plan(top, at([0.0, 0.0]), at([9.0, 9.0]), now, last)
        assert isinstance(top.optimizer, Fixed)
        assert top.optimizer.starts[-1][0, :, 0].tolist() == pytest.approx(expected)


def test_many_candidates_advance_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    level = Point()
    planner = build([level], [PlannerConfig(4, 1)])
    state, goal = at([0.0, 0.0], [1.0, 0.0]), at([3.0, 3.0], [0.0, 1.0])
    actions = torch.rand(2, 9, 4, 2)
    whole = planner.evaluate(state, goal, actions)
    assert whole.shape == (2, 9)
    assert level.most == 18
    monkeypatch.setattr(planners, "ROWS", 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    level.most = 0
    assert torch.equal(planner.evaluate(state, goal, actions), whole)
    assert level.most == 8
    planner.evaluate(state, goal, actions.requires_grad_())
    assert level.most == 18  # what is differentiated stays whole


def test_candidates_share_what_is_the_same_for_all() -> None:
    state = at([0.0, 0.0], [1.0, 0.0])
    seen: list[int] = []

    class Looked(Point):
        def predict(self, state: State, action: Tensor) -> State:
            seen.append(state["scene"].untyped_storage().nbytes())
            return super().predict(state, action) | {"scene": state["scene"]}

    scene = torch.rand(2, 3, 8, 8)
    states = rollout(Looked(), state | {"scene": scene}, torch.rand(2, 5, 4, 2))
    assert states["scene"].shape == (2, 5, 4, 3, 8, 8)
    assert seen == [scene.untyped_storage().nbytes()] * 4


# ---------------------------------------------------------------------------- ledger


@pytest.mark.parametrize("kind", ["cem", "icem", "mppi"])
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
        assert sum(level.rows for level in levels) == int(last.total.calls.sum())
        assert sum(level.flops for level in levels) == 2 * int(last.total.macs.sum())
        # A step is one matrix product of 2 x 2.
        assert torch.equal(last.total.macs, 4 * last.total.calls)
    flat = build(levels, configs[:1])
    evaluated = (optimizer_of(optimizer).evaluations + 1) * 5
    assert took(plan(flat, state, goal).spent) == [(evaluated, 4 * evaluated)] * batch


def test_a_step_that_is_differentiated_counts_three_times() -> None:
    optimizer = OptimizerConfig("gradient", candidates=4, iterations=2, elites=1)
    planner = build([Point()], [PlannerConfig(5, 1, optimizer)])
    with torch.no_grad():
        spent = plan(planner, at([0.0, 0.0]), at([3.0, 3.0])).spent
    evaluated = (4 * (2 * 3 + 1) + 1) * 5
    assert took(spent) == [(evaluated, 4 * evaluated)]


class Spread(Point):
    """A level whose place is a product of 2 x 7 away from the one below."""

    def place(self, state: State) -> State:
        return {"z": state["z"] @ torch.ones(2, 7)}


def test_the_ledger_counts_the_lift_of_a_cost() -> None:
    # White noise, since to correlate it is a product of its own that the ledger leaves out.
    optimizer = OptimizerConfig(candidates=8, correlation=0.0)
    planner = build([Point(), Spread()], [PlannerConfig(5, 1, optimizer, cost="upper")])
    state, goal = at([0.0, 0.0], [0.0, 0.0]), at([3.0, 3.0], [3.0, 3.0])
    last = plan(planner, state, goal)
    with FlopCounterMode(display=False) as counter:
        last = plan(planner, state, goal, 5, last)
    raised = 2 * (8 * 5 + 1) * 14  # in each of 2 rounds the states of 8 candidates, and the goal
    assert last.spent.macs.tolist() == [(2 * 8 + 1) * 5 * 4 + raised] * 2
    assert counter.get_total_flops() == 2 * 2 * int(last.spent.macs[0])


def test_macs_of() -> None:
    one, other = torch.ones(3, 4), torch.ones(4, 5)
    assert macs_of(torch.matmul, one, other) == 3 * 4 * 5
    assert macs_of(torch.add, one, one) == 0


def test_spent_adds_up() -> None:
    one, ten = (Spent(torch.tensor([n]), torch.tensor([2 * n]), 0.5 * n) for n in (1, 10))
    assert took(one + ten) == [(11, 22)]
    assert (one + ten).seconds == 5.5


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


def test_the_distance_of_the_level_above_is_that_of_what_is_lifted() -> None:
    states, goal = {"z": torch.rand(2, 3, 4, 2)}, {"z": torch.rand(2, 1, 1, 2)}
    upper = Spread()
    expected = apart(upper.place(states), upper.place(goal))
    assert torch.equal(lifted(upper, "level")(states, goal), expected)
    asked = {"z": torch.zeros(2, 1, 1, 2), "above": upper.place(goal)}
    assert torch.equal(lifted(upper, "level")(states, asked), expected)


# ---------------------------------------------------------------------------- building, selecting


def test_build() -> None:
    mppi = OptimizerConfig(kind="mppi")
    planner = build(LEVELS, [PlannerConfig(5, 5), PlannerConfig(3, 9, mppi, minimum=0.2)])
    assert planner.level is LEVELS[1]
    assert isinstance(planner.optimizer, MPPI)
    assert planner.cost == DistanceCost(apart, 0.2)
    assert (planner.config.horizon, planner.config.replan) == (3, 9)
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
        assert torch.equal(part.made, whole.made[index])
        assert took(part.spent) == [took(whole.spent)[i] for i in index]
        whole, part = whole.below, part.below
    assert part is None


@pytest.mark.parametrize("stride", [1, 2, 3, 5, 10])
@pytest.mark.parametrize("recall", [0, 10])
def test_a_planner_that_is_told_nothing_fits_levels_of_any_stride(stride: int, recall: int) -> None:
    above = LevelConfig(stride=stride, action_dim=2)
    plain = ModelConfig((LevelConfig(), above, above))
    shared = replace(above, latent="shared", latent_dim=6)
    fine = LevelConfig(latent_dim=6)
    things = ModelConfig((fine, shared), EncoderConfig("things"), recall=recall)
    place = LevelConfig(latent_dim=2, predictor="local", distance=DistanceConfig("paths"))
    farther = replace(place, latent="shared", stride=stride, action_dim=2)
    places = ModelConfig((place, farther), EncoderConfig("keypoints"))
    for model in (plain, things, replace(things, levels=things.levels[:1]), places):
        levels = planner_for(model)
        for each in (levels, *settings_for(model).values()):
            assert build([Point(level.stride) for level in model.levels], each).depth == len(each)
        assert model.recall or all(asked.optimizer.proposal != "recall" for asked in levels)
