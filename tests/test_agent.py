"""An agent with a tiny model whose weights are random: what it does must hold for any weights."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from tiny import frame, model_config
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from echelon.agent import Agent
from echelon.config import OptimizerConfig, PlannerConfig
from echelon.models.hierarchy import Hierarchy
from echelon.planning.costs import DistanceCost
from echelon.planning.ledger import Budget
from echelon.planning.planner import Planner
from echelon.types import EchelonError, Plan

SEARCH = OptimizerConfig(candidates=8, iterations=2, elites=2)
FINE, COARSE, COARSER = (PlannerConfig(h, r, SEARCH) for h, r in ((6, 2), (3, 4), (2, 8)))
CONFIGS = (FINE, COARSE, COARSER)
GOALS = np.stack([frame(x) for x in (0.9, 0.5, 0.1)])


def make_model(levels: int = 2) -> Hierarchy:
    torch.manual_seed(0)
    model = Hierarchy(model_config(levels), 1)
    for level in model.levels[1:]:
        level.bank.normal_()
        level.bank_below.normal_()
    return model


def images(step: int, count: int = 3) -> np.ndarray:
    return np.stack([frame((0.1 * step + 0.3 * i) % 1) for i in range(count)])


def drive(agent: Agent, steps: int = 9, goals: np.ndarray = GOALS) -> np.ndarray:
    agent.reset(goals)
    return np.stack([agent.act(images(t, len(goals))) for t in range(steps)])


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_any_number_of_levels_act(levels: int) -> None:
    agent = Agent.of(make_model(levels), CONFIGS[:levels])
    actions = drive(agent)
    assert actions.shape == (9, 3, 1)
    assert actions.dtype == np.float32
    assert (np.abs(actions) <= 1).all()
    assert actions.std() > 0
    shown = json.loads(json.dumps(agent.explain()))
    assert [level["level"] for level in shown["levels"]] == list(range(levels))[::-1]
    for level, config in zip(shown["levels"][::-1], CONFIGS, strict=False):
        assert len(level["actions"]) == len(level["predicted"]) == config.horizon
        assert len(level["goal"]) == len(level["predicted"][0])
        assert len(level["distance"]) == len(level["distance_at_random"]["low"]) == config.horizon
        assert set(level["spent"]) == {"predictor_calls", "gflops", "seconds"}
        assert ("left" in level) == ("pursued" in level) == (level["level"] > 0)


def test_one_planner_on_a_hierarchy_is_the_flat_model() -> None:
    two = make_model(2)
    one = Hierarchy(model_config(1), 1)
    weights = {k: v for k, v in two.state_dict().items() if k in one.state_dict()}
    one.load_state_dict(weights)
    above, alone = Agent.of(two, [FINE], seed=3), Agent.of(one, [FINE], seed=3)
    assert np.array_equal(drive(above), drive(alone))
    one_plan, other_plan = above.explain()["levels"][0], alone.explain()["levels"][0]
    assert one_plan["spent"].pop("seconds") != other_plan["spent"].pop("seconds")
    assert one_plan == other_plan


def test_with_and_without_a_batch() -> None:
    model = make_model()
    single, batched = Agent.of(model, CONFIGS[:2], 1), Agent.of(model, CONFIGS[:2], 1)
    single.reset(GOALS[0])
    batched.reset(GOALS[:1])
    for t in range(6):
        one, many = single.act(images(t)[0]), batched.act(images(t)[:1])
        assert one.shape == (1,)
        assert many.shape == (1, 1)
        assert np.array_equal(one, many[0])
        assert torch.equal(single.spent.macs, batched.spent.macs)


def test_same_seed_same_actions() -> None:
    model = make_model()
    first = Agent.of(model, CONFIGS[:2], 7)
    actions = drive(first)
    torch.rand(5)
    assert np.array_equal(drive(Agent.of(model, CONFIGS[:2], 7)), actions)
    # An agent that is used again begins again.
    assert np.array_equal(drive(first), actions)
    assert not np.array_equal(drive(Agent.of(model, CONFIGS[:2], 8)), actions)


def test_keeping_some_leaves_their_plans_as_they_were() -> None:
    model = make_model()
    slow = (PlannerConfig(6, 6, SEARCH), PlannerConfig(3, 8, SEARCH))
    all_, some = Agent.of(model, slow), Agent.of(model, slow)
    all_.reset(GOALS)
    some.reset(GOALS)
    all_.act(images(0))
    some.act(images(0))
    some.keep(np.array([2, 0]))
    assert all_.plan is not None
    assert some.plan is not None
    assert torch.equal(some.plan.lowest.actions, all_.plan.lowest.actions[[2, 0]])
    for t in range(1, 6):
        kept = some.act(images(t)[[2, 0]])
        assert np.array_equal(kept, all_.act(images(t))[[2, 0]])
        assert some.spent.macs.tolist() == [0, 0]
    # A new plan is for those that are left.
    assert some.act(images(6)[[2, 0]]).shape == (2, 1)
    assert some.plan.goals[0]["z"].shape == (2, 4)
    assert torch.equal(some.plan.goals[0]["z"], all_.plan.goals[0]["z"][[2, 0]])


def test_one_that_is_given_another_goal_plans_anew_and_the_others_go_on() -> None:
    model = make_model()
    slow = (PlannerConfig(6, 6, SEARCH), PlannerConfig(3, 8, SEARCH))
    told, left = Agent.of(model, slow), Agent.of(model, slow)
    for agent in (told, left):
        agent.reset(GOALS)
        for t in range(2):
            agent.act(images(t))
    told.aim(GOALS[:1], np.array([1]))
    actions = told.act(images(2))
    assert np.array_equal(actions[[0, 2]], left.act(images(2))[[0, 2]])
    assert told.plan is not None
    assert told.plan.below is not None
    assert left.plan is not None
    for plan in (told.plan, told.plan.below):
        assert plan.made.tolist() == [0, 2, 0]
    assert torch.allclose(told.plan.goals[-1]["z"][1], left.plan.goals[-1]["z"][0], atol=1e-6)
    assert (told.spent.macs > 0).tolist() == [False, True, False]
    told.act(images(3))
    assert told.plan.made.tolist() == [0, 2, 0]
    with pytest.raises(EchelonError, match="agent: 3 goals for 1 environments"):
        told.aim(GOALS, np.array([1]))
    with pytest.raises(EchelonError, match="agent: has no goal yet"):
        Agent.of(model, slow).aim(GOALS, np.arange(3))


def test_the_state_seen_has_the_frame_before_in_it() -> None:
    agent = Agent.of(make_model(), [PlannerConfig(4, 1, SEARCH)])
    seen: list[Tensor] = []
    planner_plan = agent.planner.plan

    def noting(*arguments: object, **named: object) -> object:
        seen.append(arguments[0][0])  # type: ignore[index]
        return planner_plan(*arguments, **named)  # type: ignore[arg-type]

    agent.planner.plan = noting  # type: ignore[method-assign]
    agent.reset(GOALS)
    for t in range(3):
        agent.act(images(t))
    assert seen[0]["dz"].abs().max() == 0
    for t in (1, 2):
        clip = torch.from_numpy(np.stack([images(t - 1), images(t)], 1))
        with torch.no_grad():
            expected = agent.model.encode(clip)
        assert torch.equal(seen[t]["dz"], expected["dz"])
        assert torch.equal(seen[t]["z"], expected["z"])


def test_plans_are_made_on_the_clock_and_charged_with_what_is_encoded() -> None:
    model = make_model(1)
    agent = Agent.of(model, [PlannerConfig(6, 3, OptimizerConfig(candidates=8, elites=2))])
    agent.reset(GOALS)
    spent = []
    for t in range(7):
        agent.act(images(t))
        spent.append(agent.spent)
    calls = (2 * 8 + 1) * 6
    assert [s.calls.tolist() for s in spent] == [[n] * 3 for n in (calls, 0, 0, calls, 0, 0, calls)]
    assert spent[1].macs.tolist() == [0] * 3
    assert torch.equal(spent[0].macs, spent[3].macs)
    clip = torch.from_numpy(np.stack([GOALS, GOALS], 1))
    state = model.encode(clip)
    with torch.no_grad(), FlopCounterMode(display=False) as encoding:
        model.encode(clip)
    with torch.no_grad(), FlopCounterMode(display=False) as step:
        model.predict(state, torch.zeros(3, 1))
    per_call, once = step.get_total_flops() // 6, encoding.get_total_flops() // 6
    assert spent[0].macs.tolist() == [calls * per_call + once] * 3


def test_the_actions_of_a_kept_plan_follow_one_another() -> None:
    agent = Agent.of(make_model(), [PlannerConfig(6, 3, SEARCH), COARSE])
    agent.reset(GOALS)
    for t in range(8):
        action = agent.act(images(t))
        assert agent.plan is not None
        lowest = agent.plan.lowest
        # Level 1 makes a new plan at 4, and level 0 with it.
        made = (0, 0, 0, 3, 4, 4, 4, 7)[t]
        assert lowest.made.tolist() == [made] * 3
        assert np.array_equal(action, lowest.actions[:, t - made].numpy())


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_a_budget_of_compute_is_kept_and_used(levels: int) -> None:
    model = make_model(levels)
    usual = Agent.of(model, CONFIGS[:levels])
    drive(usual, 1)
    whole = int(usual.spent.macs[0])
    for share in (0.7, 1.0, 3.0, 20.0):
        budget = Budget(tflops=2e-12 * share * whole)
        agent = Agent.of(model, CONFIGS[:levels], budget=budget)
        agent.reset(GOALS)
        for t in range(9):
            agent.act(images(t))
            assert int(agent.spent.macs.max()) <= share * whole
            if t == 0:  # every level searches
                assert int(agent.spent.macs[0]) > 0.75 * share * whole


def test_a_budget_without_bounds_is_none() -> None:
    model = make_model()
    usual, free = Agent.of(model, CONFIGS[:2]), Agent.of(model, CONFIGS[:2], budget=Budget())
    assert np.array_equal(drive(usual), drive(free))
    assert torch.equal(usual.spent.macs, free.spent.macs)


def test_the_least_that_a_budget_can_be_is_told() -> None:
    model = make_model(2)
    agent = Agent.of(model, CONFIGS[:2], budget=Budget(tflops=1e-12))
    agent.reset(GOALS)
    with pytest.raises(EchelonError, match="the least that works is") as refusal:
        agent.act(images(0))
    least = float(str(refusal.value).rsplit(" ", 1)[1])
    enough = Agent.of(model, CONFIGS[:2], budget=Budget(tflops=1.01 * least))
    assert np.isfinite(drive(enough)).all()
    for wrong in ({"tflops": 0.0}, {"ms": -1.0}, {"ms": float("nan")}):
        with pytest.raises(EchelonError, match="must be above 0"):
            Budget(**wrong)


def test_a_budget_of_time_scales_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that runs with what is computed: a second for a million multiply-accumulates."""
    model, clock = make_model(2), [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    real = Planner.plan

    def timed(self: Planner, *arguments: Any, **named: Any) -> Plan:
        plan = real(self, *arguments, **named)
        if self.level.stride > 1:
            clock[0] += 1e-3 + 1e-6 * int(plan.total.macs.sum())
        return plan

    monkeypatch.setattr(Planner, "plan", timed)
    for ms in (300.0, 3000.0):
        agent = Agent.of(model, CONFIGS[:2], budget=Budget(ms=ms))
        agent.reset(GOALS)
        took: list[float] = []
        for t in range(40):
            before = clock[0]
            agent.act(images(t))
            if t % 4 == 0 and t:  # both levels search; the first call measures the pace as well
                took.append(1e3 * (clock[0] - before))
        assert max(took) <= 1.1 * ms
        assert min(took) >= 0.5 * ms


@pytest.mark.parametrize("size", [8, 24])
def test_images_of_another_size_or_kind(size: int) -> None:
    agent = Agent.of(make_model(), [FINE])
    with pytest.raises(EchelonError, match=rf"uint8 \({size}, {size}, 3\).*resize"):
        agent.reset(np.zeros((size, size, 3), np.uint8))
    agent.reset(GOALS[0])
    with pytest.raises(EchelonError, match="float32"):
        agent.act(GOALS[0].astype(np.float32) / 255)  # type: ignore[arg-type]
    with pytest.raises(EchelonError, match="resize"):
        agent.act(np.zeros((16, 16, 4), np.uint8))
    with pytest.raises(EchelonError, match="resize"):
        agent.act(np.zeros((16, 16), np.uint8))


def test_as_many_observations_as_goals() -> None:
    agent = Agent.of(make_model(), [FINE])
    agent.reset(GOALS)
    with pytest.raises(EchelonError, match="2 observations for 3 goals"):
        agent.act(images(0)[:2])


def test_nothing_happens_before_reset() -> None:
    agent = Agent.of(make_model(), [FINE])
    with pytest.raises(EchelonError, match="reset"):
        agent.act(images(0)[0])
    assert agent.explain()["levels"] == []


def test_more_planners_than_levels() -> None:
    with pytest.raises(EchelonError, match="3 levels to plan at, but the model has 2"):
        Agent.of(make_model(2), CONFIGS)
    with pytest.raises(EchelonError, match="at least one level"):
        Agent.of(make_model(2), [])


def test_a_cost_of_its_own() -> None:
    seen: list[tuple[int, ...]] = []

    class Noting(DistanceCost):
        def __call__(self, states: object, goal: object) -> Tensor:
            cost = super().__call__(states, goal)
            seen.append(tuple(cost.shape))
            return cost

    model = make_model()
    agent = Agent.of(model, [FINE], costs=[Noting(model.levels[0].distance)])
    agent.reset(GOALS)
    agent.act(images(0))
    assert (3, 8) in seen
