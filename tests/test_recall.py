"""What followed on states like this one: what is kept, what is found, and where a search begins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import model_config, train_config, write_episodes

from echelon import checkpoint
from echelon.config import OptimizerConfig, PlannerConfig
from echelon.data.episodes import Episodes
from echelon.models.hierarchy import Hierarchy
from echelon.planning.optimizers import optimizer_of
from echelon.planning.planner import build
from echelon.planning.proposal import propose
from echelon.progress import Progress
from echelon.trainer import Trainer
from echelon.types import ActionPrior, EchelonError

KEPT = 16


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Hierarchy, Episodes]:
    """Two levels that keep sequences, of 6 and of 2 own steps."""
    path = tmp_path_factory.mktemp("recall") / "some.h5"
    write_episodes(path)
    episodes = Episodes.open(path)
    config = model_config(2)
    levels = (replace(config.levels[0], recall=6), replace(config.levels[1], recall=2))
    config = replace(config, levels=levels, bank_size=KEPT)
    train = train_config(2)
    model = Trainer(episodes, config, train, path.parent / "run").run(Progress(quiet=True))
    return model, episodes


def test_what_is_kept_was_logged(trained: tuple[Hierarchy, Episodes]) -> None:
    model, episodes = trained
    logged = {
        episodes.actions[first + t : first + t + 6].tobytes()
        for first, length in zip(episodes.offsets, episodes.lengths, strict=True)
        for t in range(length - 6)
    }
    for sequence in model.levels[0].recalled.numpy():
        assert sequence.astype(episodes.actions.dtype).tobytes() in logged
    assert model.levels[1].recalled.shape == (KEPT, 2, model.levels[1].action_dim)


@torch.no_grad()
def test_nearest_first(trained: tuple[Hierarchy, Episodes]) -> None:
    level = trained[0].levels[0]
    state = {"z": level.recalled_from[[3, 7]] + 1e-4}
    found = level.recall(state, 4, 5)
    assert found.shape == (2, 4, 5, 1)
    away = torch.cdist(state["z"], level.recalled_from).argsort(1)[:, :4]
    assert torch.equal(found, level.recalled[away, :5])
    assert torch.equal(found[:, 0], level.recalled[[3, 7], :5])


def test_a_model_keeps_them(trained: tuple[Hierarchy, Episodes], tmp_path: Path) -> None:
    checkpoint.save_model(tmp_path / "some.safetensors", trained[0], {})
    loaded = checkpoint.load_model(tmp_path / "some.safetensors", torch.device("cpu"))
    assert torch.equal(loaded.levels[1].recalled, trained[0].levels[1].recalled)


def test_more_or_longer_than_are_kept(trained: tuple[Hierarchy, Episodes]) -> None:
    level = trained[0].levels[0]
    state = {"z": level.recalled_from[:1]}
    assert level.recall(state, KEPT + 1, 6).shape[1] == KEPT
    with pytest.raises(EchelonError, match="7 steps cannot be recalled, 6 are kept"):
        level.recall(state, 1, 7)
    none = Hierarchy(model_config(1), 1).levels[0]
    with pytest.raises(EchelonError, match=r"train with levels\.0\.recall"):
        none.recall(state, 1, 1)


def test_a_search_begins_with_what_is_recalled_warm_or_cold() -> None:
    one = torch.ones(2)
    recalled = torch.rand(3, 4, 5, 2)
    prior = ActionPrior(0 * one, 0.5 * one, -one, one, recalled=recalled)
    config = OptimizerConfig(candidates=8, elites=2, proposal="recall", residual=0.0)
    start, warm = torch.full((3, 5, 2), 0.25), torch.tensor([True, False, True])
    found = propose(config, start, warm, prior, torch.Generator().manual_seed(0))
    assert torch.equal(found[:, 0], start)
    assert torch.equal(found[:, 1:4], recalled[:, 1:])
    assert torch.equal(found[:, 4:], recalled)  # a search with more than are known takes them again


def test_a_planner_recalls_and_pays_for_it(trained: tuple[Hierarchy, Episodes]) -> None:
    model, episodes = trained
    asked = OptimizerConfig("evolution", 8, 2, 2, proposal="recall")
    frames = torch.from_numpy(np.stack([episodes.pixels[:2], episodes.pixels[5:7]]))
    with torch.no_grad():
        states = model.lift(model.encode(frames))
        macs = []
        for optimizer in (asked, replace(asked, proposal="gaussian")):
            planner = build(
                model.levels, (PlannerConfig(6, 4, optimizer), PlannerConfig(2, 4, optimizer))
            )
            goals = planner.aim(states)
            plan = planner.plan(states, goals, 0, torch.Generator().manual_seed(0))
            macs.append(int(plan.levels[0].spent.macs[0]))
    level = model.levels[0]
    assert macs[0] - macs[1] == KEPT * level.config.latent_dim + KEPT * level.config.latent_dim * 0


def test_evolution_keeps_two_ways_apart() -> None:
    """Of two equal optima the mean is neither: elites stay at both, and one is found."""
    one = torch.ones(1)
    prior = ActionPrior(0 * one, one, -2 * one, 2 * one)
    search = optimizer_of(OptimizerConfig("evolution", 64, 8, 8, correlation=0.0))
    start, cold = torch.zeros(4, 2, 1), torch.zeros(4, dtype=torch.bool)
    actions, cost = search.minimize(
        lambda a: (a.square() - 1).square().sum((-1, -2)),
        start,
        cold,
        prior,
        torch.Generator().manual_seed(0),
        4,
    )
    assert cost.amax() < 0.05
    torch.testing.assert_close(actions.abs(), torch.ones_like(actions), atol=0.15, rtol=0)
