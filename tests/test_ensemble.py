"""Ensembles of predictors: their mean, their doubt, what each learns from, and what doubt costs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import model_config
from torch import Tensor, nn

from echelon.config import OptimizerConfig, PlannerConfig
from echelon.models.ensemble import Ensemble
from echelon.models.hierarchy import Hierarchy
from echelon.planning.costs import DistanceCost
from echelon.planning.planner import build, rollout
from echelon.types import EchelonError, State


class Push(nn.Module):
    """Moves every part of a state by a number of its own."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.tensor(by))

    def forward(self, x: Tensor, action: Tensor) -> Tensor:
        return x + self.by


def test_the_mean_predicts_and_the_spread_adds_up() -> None:
    """Members that move by 1 and by 3: the mean moves by 2, and each lies 1 away from it. What is no
    place is not asked about.
    """
    both = Ensemble([Push(1.0), Push(3.0)], latent_dim=2).eval()
    x, action = torch.zeros(4, 5), torch.zeros(4, 1)
    after, doubt = both(x, action, None)
    assert torch.allclose(after, torch.full((4, 5), 2.0))
    assert torch.allclose(doubt, torch.ones(4))
    _, later = both(after, action, doubt)
    assert torch.allclose(later, torch.full((4,), 2.0))
    places = Ensemble([Push(1.0), Push(1.0)], latent_dim=2).eval()
    assert not places(x, action, None)[1].any()


def test_members_learn_from_windows_of_their_own() -> None:
    """The loss of the first half of a batch moves the first member alone."""
    both = Ensemble([Push(1.0), Push(3.0)], latent_dim=2).train()
    x = torch.zeros(6, 5)
    after, doubt = both(x, torch.zeros(6, 1), None)
    assert torch.equal(after[:3], torch.ones(3, 5))
    assert torch.equal(after[3:], torch.full((3, 5), 3.0))
    assert not doubt.any()
    after[:3].sum().backward()
    first, second = (member.by.grad for member in both.members)
    assert first == 15
    assert not second


def test_doubt_costs_its_weight_times_its_mean_over_the_plan() -> None:
    def nowhere(state: State, goal: State) -> Tensor:
        return torch.zeros(torch.broadcast_shapes(state["z"].shape, goal["z"].shape)[:-1])

    states = {"z": torch.zeros(1, 2, 4, 3), "doubt": torch.tensor([[[1, 2, 3, 4.0], [0, 0, 0, 8]]])}
    cost = DistanceCost(nowhere, doubt=0.5)(states, {"z": torch.zeros(1, 3)})
    assert cost.tolist() == [[0.5, 1.0]]


def hierarchy(members: int) -> Hierarchy:
    torch.manual_seed(0)
    config = model_config(2)
    levels = tuple(replace(level, ensemble=members) for level in config.levels)
    return Hierarchy(replace(config, levels=levels), 1).eval()


@torch.no_grad()
def test_a_search_avoids_what_is_doubted() -> None:
    """The more doubt costs, the less of it the chosen plans hold."""
    model = hierarchy(3)
    level = model.levels[1]
    state = {"z": torch.randn(8, 3), "dz": torch.zeros(8, 3)}
    goal = {"z": torch.randn(8, 3)}
    doubts: list[float] = []
    for weight in (0.0, 10.0):
        config = PlannerConfig(3, 1, OptimizerConfig(candidates=64, iterations=3), doubt=weight)
        planner = build([level], [config])
        rng = torch.Generator().manual_seed(0)
        plan = planner.plan((state,), (goal,), 0, rng)
        again = rollout(level, state, plan.actions[:, None])
        assert torch.allclose(again["doubt"][:, 0], plan.states["doubt"], atol=1e-5)
        doubts.append(float(plan.states["doubt"][:, -1].mean()))
    assert doubts[1] < 0.9 * doubts[0]


def test_one_predictor_never_disagrees_and_one_that_remembers_cannot_be_many() -> None:
    level = hierarchy(1).levels[1]
    state = {"z": torch.zeros(1, 3), "dz": torch.zeros(1, 3)}
    planner = build([level], [PlannerConfig(2, 1, doubt=1.0)])
    with pytest.raises(EchelonError, match="one predictor, which never disagrees"):
        planner.plan((state,), ({"z": torch.zeros(1, 3)},), 0, torch.Generator().manual_seed(0))
    with pytest.raises(EchelonError, match="a transformer predictor keeps something of its own"):
        replace(model_config(1).levels[0], ensemble=2, predictor="transformer")
