"""Graphs that grow while an agent walks, in a plane whose places can be read from the image."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny import frame, model_config
from torch import Tensor, nn

from echelon.agent import Agent
from echelon.config import LandmarkConfig, OptimizerConfig, PlannerConfig
from echelon.graph import fit_landmarks
from echelon.models.hierarchy import Hierarchy
from echelon.models.landmarks import LandmarkGraph

SEARCH = OptimizerConfig(candidates=4, iterations=1, elites=1)
GRAPH = PlannerConfig(4, 2, SEARCH, cost="graph")
SPEED = 2
"""pixels' worth of grey that a walk covers in a step, along one of two axes"""
LEFT, RIGHT = (40, 40), (160, 40)
"""tops of a U's arms, which are 120 apart, and 280 round by the bottom"""
ROUND, ACROSS = 280 / SPEED, 120 / SPEED
SPARE = 30


class Plane(nn.Module):
    """An encoder that reads the place ``[..., 2]`` from the first pixel."""

    frames = 1

    def forward(self, images: Tensor) -> Tensor:
        return images[..., 0, 0, :2].float()


def walk(*corners: tuple[int, int]) -> np.ndarray:
    """[T, 2] the places on the way along some corners, at an even pace."""
    legs = [np.array([corners[0]])]
    for a, b in pairwise(corners):
        steps = abs(np.subtract(b, a)).max() // SPEED
        legs.append(np.linspace(a, b, steps + 1).round()[1:])
    return np.concatenate(legs).astype(np.uint8)


U = walk(LEFT, (40, 120), (160, 120), RIGHT)
CORRIDOR = walk(LEFT, RIGHT)


def seen(places: np.ndarray) -> np.ndarray:
    """[..., 2] places as images."""
    images = np.zeros((*places.shape[:-1], 16, 16, 3), np.uint8)
    images[..., 0, 0, :2] = places
    return images


def world(levels: int = 1, spare: int = SPARE) -> Hierarchy:
    """A model whose data went along the U, both ways, and never across."""
    config = model_config(levels)
    marks = LandmarkConfig(count=100, spare=spare)
    below = replace(config.levels[0], latent_dim=2, landmarks=marks)
    above = [
        replace(x, latent="shared", latent_dim=2, landmarks=marks, stride=2)
        for x in config.levels[1:]
    ]
    model = Hierarchy(replace(config, levels=(below, *above)), 1)
    model.levels[0].lift.encoder = Plane()
    z = torch.from_numpy(np.concatenate([U, U[::-1]])).float()
    for level in model.levels:
        fitted = fit_landmarks(
            z, torch.tensor([len(U)] * 2), marks, np.random.default_rng(0), level.duration
        )
        assert level.graph is not None
        level.graph.fill(fitted.points, fitted.steps, fitted.speed, fitted.reach)
    return model


def agent_of(model: Hierarchy, *configs: PlannerConfig) -> Agent:
    agent = Agent.of(model, configs or (GRAPH,))
    agent.reset(seen(np.array(RIGHT)))
    return agent


def length(agent: Agent, start: tuple[int, int] = LEFT, goal: tuple[int, int] = RIGHT) -> float:
    """Environment steps from place to place, as the agent's search measures them."""
    z = [{"z": torch.tensor([place]).float()} for place in (start, goal)]
    return agent.planner.cost.distance(*z).item() * agent.planner.duration


def follow(agent: Agent, *walks: np.ndarray) -> None:
    """Be seen along some walks, one an environment; where one ends, it stays."""
    agent.reset(seen(np.array([RIGHT] * len(walks))))
    for t in range(max(len(places) for places in walks)):
        agent.act(seen(np.stack([places[min(t, len(places) - 1)] for places in walks])))


@pytest.mark.parametrize("levels", [1, 2])
def test_a_corridor_that_was_walked_shortens_the_way(levels: int) -> None:
    """At level 1 two environment steps are one; what is measured there is told in the same unit."""
    model = world(levels)
    known = {name: value.clone() for name, value in model.state_dict().items()}
    agent, other = (agent_of(model, *[GRAPH] * levels) for _ in range(2))
    assert length(agent) == pytest.approx(ROUND, rel=0.15)
    follow(agent, CORRIDOR)
    assert length(agent) == pytest.approx(ACROSS, rel=0.25)
    assert length(agent, RIGHT, LEFT) == pytest.approx(ROUND, rel=0.15)  # nobody went back
    assert length(agent, (40, 120), (160, 120)) == pytest.approx(ACROSS, rel=0.15)  # as it was
    # Neither the model nor another agent of it has learned anything.
    assert all(torch.equal(value, known[name]) for name, value in model.state_dict().items())
    assert length(other) == pytest.approx(ROUND, rel=0.15)
    # What was learned outlives the episode.
    agent.reset(seen(np.array(RIGHT)))
    assert length(agent) == pytest.approx(ACROSS, rel=0.25)


def test_every_environment_feeds_the_graph() -> None:
    model = world()
    first, second = (
        CORRIDOR[:29],
        CORRIDOR[28:],
    )  # both show the same place when graphs are shown one
    for walks in ((first, CORRIDOR[:1]), (CORRIDOR[:1], first)):
        agent = agent_of(model)
        follow(agent, *walks)
        assert length(agent) > 0.85 * ROUND
        # The second half begins where the first one has been, whichever environment that was.
        follow(agent, CORRIDOR[:1], second)
        assert length(agent) == pytest.approx(ACROSS, rel=0.3)


def test_environments_that_are_left_go_on() -> None:
    agent = agent_of(world())
    agent.reset(seen(np.array([RIGHT] * 3)))
    for t, place in enumerate(CORRIDOR):
        count = 3 if t < 10 else 1
        if t == 10:
            agent.keep(np.array([1]))
        others = [np.array(LEFT), place, np.array(RIGHT)] if count == 3 else [place]
        agent.act(seen(np.stack(others)))
    assert length(agent) == pytest.approx(ACROSS, rel=0.25)


def test_two_episodes_are_not_joined() -> None:
    """Nor are two environments: nobody went from one tip to the other."""
    agent = agent_of(world())
    before = length(agent)
    follow(agent, CORRIDOR[:1], CORRIDOR[-1:])
    follow(agent, CORRIDOR[-1:], CORRIDOR[:1])
    assert length(agent) == before


def test_a_room_that_nobody_saw_entered_is_not_joined_to_a_far_landmark() -> None:
    """An episode begins off the data, in the middle of the corridor: how it is reached is not known."""
    agent = agent_of(world())
    before = length(agent)
    follow(agent, CORRIDOR[len(CORRIDOR) // 3 :])
    assert length(agent) == before


@pytest.mark.parametrize(("spare", "config"), [(0, GRAPH), (SPARE, replace(GRAPH, cost="latent"))])
def test_nothing_grows_unless_it_is_asked_for(spare: int, config: PlannerConfig) -> None:
    model = world(spare=spare)
    agent = agent_of(model, config)
    assert not agent.growth.graphs
    assert agent.planner.level is model.levels[0]
    follow(agent, CORRIDOR)
    assert all(not agent.growth.due(now) for now in range(20))


def test_a_copy_shares_all_but_the_graph() -> None:
    model = world(2)
    agent = agent_of(model, GRAPH, replace(GRAPH, cost="latent"))
    own, level = agent.planner.below.level, model.levels[0]
    assert agent.planner.level is model.levels[1]
    assert own is not level
    assert own.graph is agent.growth.graphs[0] is not level.graph
    for name, value in own.state_dict(keep_vars=True).items():
        shared = value is level.state_dict(keep_vars=True)[name]
        assert shared != name.startswith("graph.")


def test_growing_happens_between_searches_and_is_paid_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fourth step all environments are encoded, and each is told of five ways at most."""
    model = world()
    model.levels[0].lift.encoder = Readout()
    agent = Agent.of(model, [replace(GRAPH, replan=3)])
    asked: list[int] = []
    grow, plan = LandmarkGraph.grow, agent.planner.plan
    searching = False

    def noting(self: LandmarkGraph, *way: object) -> bool:
        assert not searching
        asked[-1] += 1
        return grow(self, *way)

    def searched(*arguments: object, **named: object) -> object:
        nonlocal searching
        searching = True
        found = plan(*arguments, **named)
        searching = False
        return found

    monkeypatch.setattr(LandmarkGraph, "grow", noting)
    monkeypatch.setattr(LandmarkGraph, "knows", lambda *_: True)
    agent.planner.plan = searched
    agent.reset(seen(np.array([RIGHT] * 2)))
    spent: list[int] = []
    for t in range(33):
        asked.append(0)
        agent.act(seen(np.stack([U[t], U[t]])))
        spent.append(int(agent.spent.macs[0]))
    ways = [2 * min(t // 4, 5) if t % 4 == 0 else 0 for t in range(33)]
    assert asked == ways
    search, look = spent[3] - 2 * Readout.MACS, 2 * Readout.MACS  # a state is made of two frames
    assert spent[:13] == [(search + look) * (t % 3 == 0) + look * (t % 4 == 0) for t in range(13)]


class Readout(nn.Module):
    """As `Plane`, by a product that is counted."""

    frames, MACS = 1, 6

    def forward(self, images: Tensor) -> Tensor:
        return images[..., 0, 0, :].float() @ torch.eye(3)[:, :2]


def test_an_agent_of_a_tiny_model_acts_while_its_graph_grows() -> None:
    """Real weights: all that is asked is that nothing is in the way."""
    config = model_config(1)
    marks = LandmarkConfig(count=5, spare=5, gaps=(1, 3))
    model = Hierarchy(replace(config, levels=(replace(config.levels[0], landmarks=marks),)), 1)
    clips = torch.from_numpy(np.stack([[frame(x), frame(x)] for x in np.linspace(0, 0.4, 30)]))
    with torch.no_grad():
        z = model.encode(clips)["z"]
    fitted = fit_landmarks(z, torch.tensor([30]), marks, np.random.default_rng(0))
    graph = model.levels[0].graph
    assert graph is not None
    graph.fill(fitted.points, fitted.steps, fitted.speed, fitted.reach)
    agent = Agent.of(model, [GRAPH])
    agent.reset(frame(0.9))
    for x in np.linspace(0, 1, 25):
        assert np.isfinite(agent.act(frame(x))).all()
    assert agent.growth.graphs[0].used.sum() > graph.used.sum()
