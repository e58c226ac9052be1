"""Figures of latents where their value is known by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from echelon.geometry import hindsight, sign_agreement, time_correlation


def apart(z: Tensor, goal: Tensor) -> Tensor:
    return (z - goal).abs().sum(-1)


def walks(clips: int = 40, frames: int = 30) -> Tensor:
    """Positions on a line, [clips, frames, 1]."""
    return torch.randn(clips, frames, 1).cumsum(1)


def truth(z: Tensor, goals: Tensor) -> Tensor:
    return apart(z[:, :, None], goals)


def test_agreement_by_hand() -> None:
    """Towards a goal at 9: steps that truly go nearer, nearer, away, nowhere, nearer but too near."""
    away = torch.tensor([[[9.0], [8.0], [7.0], [8.0], [8.05], [2.0], [1.0]]])
    cost = torch.tensor([[5.0, 4.0, 6.0, 6.5, 9.0, 1.0, 7.0]])[..., None]
    goal = torch.zeros(1, 1)
    # 5 -> 4 agrees, 4 -> 6 does not, 6 -> 6.5 agrees, 6.5 -> 9 lies within the margin,
    # 9 -> 1 agrees, and 1 -> 7 begins too near to count.
    assert sign_agreement(apart, cost, goal, away, far=5, margin=0.1) == pytest.approx(3 / 4)
    # Without the margin 8 -> 8.05 is a step away, and 6.5 -> 9 agrees.
    assert sign_agreement(apart, cost, goal, away, far=5) == pytest.approx(4 / 5)
    assert sign_agreement(apart, cost, goal, away, far=5, limit=1) == 1
    assert sign_agreement(apart, cost, goal, away, far=10) is None


def test_agreement_of_the_truth_its_negative_and_noise() -> None:
    z, goals = walks(), 9 * torch.randn(12, 1)
    away = truth(z, goals)
    noise = torch.Generator().manual_seed(3)
    assert sign_agreement(apart, z, goals, away, far=3) == 1
    assert sign_agreement(lambda a, b: apart(a, b) ** 3, z, goals, away, far=3) == 1
    assert sign_agreement(lambda a, b: -apart(a, b), z, goals, away, far=3) == 0
    random = sign_agreement(lambda a, _: torch.rand(len(a), generator=noise), z, goals, away, 3)
    assert random == pytest.approx(0.5, abs=0.03)
    assert sign_agreement(lambda a, _: torch.ones(len(a)), z, goals, away, far=3) == 0.5


def test_goals_of_other_layouts_do_not_count() -> None:
    z, goals = walks(4), torch.tensor([[50.0], [-50.0]])
    away = truth(z, goals)
    away[:, :, 1] *= -1  # would all be wrong
    assert sign_agreement(apart, z, goals, away, far=-100) == pytest.approx(0.5)
    away[:, :, 1] = torch.nan
    assert sign_agreement(apart, z, goals, away, far=-100) == 1


def test_agreement_in_hindsight() -> None:
    """A clip that goes straight agrees with its own future; one that turns back half way does not."""
    straight = torch.arange(7.0)[None, :, None]
    turning = torch.tensor([0.0, 1, 2, 3, 2, 1, 0])[None, :, None]
    gap = hindsight(7)
    assert gap[2].isnan().tolist() == [True, True, False, False, False, False, False]
    assert gap[2, 2:].tolist() == [0, 1, 2, 3, 4]
    assert sign_agreement(apart, straight, straight, gap[None], far=2) == 1
    # Of the steps at least 5 frames before their goal, 0 -> 1 goes to goal 1, and away from goal 0,
    # as does 1 -> 2.
    assert sign_agreement(apart, turning, turning, gap[None], far=5) == pytest.approx(1 / 3)
    both = torch.cat([straight, turning])
    found = sign_agreement(apart, both, both, gap.expand(2, -1, -1), far=5)
    assert found == pytest.approx((1 + 1 / 3) / 2)


def test_time_correlation_by_hand() -> None:
    straight = torch.arange(6.0)[None, :, None].expand(3, -1, 2)
    assert time_correlation(apart, straight) == pytest.approx(1)
    assert time_correlation(lambda a, b: -apart(a, b), straight**1.5) == pytest.approx(-1, abs=0.2)
    # Times apart 1, 2, 1 have ranks 1.5, 3, 1.5; distances 1, 4, 3 have ranks 1, 3, 2.
    # Centred: (-0.5, 1, -0.5) and (-1, 1, 0), so 1.5 / sqrt(1.5 * 2).
    z = torch.tensor([0.0, 1.0, 4.0])[None, :, None]
    assert time_correlation(apart, z) == pytest.approx(1.5 / 3**0.5)
    there_and_back = torch.tensor([0.0, 1.0, 0.0])[None, :, None]
    # Distances 1, 0, 1: the farthest in time is the nearest.
    assert time_correlation(apart, there_and_back) == pytest.approx(-1)


def test_time_correlation_of_noise_and_of_nothing() -> None:
    found = time_correlation(apart, torch.randn(100, 20, 4))
    assert found == pytest.approx(0, abs=0.02)
    assert time_correlation(apart, torch.zeros(3, 5, 2)) is None
    assert time_correlation(apart, torch.randn(3, 2, 2)) is None
    assert time_correlation(apart, torch.randn(3, 1, 2)) is None


def test_a_limit_changes_little() -> None:
    z = walks(60)
    every, some = time_correlation(apart, z), time_correlation(apart, z, limit=3000)
    assert every is not None
    assert some == pytest.approx(every, abs=0.05)
    assert some != every
