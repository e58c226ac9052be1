"""CEM and MPPI on objectives whose optimum is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from echelon.config import OptimizerConfig
from echelon.planning.cem import CEM
from echelon.planning.mppi import MPPI
from echelon.planning.noise import correlated
from echelon.types import ActionPrior, Objective, Optimizer

KINDS: dict[str, Callable[[OptimizerConfig], Optimizer]] = {"cem": CEM, "mppi": MPPI}
THOROUGH = OptimizerConfig(
    candidates=128, iterations=12, elites=12, correlation=0.0, temperature=0.05
)


def prior_of(size: int = 2, bound: float = 1.0) -> ActionPrior:
    one = torch.ones(size)
    return ActionPrior(0 * one, 0.5 * one, -bound * one, bound * one)


def quadratic(target: Tensor) -> Objective:
    """target: [B, H, A]"""
    return lambda actions: (actions - target[:, None]).square().sum((-1, -2))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def solve(
    optimizer: Optimizer, objective: Objective, start: Tensor, prior: ActionPrior, seed: int = 0
) -> tuple[Tensor, Tensor]:
    warm = torch.zeros(len(start), dtype=torch.bool)
    return optimizer.minimize(objective, start, warm, prior, rng(seed))


@pytest.mark.parametrize("kind", ["cem", "mppi"])
def test_finds_the_optimum_of_each_row(kind: str) -> None:
    target = torch.tensor([[[0.3, -0.7], [0.0, 0.5]], [[-0.4, 0.4], [0.8, -0.2]], [[0.0, 0.0]] * 2])
    actions, cost = solve(
        KINDS[kind](THOROUGH), quadratic(target), torch.zeros(3, 2, 2), prior_of()
    )
    assert (actions - target).abs().max() < (0.01 if kind == "cem" else 0.15)
    assert cost.max() < (1e-3 if kind == "cem" else 0.15)


@pytest.mark.parametrize("kind", ["cem", "mppi"])
def test_stops_at_the_bound_where_the_optimum_lies_outside(kind: str) -> None:
    target = torch.tensor([[[3.0, -0.2]]])
    actions, _ = solve(KINDS[kind](THOROUGH), quadratic(target), torch.zeros(1, 1, 2), prior_of())
    assert actions[0, 0, 0] <= 1
    assert actions[0, 0].tolist() == pytest.approx([1.0, -0.2], abs=0.01 if kind == "cem" else 0.1)


@pytest.mark.parametrize("kind", ["cem", "mppi"])
def test_a_row_does_not_depend_on_the_others(kind: str) -> None:
    target = torch.tensor([[[0.3, -0.7]], [[-0.4, 0.4]]])
    other = target.clone()
    other[1] = torch.tensor([[0.9, -0.9]])
    optimizer = KINDS[kind](OptimizerConfig(candidates=16, iterations=3, elites=4))
    one, one_cost = solve(optimizer, quadratic(target), torch.zeros(2, 1, 2), prior_of())
    two, two_cost = solve(optimizer, quadratic(other), torch.zeros(2, 1, 2), prior_of())
    assert torch.equal(one[0], two[0])
    assert torch.equal(one_cost[0], two_cost[0])
    assert not torch.equal(one[1], two[1])


def test_the_cost_of_cem_is_that_of_its_actions() -> None:
    objective = quadratic(torch.rand(4, 3, 2))
    config = OptimizerConfig(candidates=16, iterations=3, elites=4)
    actions, cost = solve(CEM(config), objective, torch.zeros(4, 3, 2), prior_of())
    # Another memory layout sums in another order.
    assert torch.allclose(cost, objective(actions[:, None])[:, 0], rtol=1e-6, atol=0)


def test_cem_returns_the_cheapest_candidate_it_saw() -> None:
    seen: list[Tensor] = []

    def objective(actions: Tensor) -> Tensor:
        # A jagged cost, on which the mean of the elites is no better than its neighbours.
        cost = (37 * actions).sin().sum((-1, -2))
        seen.append(cost)
        return cost

    config = OptimizerConfig(candidates=16, iterations=4, elites=4)
    _, cost = solve(CEM(config), objective, torch.zeros(5, 3, 2), prior_of())
    assert len(seen) == 4
    assert torch.equal(cost, torch.cat(seen, 1).amin(1))


def test_the_cost_of_mppi_is_the_weighted_mean_of_its_last_round() -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    inner = quadratic(torch.full((2, 1, 2), 0.4))

    def objective(actions: Tensor) -> Tensor:
        seen.append((actions, inner(actions)))
        return seen[-1][1]

    config = OptimizerConfig(candidates=8, iterations=2, elites=1, temperature=0.5)
    found, cost = solve(MPPI(config), objective, torch.zeros(2, 1, 2), prior_of())
    candidates, costs = seen[-1]
    weights = torch.exp(-costs / (0.5 * costs.std(1, keepdim=True, correction=0)))
    weights = weights / weights.sum(1, keepdim=True)
    assert torch.allclose(cost, (weights * costs).sum(1))
    assert torch.allclose(found, (weights[:, :, None, None] * candidates).sum(1), atol=1e-6)


@pytest.mark.parametrize("kind", ["cem", "mppi"])
@settings(max_examples=25)
@given(
    low=st.floats(-2, 1),
    width=st.floats(0.01, 3),
    noise=st.floats(0.1, 5),
    seed=st.integers(0, 99),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 3)),
)
def test_never_outside_the_bounds(
    kind: str, low: float, width: float, noise: float, seed: int, shape: tuple[int, int, int]
) -> None:
    one = torch.ones(shape[2])
    prior = ActionPrior(0 * one, one, low * one, (low + width) * one)
    config = OptimizerConfig(candidates=8, iterations=2, elites=2, noise=noise)

    def objective(actions: Tensor) -> Tensor:
        assert (actions >= prior.low).all()
        assert (actions <= prior.high).all()
        return actions.sum((-1, -2))

    # A start outside the bounds, as a plan for other bounds would be.
    actions, _ = solve(KINDS[kind](config), objective, torch.full(shape, 9.0), prior, seed)
    assert actions.shape == shape
    assert (actions >= prior.low).all()
    assert (actions <= prior.high).all()


@pytest.mark.parametrize("kind", ["cem", "mppi"])
def test_same_seed_same_answer(kind: str) -> None:
    optimizer = KINDS[kind](OptimizerConfig(candidates=16, iterations=2, elites=4))
    objective, start = quadratic(torch.rand(2, 3, 2)), torch.zeros(2, 3, 2)
    first = solve(optimizer, objective, start, prior_of(), seed=5)
    torch.rand(7)  # the global generator must not matter
    again = solve(optimizer, objective, start, prior_of(), seed=5)
    other = solve(optimizer, objective, start, prior_of(), seed=6)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_more_iterations_never_worsen_cem() -> None:
    objective, start = quadratic(2 * torch.rand(6, 4, 2) - 1), torch.zeros(6, 4, 2)
    before = torch.full((6,), torch.inf)
    for iterations in range(1, 7):
        config = OptimizerConfig(candidates=12, iterations=iterations, elites=3)
        _, cost = solve(CEM(config), objective, start, prior_of())
        assert (cost <= before).all()
        before = cost


def test_a_start_is_never_given_up_for_something_dearer() -> None:
    target = torch.tensor([[[0.25, -0.5]]])
    actions, cost = solve(
        CEM(OptimizerConfig(candidates=4, iterations=3, elites=1)),
        quadratic(target),
        target,
        prior_of(),
    )
    assert torch.equal(actions, target)
    assert cost.item() == 0


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


@pytest.mark.parametrize("kind", ["cem", "mppi"])
def test_warm_rows_are_searched_closer_by(kind: str) -> None:
    seen: list[Tensor] = []

    def objective(actions: Tensor) -> Tensor:
        seen.append(actions)
        return actions.square().sum((-1, -2))

    config = OptimizerConfig(candidates=4000, iterations=1, elites=1, noise=1.0, warm_noise=0.1)
    warm = torch.tensor([False, True])
    prior = prior_of(bound=100)
    start = torch.tensor([3.0, -2.0])[:, None, None].expand(2, 2, 2)
    KINDS[kind](config).minimize(objective, start, warm, prior, rng())
    spread, mean = seen[0].std(1), seen[0].mean(1)
    assert torch.allclose(spread[0], torch.tensor(0.5), rtol=0.05)
    assert torch.allclose(spread[1], torch.tensor(0.05), rtol=0.05)
    assert torch.allclose(mean, start, atol=0.05)
    # The start itself is a candidate.
    assert torch.equal(seen[0][:, 0], start)


@pytest.mark.parametrize("kind", ["cem", "mppi"])
def test_calls_of_the_objective(kind: str) -> None:
    shapes: list[tuple[int, ...]] = []

    def objective(actions: Tensor) -> Tensor:
        shapes.append(tuple(actions.shape))
        return actions.sum((-1, -2))

    optimizer = KINDS[kind](OptimizerConfig(candidates=7, iterations=3, elites=2))
    solve(optimizer, objective, torch.zeros(2, 5, 1), prior_of(1))
    assert shapes == [(2, 7, 5, 1)] * 3
    assert (optimizer.candidates, optimizer.iterations) == (7, 3)


@pytest.mark.parametrize("kind", ["cem", "mppi"])
def test_a_cost_that_is_the_same_everywhere(kind: str) -> None:
    optimizer = KINDS[kind](OptimizerConfig(candidates=8, iterations=3, elites=2))
    actions, cost = solve(
        optimizer, lambda a: torch.ones(a.shape[:2]), torch.zeros(2, 3, 2), prior_of()
    )
    assert torch.isfinite(actions).all()
    assert torch.allclose(cost, torch.ones(2))
