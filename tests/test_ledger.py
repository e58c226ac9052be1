"""The ledger against PyTorch's own counter, with all that a planner can be asked to do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from tiny import frame, model_config
from torch.utils.flop_counter import FlopCounterMode

from echelon.agent import Agent
from echelon.config import DistanceConfig, OptimizerConfig, PlannerConfig
from echelon.models import linear
from echelon.models.hierarchy import Hierarchy

SEARCH = OptimizerConfig(candidates=6, iterations=2, elites=2, correlation=0.0)
"""by white noise, since to correlate it is a product of its own that the ledger leaves out"""
WATCHED: dict[str, Any] = {"reached": 0.9, "watchdog": 0.2}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "watched": WATCHED,
    "entered": {"enter": 30.0},
    "supported": {"support": 1.0},
    "tried": {"options": 3},
    "lifted": {"hand_down": "lift"},
    "either": {"hand_down": "either"},
    "either, watched": {**WATCHED, "enter": 1.0, "hand_down": "either"},
    "all": {**WATCHED, "enter": 1.0, "support": 0.1, "options": 2, "hand_down": "lift"},
}


def make_model(kind: Literal["quasimetric", "expectile"] = "quasimetric") -> Hierarchy:
    """Three levels, the second with a learned distance."""
    torch.manual_seed(0)
    config = model_config(3)
    low, middle, high = config.levels
    middle = replace(middle, distance=DistanceConfig(kind=kind, width=8))
    model = Hierarchy(replace(config, levels=(low, middle, high)), 1)
    for level in model.levels:
        level.action_bank.normal_()
        level.before.normal_()
        level.after.normal_()
        if level.index:
            level.bank.normal_()
            level.bank_below.normal_()
    return model


def images(step: int, count: int) -> np.ndarray:
    return np.stack([frame((0.17 * step + 0.3 * i) % 1) for i in range(count)])


@pytest.fixture(autouse=True)
def without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose products PyTorch's counter leaves out."""
    monkeypatch.setattr(linear, "FEWEST", 2**30)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_ledger_holds_every_multiplication(name: str) -> None:
    upper = SETTINGS[name]
    lowest = {key: value for key, value in upper.items() if key == "support"}
    configs = [
        PlannerConfig(4, 2, SEARCH, **lowest),
        PlannerConfig(3, 4, SEARCH, **upper),
        PlannerConfig(2, 16, SEARCH, **upper),
    ]
    agent = Agent.of(make_model(), configs)
    agent.reset(images(3, 3))
    for step in range(3):  # each thing is counted by doing it once more
        agent.act(images(step, 3))
    agent.reset(images(3, 3))
    paid: list[int] = []
    for step in range(9):
        with FlopCounterMode(display=False) as counter:
            agent.act(images(step, 3))
        assert counter.get_total_flops() == 2 * int(agent.spent.macs.sum())
        paid.append(int(agent.spent.macs.sum()))
    assert len(set(paid)) > 2


@pytest.mark.parametrize("name", SETTINGS)
def test_what_a_call_takes_is_known_before_it(name: str) -> None:
    upper: dict[str, Any] = SETTINGS[name] | {"enter": 0.0}  # so that every level does search
    configs = [PlannerConfig(4, 2, SEARCH), PlannerConfig(3, 4, SEARCH, **upper)]
    agent = Agent.of(make_model("expectile"), configs)
    agent.reset(images(3, 2))
    observed = {"pixels": torch.from_numpy(images(0, 2))[:, None].expand(-1, 2, -1, -1, -1)}
    with torch.no_grad():
        states = tuple(agent.model.lift(agent.model.encode(observed))[:2])
        first = agent.planner.plan(states, agent.goals, 0, agent.generator)
        asked = [agent.planner.prices.call(states, agent.goals, effort) for effort in (1.0, 0.5)]
        force = torch.ones(2, dtype=torch.bool)
        second = agent.planner.plan(states, agent.goals, 1, agent.generator, first, force)
    assert second.total.macs.tolist() == [asked[0]] * 2
    assert asked[1] < asked[0]
    # Nobody watches a plan that has only been made.
    watching = agent.planner.prices.watch(states[-1])
    assert first.total.macs.tolist() == [asked[0] - watching] * 2
    assert (watching > 0) == (name in ("watched", "either, watched", "all"))
