"""Search that stays where the data's actions are: the penalty, and how a first round samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, TypeAlias

import pytest
import torch
from tiny import model_config
from torch import Tensor

from echelon.config import OptimizerConfig
from echelon.models.hierarchy import Hierarchy
from echelon.planning.optimizers import optimizer_of
from echelon.planning.proposal import propose
from echelon.planning.support import Support, bank_sequences, covariance_factor
from echelon.types import ActionPrior, EchelonError

Proposal: TypeAlias = Literal["gaussian", "covariance", "bank"]
COVARIANCE = torch.tensor([[4.0, 1.8, 0.0], [1.8, 1.0, 0.1], [0.0, 0.1, 0.25]])
MEAN = torch.tensor([1.0, -2.0, 0.5])


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def prior_of(bank: Tensor, bound: float = 1e3) -> ActionPrior:
    centred = bank - bank.mean(0)
    covariance = centred.T @ centred / (len(bank) - 1)
    one = torch.ones(bank.shape[1])
    return ActionPrior(bank.mean(0), bank.std(0), -bound * one, bound * one, covariance, bank)


def gaussian_bank(count: int = 20_000) -> Tensor:
    white = torch.randn(count, 3, generator=rng(7))
    return MEAN + white @ torch.linalg.cholesky(COVARIANCE).T


def ring_bank() -> Tensor:
    """Three clusters, which no Gaussian is like."""
    corners = torch.tensor([[1.0, 0.0], [-0.5, 0.9], [-0.5, -0.9]])
    return corners[torch.arange(300) % 3]


def first_round(proposal: Proposal, prior: ActionPrior, correlation: float = 0.0) -> Tensor:
    """``[20000, 3, A]`` but for the start."""
    config = OptimizerConfig(
        candidates=20_001, proposal=proposal, correlation=correlation, noise=0.5, residual=0.1
    )
    start = prior.mean.expand(1, 3, -1)
    return propose(config, start, torch.tensor([False]), prior, rng())[0, 1:]


def support_distance(actions: Tensor, prior: ActionPrior) -> Tensor:
    return Support.of(prior)(actions)


def moments(sample: Tensor) -> tuple[Tensor, Tensor]:
    rows = sample.flatten(0, -2)
    return rows.mean(0), rows.T.cov()


# ---------------------------------------------------------------------------- the penalty


def test_actions_of_the_data_lie_inside_but_for_one_in_twenty() -> None:
    bank = gaussian_bank()
    outside = support_distance(bank[None, :, None], prior_of(bank))[0] > 0
    assert outside.float().mean().item() == pytest.approx(0.05, abs=0.001)


def test_distance_from_the_support_counts_deviations_of_the_data() -> None:
    bank = gaussian_bank()
    prior = prior_of(bank)
    radius = 2.795  # that holds 95 % of a normal distribution of three dimensions
    axes = torch.linalg.cholesky(COVARIANCE).T  # of one deviation each
    for away in (0.0, 2.0, 2.7, 3.5, 10.0):
        actions = (MEAN + away * axes)[None, :, None]
        expected = torch.full((1, 3), max(0.0, away - radius))
        assert torch.allclose(support_distance(actions, prior), expected, atol=0.02 * (1 + away))


def test_distance_from_the_support_is_the_mean_over_the_horizon() -> None:
    bank = gaussian_bank(500)
    prior = prior_of(bank)
    actions = MEAN + 9 * torch.randn(2, 4, 5, 3, generator=rng())
    each = support_distance(actions.flatten(0, 2)[None, :, None], prior).unflatten(1, (2, 4, 5))[0]
    assert torch.allclose(support_distance(actions, prior), each.mean(-1), rtol=1e-5)
    assert each.std() > 0.1


def test_distance_from_the_support_does_not_depend_on_units() -> None:
    bank, actions = gaussian_bank(500), MEAN + 9 * torch.randn(1, 6, 2, 3, generator=rng())
    scale = torch.tensor([1e-3, 1.0, 1e3])
    plain = support_distance(actions, prior_of(bank))
    assert torch.allclose(
        support_distance(actions * scale, prior_of(bank * scale)), plain, rtol=1e-3
    )


def test_data_that_fills_no_more_than_a_line() -> None:
    line = torch.randn(500, 1, generator=rng()) * torch.tensor([1.0, 2.0, 0.0])
    prior = prior_of(line)
    prior = ActionPrior(
        prior.mean,
        prior.std.clamp_min(1e-6),
        *(prior.low, prior.high, prior.covariance, prior.bank),
    )
    along, across = line.std(0), torch.tensor([1.0, -2.0, 0.0])
    actions = (prior.mean + torch.stack([along, across, torch.ones(3)]))[None, :, None]
    inside, *outside = support_distance(actions, prior)[0].tolist()
    assert inside == 0
    assert all(10 < distance < torch.inf for distance in outside)


def test_distance_from_the_support_can_be_descended() -> None:
    bank = gaussian_bank(500)
    prior = prior_of(bank)
    actions = torch.stack([MEAN + 9, prior.mean])[None, :, None].requires_grad_()
    (slope,) = torch.autograd.grad(support_distance(actions, prior).sum(), actions)
    assert torch.isfinite(slope).all()
    assert slope[0, 1].abs().sum() == 0
    lower = actions.detach() - 0.1 * slope
    assert support_distance(lower, prior)[0, 0] < support_distance(actions, prior)[0, 0]


# ---------------------------------------------------------------------------- proposals


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_gaussian_and_covariance_have_the_data_s_moments(correlation: float) -> None:
    prior = prior_of(gaussian_bank())
    assert prior.covariance is not None
    mean, covariance = moments(first_round("covariance", prior, correlation))
    assert torch.allclose(mean, prior.mean, atol=0.05)
    assert torch.allclose(covariance, 0.25 * prior.covariance, atol=0.03)
    mean, covariance = moments(first_round("gaussian", prior, correlation))
    assert torch.allclose(mean, prior.mean, atol=0.05)
    assert torch.allclose(covariance, 0.25 * prior.std.square().diag(), atol=0.03)


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_bank_proposals_are_entries_with_a_residual(correlation: float) -> None:
    prior = prior_of(ring_bank())
    assert prior.covariance is not None
    assert prior.bank is not None
    sample = first_round("bank", prior, correlation)
    mean, covariance = moments(sample)
    residual = (0.1 * prior.std).square().diag()
    assert torch.allclose(mean, prior.mean, atol=0.03)
    assert torch.allclose(covariance, prior.covariance + residual, atol=0.02)
    nearest = torch.cdist(sample.flatten(0, 1), prior.bank[:3]).amin(1)
    assert nearest.max() < 6 * 0.1 * prior.std.max()
    assert nearest.square().mean().sqrt() == pytest.approx(residual.trace().sqrt().item(), rel=0.05)


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_entries_of_the_bank_are_held_as_noise_is_correlated(correlation: float) -> None:
    prior = prior_of(torch.randn(400, 2, generator=rng(3)))
    sample = bank_sequences(prior, (1, 40_000, 5), correlation, rng())[0] - prior.mean
    sample = sample / prior.std
    time = torch.arange(5)
    expected = torch.tensor(correlation) ** (time[:, None] - time).abs()
    found = torch.einsum("kta,ksa->ts", sample, sample) / sample[:, 0].numel()
    assert (found - expected).abs().max() < 0.03


def test_warm_rows_are_sampled_around_their_start_whatever_is_proposed() -> None:
    prior = prior_of(ring_bank())
    start = torch.full((2, 3, 2), 9.0)
    warm = torch.tensor([True, False])
    rounds: dict[str, Tensor] = {}
    proposals: tuple[Proposal, ...] = ("gaussian", "covariance", "bank")
    for proposal in proposals:
        config = OptimizerConfig(candidates=500, proposal=proposal)
        rounds[proposal] = propose(config, start, warm, prior, rng())
        assert torch.equal(rounds[proposal][:, 0], start)
    assert torch.equal(rounds["bank"][0], rounds["gaussian"][0])
    assert torch.equal(rounds["covariance"][0], rounds["gaussian"][0])
    assert not torch.equal(rounds["covariance"][1], rounds["gaussian"][1])
    # Entries of the bank stand for themselves.
    assert rounds["bank"][1, 1:].abs().max() < 2
    assert rounds["covariance"][1].mean() > 8


@pytest.mark.parametrize("proposal", ["covariance", "bank"])
def test_proposals_stay_in_the_bounds(proposal: Proposal) -> None:
    sample = first_round(proposal, prior_of(ring_bank(), bound=0.6))
    assert sample.abs().max() <= 0.6
    assert (sample.abs() == 0.6).any()


@pytest.mark.parametrize("kind", ["cem", "icem", "mppi", "gradient", "refine"])
@pytest.mark.parametrize("proposal", ["covariance", "bank"])
def test_every_search_begins_with_what_is_proposed(
    kind: Literal["cem", "icem", "mppi", "gradient", "refine"], proposal: Proposal
) -> None:
    prior = prior_of(ring_bank())
    config = OptimizerConfig(kind, 16, 2, 4, proposal=proposal)
    start, warm = torch.zeros(2, 3, 2), torch.zeros(2, dtype=torch.bool)
    seen: list[Tensor] = []

    def objective(actions: Tensor) -> Tensor:
        seen.append(actions.detach())
        return actions.square().sum((-1, -2))

    optimizer_of(config).minimize(objective, start, warm, prior, rng())
    assert torch.equal(seen[0], propose(config, start, warm, prior, rng()))


# ---------------------------------------------------------------------------- priors


def test_a_prior_without_covariance_or_bank() -> None:
    one = torch.ones(2)
    prior = ActionPrior(0 * one, one, -one, one)
    moved = prior.to(torch.device("cpu"))
    assert moved.covariance is None
    assert moved.bank is None
    first_round("gaussian", prior)
    with pytest.raises(EchelonError, match="no covariance; use gaussian"):
        first_round("covariance", prior)
    with pytest.raises(EchelonError, match="no bank of actions; use gaussian"):
        first_round("bank", prior)
    with pytest.raises(EchelonError, match="no covariance and bank"):
        support_distance(torch.zeros(1, 1, 1, 2), prior)


def test_a_prior_goes_to_a_device_whole() -> None:
    prior = replace(prior_of(ring_bank()), recalled=torch.zeros(1, 1, 1, 2))
    moved = prior.to(torch.device("meta"))
    parts = [getattr(moved, name) for name in moved.__dataclass_fields__]
    assert [part.device.type for part in parts] == ["meta"] * 7


def test_a_level_s_prior_holds_its_covariance_and_bank() -> None:
    for level in Hierarchy(model_config(2), 1).levels:
        level.prior_covariance.fill_(0.5).diagonal().fill_(1.0)
        level.action_bank.copy_(torch.rand_like(level.action_bank))
        assert level.prior.covariance is level.prior_covariance
        assert level.prior.bank is level.action_bank
        factor = covariance_factor(level.prior)
        assert torch.allclose(factor @ factor.T, level.prior_covariance, atol=1e-3)
