"""Every search, on objectives whose optimum is known; the same tests for all kinds."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias, get_args, get_type_hints

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from echelon.config import OptimizerConfig
from echelon.planning.best import cheapest
from echelon.planning.effort import FLOOR
from echelon.planning.mppi import weights_of
from echelon.planning.noise import coloured, correlated
from echelon.planning.optimizers import optimizer_of
from echelon.types import ActionPrior, EchelonError, Objective, Optimizer

Kind: TypeAlias = Literal["cem", "icem", "mppi", "evolution", "gradient", "refine"]
KINDS = get_args(get_type_hints(OptimizerConfig)["kind"])
THOROUGH = {
    "cem": OptimizerConfig("cem", 128, 15, 12, correlation=0.0),
    "icem": OptimizerConfig("icem", 128, 20, 12, beta=0.5, decay=1.02),
    "mppi": OptimizerConfig("mppi", 256, 15, 12, correlation=0.0, noise=0.4, temperature=0.05),
    "evolution": OptimizerConfig("evolution", 128, 15, 8, correlation=0.0),
    "gradient": OptimizerConfig("gradient", 64, 60, 8),
    "refine": OptimizerConfig("refine", 64, 4, 8, correlation=0.0, steps=60),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def quick(kind: Kind, candidates: int = 16, iterations: int = 3, elites: int = 4) -> Optimizer:
    return optimizer_of(OptimizerConfig(kind, candidates, iterations, elites, decay=1.25))


def prior_of(size: int = 2, bound: float = 1.0) -> ActionPrior:
    one = torch.ones(size)
    return ActionPrior(0 * one, 0.5 * one, -bound * one, bound * one)


def quadratic(target: Tensor) -> Objective:
    """target: [B, H, A]"""
    return lambda actions: (actions - target[:, None]).square().sum((-1, -2))


def jagged(actions: Tensor) -> Tensor:
    """A cost on which the mean of the elites is no better than its neighbours."""
    return (37 * actions).sin().sum((-1, -2))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass
class Spy:
    """An objective that notes what it was asked."""

    inner: Objective
    plans: list[Tensor] = field(default_factory=list)
    costs: list[Tensor] = field(default_factory=list)
    evaluations: int = 0

    def __call__(self, actions: Tensor) -> Tensor:
        cost = self.inner(actions)
        self.plans.append(actions.detach().clone())
        self.costs.append(cost.detach())
        self.evaluations += actions.shape[1] * (3 if actions.requires_grad else 1)
        return cost


def solve(
    optimizer: Optimizer,
    objective: Objective,
    start: Tensor,
    prior: ActionPrior | None = None,
    seed: int = 0,
    keep: int = 1,
) -> tuple[Tensor, Tensor]:
    warm = torch.zeros(len(start), dtype=torch.bool)
    prior = prior or prior_of(start.shape[-1])
    return optimizer.minimize(objective, start, warm, prior, rng(seed), keep)


# ---------------------------------------------------------------------------- known optima


@every_kind
def test_finds_the_optimum_of_each_row(kind: Kind) -> None:
    target = torch.tensor([[[0.3, -0.7], [0.0, 0.5]], [[-0.4, 0.4], [0.8, -0.2]], [[0.0, 0.0]] * 2])
    start = torch.full((3, 2, 2), 0.1)
    actions, cost = solve(optimizer_of(THOROUGH[kind]), quadratic(target), start)
    assert (actions[:, 0] - target).abs().max() < (0.1 if kind == "mppi" else 0.01)
    assert cost.max() < (0.02 if kind == "mppi" else 1e-4)


@every_kind
def test_stops_at_the_bound_where_the_optimum_lies_outside(kind: Kind) -> None:
    target = torch.tensor([[[3.0, -0.2]]])
    actions, _ = solve(optimizer_of(THOROUGH[kind]), quadratic(target), torch.zeros(1, 1, 2))
    assert actions[0, 0, 0, 0] <= 1
    near = 0.1 if kind == "mppi" else 0.01
    assert actions[0, 0, 0].tolist() == pytest.approx([1.0, -0.2], abs=near)


def test_mppi_comes_to_the_bound_where_that_is_best() -> None:
    """The mean of actions that were clipped would stay short of it: not all of them are there."""
    search = optimizer_of(OptimizerConfig("mppi", 256, 20, 8, correlation=0.0, noise=1.0))
    found, _ = solve(search, lambda actions: -actions.sum((-1, -2)), torch.zeros(4, 20, 2))
    assert found.mean() > 0.99


@every_kind
def test_moves_a_mass_as_its_normal_equations_say(kind: Kind) -> None:
    """A double integrator is to be at a place and at rest; positions are linear in the forces."""
    horizon = 8
    ages = torch.arange(horizon)[:, None] - torch.arange(horizon)  # of each force at each step
    speed = (ages >= 0).float()
    place = (ages + 1.0).clamp_min(0)
    rows = torch.cat([0.2 * place, speed[-1:], 0.3 * torch.eye(horizon)])
    goals = torch.tensor([1.0, -0.6])
    wanted = torch.cat([0.2 * torch.ones(horizon), torch.zeros(1 + horizon)]) * goals[:, None]
    best = torch.linalg.solve(rows.T @ rows, rows.T @ wanted.T).T
    assert best.abs().max() < 1  # so that no bound is in the way

    def objective(actions: Tensor) -> Tensor:
        return (actions[..., 0] @ rows.T - wanted[:, None]).square().sum(-1)

    least = objective(best[:, None, :, None])[:, 0]
    start = torch.zeros(2, horizon, 1)
    before = objective(start[:, None])[:, 0] - least
    assert (before > 0.1).all()
    _, cost = solve(optimizer_of(THOROUGH[kind]), objective, start)
    left = (cost[:, 0] - least) / before
    assert (left > -1e-5).all()
    assert left.max() < (0.15 if kind == "mppi" else 0.05)


@every_kind
def test_finds_the_lowest_of_many_valleys(kind: Kind) -> None:
    """Rastrigin's function; start lies in another valley than the target."""
    target = torch.tensor([[[0.3, -0.35]], [[-0.6, 0.1]]])

    def objective(actions: Tensor) -> Tensor:
        away = actions - target[:, None]
        return (away.square() + 0.1 * (1 - (4 * torch.pi * away).cos())).sum((-1, -2))

    start = target + torch.tensor([0.5, 0.5])
    assert objective(start[:, None]).min() > 0.4
    actions, _ = solve(optimizer_of(THOROUGH[kind]), objective, start)
    assert (actions[:, 0] - target).abs().max() < 0.05


def test_one_descent_stays_in_its_valley() -> None:
    """So several are needed: the wells of ``(x^2 - 1)^2 + 0.2 x`` lie near -1, the lower, and 1."""
    prior = ActionPrior(*(torch.tensor([x]) for x in (0.0, 1.0, -2.0, 2.0)))

    def objective(actions: Tensor) -> Tensor:
        return ((actions.square() - 1).square() + 0.2 * actions).sum((-1, -2))

    start = torch.full((1, 1, 1), 1.2)
    config = OptimizerConfig("gradient", candidates=1, iterations=60, elites=1)
    alone, _ = solve(optimizer_of(config), objective, start, prior)
    several, _ = solve(optimizer_of(replace(config, candidates=16)), objective, start, prior)
    assert alone.item() == pytest.approx(0.974, abs=0.01)
    assert several.item() == pytest.approx(-1.024, abs=0.01)


# ---------------------------------------------------------------------------- what all promise


@every_kind
def test_a_row_does_not_depend_on_the_others(kind: Kind) -> None:
    target = torch.tensor([[[0.3, -0.7]], [[-0.4, 0.4]]])
    other = target.clone()
    other[1] = torch.tensor([[0.9, -0.9]])
    start = torch.zeros(2, 1, 2)
    one, one_cost = solve(quick(kind), quadratic(target), start, keep=2)
    two, two_cost = solve(quick(kind), quadratic(other), start, keep=2)
    assert torch.equal(one[0], two[0])
    assert torch.equal(one_cost[0], two_cost[0])
    assert not torch.equal(one[1], two[1])


@every_kind
def test_returns_the_cheapest_it_saw(kind: Kind) -> None:
    spy = Spy(jagged)
    _, cost = solve(quick(kind), spy, torch.zeros(5, 3, 2))
    assert len(spy.costs) > 2
    assert torch.equal(cost[:, 0], torch.cat(spy.costs, 1).amin(1))


@every_kind
def test_the_start_is_the_first_candidate(kind: Kind) -> None:
    spy = Spy(jagged)
    start = torch.tensor([0.2, 3.0])[:, None, None].expand(2, 2, 2)
    solve(quick(kind), spy, start)
    assert torch.equal(spy.plans[0][:, 0], start.clamp(-1, 1))


@every_kind
def test_a_start_is_never_given_up_for_something_dearer(kind: Kind) -> None:
    start = torch.tensor([[[0.25, -0.5]]])
    actions, cost = solve(quick(kind, 4, 3, 1), quadratic(start), start)
    assert torch.equal(actions[:, 0], start)
    assert cost.item() == 0


@every_kind
@settings(max_examples=20, deadline=None)
@given(
    low=st.floats(-2, 1),
    width=st.floats(0.01, 3),
    noise=st.floats(0.1, 5),
    rate=st.floats(0.01, 9),
    seed=st.integers(0, 99),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 3)),
)
def test_never_outside_the_bounds(
    kind: Kind,
    low: float,
    width: float,
    noise: float,
    rate: float,
    seed: int,
    shape: tuple[int, int, int],
) -> None:
    one = torch.ones(shape[2])
    prior = ActionPrior(0 * one, one, low * one, (low + width) * one)
    config = OptimizerConfig(kind, 8, 2, 2, noise=noise, steps=2, learning_rate=rate)
    spy = Spy(lambda actions: actions.sum((-1, -2)))
    # A start outside the bounds, as a plan for other bounds would be.
    actions, _ = solve(optimizer_of(config), spy, torch.full(shape, 9.0), prior, seed, keep=3)
    assert actions.shape == (shape[0], 3, *shape[1:])
    for plans in [*spy.plans, actions]:
        assert (plans >= prior.low).all()
        assert (plans <= prior.high).all()


@every_kind
def test_same_seed_same_answer(kind: Kind) -> None:
    objective, start = quadratic(torch.rand(2, 3, 2)), torch.zeros(2, 3, 2)
    first = solve(quick(kind), objective, start, seed=5)
    torch.rand(7)  # the global generator must not matter
    again = solve(quick(kind), objective, start, seed=5)
    other = solve(quick(kind), objective, start, seed=6)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


@every_kind
def test_warm_rows_are_searched_closer_by(kind: Kind) -> None:
    spy = Spy(lambda actions: actions.square().sum((-1, -2)))
    warm = torch.tensor([False, True])
    start = torch.tensor([3.0, -2.0])[:, None, None].expand(2, 2, 2)
    config = OptimizerConfig(kind, 4000, 1, 1, noise=1.0, warm_noise=0.1)
    optimizer_of(config).minimize(spy, start, warm, prior_of(bound=100), rng())
    spread, mean = spy.plans[0].std(1), spy.plans[0].mean(1)
    assert torch.allclose(spread[0], torch.tensor(0.5), rtol=0.05)
    assert torch.allclose(spread[1], torch.tensor(0.05), rtol=0.05)
    assert torch.allclose(mean, start, atol=0.05)


@every_kind
def test_a_cost_that_is_the_same_everywhere(kind: Kind) -> None:
    actions, cost = solve(quick(kind), lambda a: 1 + 0 * a.sum((-1, -2)), torch.zeros(2, 3, 2))
    assert torch.isfinite(actions).all()
    assert torch.equal(cost, torch.ones(2, 1))


# ---------------------------------------------------------------------------- keeping several


@every_kind
@pytest.mark.parametrize("keep", [1, 3, 16])
def test_what_is_kept_is_sorted_different_and_costs_what_is_said(kind: Kind, keep: int) -> None:
    objective = quadratic(torch.rand(4, 3, 2))
    plans, costs = solve(quick(kind), objective, torch.zeros(4, 3, 2), keep=keep)
    assert plans.shape == (4, keep, 3, 2)
    assert (costs.diff(dim=1) >= 0).all()
    for one, other in itertools.combinations(plans.unbind(1), 2):
        assert ((one != other).flatten(1).any(1)).all()
    # Another memory layout sums in another order.
    assert torch.allclose(costs, objective(plans), rtol=1e-5, atol=1e-7)
    alone, _ = solve(quick(kind), objective, torch.zeros(4, 3, 2))
    if kind != "refine" or keep <= 4:  # else other sequences than the elites are asked for
        assert torch.equal(plans[:, :1], alone)


@every_kind
def test_cannot_keep_more_than_a_round_evaluates(kind: Kind) -> None:
    for keep in (0, 17):
        with pytest.raises(EchelonError, match=f"keep: {keep} plans, but a round evaluates 16"):
            solve(quick(kind), jagged, torch.zeros(1, 3, 2), keep=keep)


def test_cheapest() -> None:
    plans = torch.tensor([[1.0, 2.0, 1.0, 3.0], [5.0, 6.0, 5.0, 7.0]])[..., None, None]
    costs = torch.tensor([[4.0, 3.0, 4.0, torch.inf], [1.0, 8.0, 1.0, 2.0]])
    found, paid = cheapest(plans, costs, 3)
    assert found.flatten(1).tolist() == [[2, 1, 1], [5, 7, 6]]
    assert paid.tolist() == [[3, 4, 4], [1, 2, 8]]


def test_the_cheapest_come_from_all_rounds() -> None:
    spy = Spy(jagged)
    # Wide bounds, since several sequences may be clamped to the same.
    _, costs = solve(quick("cem"), spy, torch.zeros(5, 3, 2), prior_of(bound=99), keep=6)
    seen = torch.cat(spy.costs, 1).sort(1).values
    assert torch.equal(costs, seen[:, :6])
    first = spy.costs[0].sort(1).values[:, :6]
    assert not torch.equal(costs, first)


# ---------------------------------------------------------------------------- effort


@every_kind
@pytest.mark.parametrize("candidates", [1, 2, 5, 16, 64])
def test_evaluations_are_those_made(kind: Kind, candidates: int) -> None:
    optimizer = quick(kind, candidates, 3, min(4, candidates))
    for effort in (0, 0.1, 0.4, 1, 2.5):
        spy = Spy(jagged)
        scaled = optimizer.scaled(effort)
        solve(scaled, spy, torch.zeros(2, 5, 1))
        assert spy.evaluations == scaled.evaluations


@every_kind
@pytest.mark.parametrize(("candidates", "iterations"), [(64, 2), (16, 1), (32, 10), (4, 3)])
def test_effort_scales_evaluations(kind: Kind, candidates: int, iterations: int) -> None:
    full = quick(kind, candidates, iterations, max(1, candidates // 8))
    efforts = [n / 20 for n in range(61)]
    spent = [full.scaled(effort).evaluations for effort in efforts]
    assert spent == sorted(spent)
    assert full.scaled(1) == full
    least = spent[0]
    fewest = {"cem": 2, "icem": 2, "mppi": 3, "evolution": 2, "gradient": 8, "refine": 6}
    assert least == fewest[kind]
    for effort, evaluations in zip(efforts, spent, strict=True):
        wanted = effort * full.evaluations
        assert evaluations <= max(wanted, least)
        assert evaluations > 0.7 * wanted - least - 1


def test_candidates_go_before_rounds() -> None:
    config = OptimizerConfig("cem", candidates=32, iterations=4, elites=8)

    def scaled(effort: float) -> tuple[int, int, int]:
        spy = Spy(jagged)
        search = optimizer_of(config).scaled(effort)
        solve(search, spy, torch.zeros(1, 2, 2))
        return len(spy.plans), spy.plans[0].shape[1], search.config.elites  # type: ignore[attr-defined]

    assert scaled(2) == (4, 64, 16)
    assert scaled(0.5) == (4, 16, 4)
    assert scaled(FLOOR / 32) == (4, FLOOR, 2)
    assert scaled(FLOOR / 64) == (2, FLOOR, 2)
    assert scaled(FLOOR / 128) == (1, FLOOR, 2)
    assert scaled(4 / 128) == (1, 4, 1)
    assert scaled(0) == (1, 2, 1)
    with pytest.raises(EchelonError, match="effort: -1 must not be negative"):
        scaled(-1)


def test_a_smaller_search_still_needs_two_elites_to_agree() -> None:
    config = OptimizerConfig("cem", candidates=32, iterations=4, elites=4, agreement=0.1)
    assert optimizer_of(config).scaled(0).evaluations == 2


@every_kind
def test_a_search_is_told_to_stop_between_rounds(kind: Kind) -> None:
    start, prior, warm = torch.zeros(3, 4, 2), prior_of(), torch.zeros(3, dtype=torch.bool)
    optimizer = quick(kind, iterations=4)
    for rounds in (1, 2, 3):
        spy = Spy(jagged)

        def stop(spy: Spy = spy, rounds: int = rounds) -> bool:
            return len(spy.plans) >= rounds

        plans, costs = optimizer.minimize(spy, start, warm, prior, rng(), 2, stop)
        assert len(spy.plans) == rounds
        assert plans.shape == (3, 2, 4, 2)
        assert torch.equal(costs[:, 0], torch.cat(spy.costs, 1).amin(1))


@every_kind
def test_a_search_stops_where_it_has_settled(kind: Kind) -> None:
    target = torch.tensor([[[0.3, -0.7]], [[-0.4, 0.4]]])
    start = torch.zeros(2, 1, 2)
    config = replace(THOROUGH[kind], iterations=60)
    tolerance = 0.05

    def search(agreement: float, objective: Objective) -> tuple[Tensor, int]:
        spy = Spy(objective)
        actions, _ = solve(optimizer_of(replace(config, agreement=agreement)), spy, start)
        return (actions[:, 0] - target).abs().max(), spy.evaluations

    error, spent = search(tolerance, quadratic(target))
    assert error < 0.1
    assert spent < 0.8 * optimizer_of(config).evaluations
    # Not before it has: half the tolerance takes longer, none takes all.
    assert spent < search(tolerance / 4, quadratic(target))[1]
    assert search(0, quadratic(target))[1] == optimizer_of(config).evaluations


def test_all_rows_must_have_settled() -> None:
    """The second row's elites never agree, since its cost is noise."""
    config = OptimizerConfig("cem", 32, 12, 8, agreement=0.2)
    noise = rng(1)

    def objective(actions: Tensor) -> Tensor:
        cost = actions.square().sum((-1, -2))
        cost[1:] = torch.rand(cost[1:].shape, generator=noise)
        return cost

    both, first = Spy(objective), Spy(objective)
    solve(optimizer_of(config), both, torch.zeros(2, 1, 2))
    solve(optimizer_of(config), first, torch.zeros(1, 1, 2))
    assert len(first.plans) < len(both.plans)


# ---------------------------------------------------------------------------- costs that are none


@every_kind
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_cost_that_is_not_finite_is_never_chosen(kind: Kind, bad: float) -> None:
    target = torch.tensor([[[0.6, -0.2]]])

    def objective(actions: Tensor) -> Tensor:
        costs = quadratic(target)(actions)
        return torch.where(actions[..., 0, 0] > 0.3, bad, costs)

    plans, costs = solve(quick(kind, 32, 5, 8), objective, torch.zeros(1, 1, 2), keep=3)
    assert torch.isfinite(plans).all()
    assert (plans[..., 0] <= 0.3).all()
    assert torch.allclose(costs, objective(plans), rtol=1e-5)
    assert costs[0, 0] < quadratic(target)(torch.zeros(1, 1, 1, 2)).item()


@every_kind
def test_costs_of_which_none_is_finite(kind: Kind) -> None:
    def objective(actions: Tensor) -> Tensor:
        row = torch.tensor([0.0, torch.nan, 0.0])[:, None]
        return actions.square().sum((-1, -2)) + row

    with pytest.raises(EchelonError, match="NaN or infinite in 1 of 3 environments") as caught:
        solve(quick(kind), objective, torch.zeros(3, 2, 2))
    assert "\n" not in str(caught.value)


def test_elites_without_a_finite_cost_have_no_say() -> None:
    """Two of three candidates of the first round have no cost; the next mean is the third."""

    def objective(actions: Tensor) -> Tensor:
        cost = actions.square().sum((-1, -2))
        cost[:, 1:] = torch.nan
        return cost

    spy = Spy(objective)
    start = torch.full((1, 2, 2), 0.3)
    solve(optimizer_of(OptimizerConfig("cem", 3, 2, 3)), spy, start)
    assert torch.allclose(spy.plans[1][:, 0], start)


# ---------------------------------------------------------------------------- of single kinds


def test_more_iterations_never_worsen_cem() -> None:
    objective, start = quadratic(2 * torch.rand(6, 4, 2) - 1), torch.zeros(6, 4, 2)
    before = torch.full((6,), torch.inf)
    for iterations in range(1, 7):
        _, cost = solve(optimizer_of(OptimizerConfig("cem", 12, iterations, 3)), objective, start)
        assert (cost[:, 0] <= before).all()
        before = cost[:, 0]


def test_icem_keeps_elites_and_their_costs() -> None:
    """All is dearer after the first round, so its elites stay, and their mean with them."""

    def means(kept: float) -> list[Tensor]:
        spy = Spy(lambda actions: actions.square().sum((-1, -2)) + 99 * len(spy.plans))
        solve(optimizer_of(OptimizerConfig("icem", 16, 4, 4, kept=kept)), spy, torch.ones(2, 3, 2))
        return [plans[:, 0] for plans in spy.plans]

    _, second, third, fourth = means(1.0)
    assert torch.allclose(second, third)
    assert torch.allclose(second, fourth)
    _, second, third, _ = means(0.0)
    assert not torch.allclose(second, third)


def test_rounds_of_icem_shrink_to_twice_the_elites() -> None:
    spy = Spy(jagged)
    solve(optimizer_of(OptimizerConfig("icem", 32, 5, 4, decay=2.0)), spy, torch.zeros(1, 3, 2))
    assert [plans.shape[1] for plans in spy.plans] == [32, 16, 8, 8, 8]


def test_the_last_mean_of_mppi_is_evaluated() -> None:
    spy = Spy(quadratic(torch.full((2, 1, 2), 0.4)))
    config = OptimizerConfig("mppi", candidates=8, iterations=2, elites=1, temperature=0.5)
    unclipped = prior_of(bound=10.0)
    found, cost = solve(optimizer_of(config), spy, torch.zeros(2, 1, 2), unclipped)
    candidates, costs = spy.plans[-2], spy.costs[-2]
    weights = torch.exp(-costs / (0.5 * costs.std(1, keepdim=True, correction=0)))
    weights = weights / weights.sum(1, keepdim=True)
    mean = (weights[:, :, None, None] * candidates).sum(1, keepdim=True)
    assert torch.allclose(spy.plans[-1], mean, atol=1e-6)
    better = spy.costs[-1] < torch.cat(spy.costs[:-1], 1).amin(1, keepdim=True)
    assert better.any()
    assert torch.equal(found[better], spy.plans[-1][better])
    assert torch.equal(cost[better], spy.costs[-1][better])


def test_weights_pass_over_infinite_costs() -> None:
    costs = torch.tensor([[1.0, torch.inf, 3.0], [torch.inf] * 3, [2.0, 2.0, 2.0]])
    weights = weights_of(costs, 0.5)
    known = torch.softmax(-torch.tensor([1.0, 3.0]) / 0.5, 0)  # their deviation is 1
    assert torch.allclose(weights[0], torch.stack([known[0], torch.tensor(0.0), known[1]]))
    assert torch.allclose(weights[1:], torch.full((2, 3), 1 / 3))


def test_gradient_steps_are_those_of_adam() -> None:
    target = torch.tensor([[[0.4, -2.0], [3.0, 0.1]]])
    start = torch.zeros(1, 2, 2)
    objective = quadratic(target)
    spy = Spy(objective)
    one = torch.ones(2)
    config = OptimizerConfig("gradient", 1, 6, 1, learning_rate=0.2)
    solve(optimizer_of(config), spy, start, ActionPrior(0 * one, one, -9 * one, 9 * one))
    theirs = start[:, None].clone().requires_grad_()
    adam = torch.optim.Adam([theirs], lr=0.2)
    for plans in spy.plans:
        assert torch.allclose(plans, theirs.detach(), atol=1e-6)
        adam.zero_grad()
        objective(theirs).sum().backward()
        adam.step()
    assert len(spy.plans) == 7


@pytest.mark.parametrize("kind", ["gradient", "refine"])
def test_descent_leaves_a_model_as_it_was(kind: Kind) -> None:
    model = nn.Linear(2, 2)
    with torch.no_grad():  # as an agent plans
        start = torch.zeros(2, 3, 2)
        spy = Spy(lambda actions: model(actions).square().sum((-1, -2)))
        actions, cost = solve(quick(kind), spy, start)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not actions.requires_grad
    assert not cost.requires_grad
    assert torch.is_grad_enabled()


def test_refine_goes_lower_than_its_samples() -> None:
    objective, start = quadratic(2 * torch.rand(6, 4, 2) - 1), torch.zeros(6, 4, 2)
    config = OptimizerConfig("refine", 16, 2, 4, steps=10)
    refined, sampled = Spy(objective), Spy(objective)
    _, cost = solve(optimizer_of(config), refined, start)
    _, before = solve(optimizer_of(replace(config, kind="cem")), sampled, start)
    for ours, theirs in zip(refined.plans[:2], sampled.plans, strict=True):
        assert torch.equal(ours, theirs)
    assert refined.plans[2].shape[1] == 4
    assert (cost < 0.9 * before).all()


@pytest.mark.parametrize("kind", ["gradient", "refine"])
def test_a_slope_that_is_no_number_is_none(kind: Kind) -> None:
    target = torch.tensor([[[0.0, 0.5]]])

    def objective(actions: Tensor) -> Tensor:
        # The slope by the first dimension is 0 times infinity, everywhere.
        return quadratic(target)(actions) + (0 * actions[..., 0]).sqrt().sum(-1)

    leaf = torch.zeros(1, 1, 1, 2, requires_grad=True)
    (slope,) = torch.autograd.grad(objective(leaf).sum(), leaf)
    assert slope.isnan().flatten().tolist() == [True, False]
    config = OptimizerConfig(kind, 4, 40, 2, steps=40)
    actions, _ = solve(optimizer_of(config), objective, torch.zeros(1, 1, 2))
    assert torch.isfinite(actions).all()
    assert actions[0, 0, 0, 1].item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("kind", ["gradient", "refine"])
@pytest.mark.parametrize("weighted", [False, True])
def test_descent_needs_a_cost_with_a_slope(kind: Kind, weighted: bool) -> None:
    weight = torch.ones((), requires_grad=weighted)  # as of a model whose actions are cut off
    with pytest.raises(EchelonError, match="use cem, icem or mppi"):
        solve(quick(kind), lambda a: weight * a.detach().sum((-1, -2)), torch.zeros(1, 2, 2))


# ---------------------------------------------------------------------------- noise


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_noise_has_the_stated_autocovariance(correlation: float) -> None:
    horizon = 6
    sample = correlated(1, 40_000, horizon, 2, correlation, rng())[0].double()
    time = torch.arange(horizon)
    expected = torch.tensor(correlation, dtype=torch.float64) ** (time[:, None] - time).abs()
    found = torch.einsum("kta,ksa->ats", sample, sample) / len(sample)
    assert (found - expected).abs().max() < 0.03
    assert sample.mean().abs() < 0.03
    across = torch.einsum("kt,ks->ts", sample[..., 0], sample[..., 1]) / len(sample)
    assert across.abs().max() < 0.03


@pytest.mark.parametrize("horizon", [1, 2, 15, 16])
@pytest.mark.parametrize("beta", [0.0, 1.0, 3.0])
def test_coloured_noise_has_unit_variance(horizon: int, beta: float) -> None:
    sample = coloured(1, 40_000, horizon, 2, beta, rng())[0]
    assert (sample.square().mean(0) - 1).abs().max() < 0.04
    assert sample.mean(0).abs().max() < 0.03
    assert (sample[..., 0] * sample[..., 1]).mean(0).abs().max() < 0.03


@pytest.mark.parametrize("beta", [0.0, 0.7, 2.0])
@pytest.mark.parametrize("horizon", [31, 32])
def test_the_power_of_coloured_noise_falls_as_its_colour_says(beta: float, horizon: int) -> None:
    sample = coloured(1, 20_000, horizon, 1, beta, rng())[0, :, :, 0]
    power = torch.fft.rfft(sample, dim=1).abs().square().mean(0)[1:]
    frequency = torch.fft.rfftfreq(horizon)[1:]
    assert torch.allclose(power / power[0], (frequency / frequency[0]) ** -beta, rtol=0.06)
