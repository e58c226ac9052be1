"""What was done in states like this one and led near the goal: what is kept, what is found, and where a
search begins.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import model_config, train_config, write_episodes
from torch import Tensor

from echelon import checkpoint
from echelon.config import ModelConfig, OptimizerConfig, PlannerConfig
from echelon.data.episodes import Episodes
from echelon.models.hierarchy import Hierarchy
from echelon.models.recall import BEGAN, BLOCK, MOTION, Recall, least_of
from echelon.planning.optimizers import optimizer_of
from echelon.planning.planner import build
from echelon.planning.proposal import propose
from echelon.progress import Progress
from echelon.trainer import Trainer
from echelon.types import ActionPrior, EchelonError

KEPT = 100
"""frames, of episodes of 31"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Hierarchy, Episodes]:
    """Two levels that keep episodes, and those."""
    path = tmp_path_factory.mktemp("recall") / "some.h5"
    write_episodes(path)
    episodes = Episodes.open(path)
    config = replace(model_config(2), recall=KEPT)
    train = train_config(2)
    model = Trainer(episodes, config, train, path.parent / "run").run(Progress(quiet=True))
    return model, episodes


def known(model: Hierarchy) -> Recall:
    recall = model.levels[0].known
    assert recall is not None
    return recall


def wandering(frames: int, size: int, seed: int = 0) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """States, actions, and the frames left, of two episodes of which each half is one."""
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn(frames, size, generator=rng).cumsum(0)
    dz = torch.randn(frames, size, generator=rng)
    actions = torch.randn(frames, 2, generator=rng)
    left = torch.arange(frames // 2).flip(0).repeat(2)
    return {"z": z, "dz": dz}, actions, left


def test_what_is_kept_was_logged(trained: tuple[Hierarchy, Episodes]) -> None:
    model, episodes = trained
    recall = known(model)
    assert recall.left.tolist() == [*range(30, -1, -1)] * 3 + [*range(6, -1, -1)]
    logged = {
        episodes.actions[first : first + 6].tobytes(): first for first in episodes.offsets.tolist()
    }
    starts = [logged[recall.done[at : at + 6].numpy().tobytes()] for at in (0, 31, 62, 93)]
    assert len(set(starts)) == 4
    encoder = model.levels[0].lift.encoder
    frames = torch.from_numpy(episodes.pixels[starts[1] : starts[1] + 31])
    torch.testing.assert_close(recall.places[31:62], encoder(frames).detach())
    motion = recall.began[31:62, 4:] / MOTION / model.config.levels[0].difference_scale
    torch.testing.assert_close(motion[1:], recall.places[31:62].diff(dim=0), atol=1e-5, rtol=1e-5)
    assert not motion[0].any()


@given(st.integers(1, 8), st.integers(1, 6), st.integers(0, 9))
def test_the_best_of_all_sequences_come_first(count: int, horizon: int, seed: int) -> None:
    state, actions, left = wandering(30, 3, seed)
    recall = Recall(40, 3, 2)  # there is room for more
    recall.fit(state, actions, left)
    now, _, _ = wandering(4, 3, seed + 10)
    goal = {"z": now["z"] + 1}
    worth = torch.full((4, 30), torch.inf)
    for env in range(4):
        for at in (i for i in range(30) if left[i] >= horizon):
            moved = MOTION * (state["dz"][at] - now["dz"][env])
            began = (state["z"][at] - now["z"][env]).square().sum() + moved.square().sum()
            led = (state["z"][at + 1 : at + 1 + horizon] - goal["z"][env]).square().sum(1).min()
            worth[env, at] = BEGAN * began + led
    found = recall(now, [goal], count, horizon)[:, 0]
    best = worth.argsort(1)[:, :count]
    assert torch.equal(found, actions[best[..., None] + torch.arange(horizon)])


@given(st.integers(1, 40), st.integers(1, 20), st.integers(0, 10**6))
def test_the_least_of_many(blocks: int, count: int, seed: int) -> None:
    values = torch.randperm(2 * blocks * BLOCK, generator=torch.Generator().manual_seed(seed))
    values = values.float().unflatten(0, (2, -1))
    values[values % 3 == 0] = torch.inf
    best, where = least_of(values, count)
    assert (best == values.topk(count, largest=False).values).all()
    assert (values.gather(1, where) == best).all()
    assert all(len(row.unique()) == count for row in where)


def test_several_goals_at_once() -> None:
    recall = Recall(30, 6, 2, things=3)
    state, actions, left = wandering(30, 6)
    recall.fit(state, actions, left)
    now, _, _ = wandering(9, 6, 1)
    goals = [{"z": now["z"] + 1}, {"z": now["z"].flip(0)}]
    found = recall(now, goals, 4, 5)
    assert found.shape == (9, 2, 4, 5, 2)
    for goal, alone in zip(goals, found.unbind(1), strict=True):
        torch.testing.assert_close(recall(now, [goal], 4, 5)[:, 0], alone)


@given(
    angle=st.floats(-3.1, 3.1),
    down=st.floats(-2, 2),
    right=st.floats(-2, 2),
    at=st.integers(0, 9),
)
def test_what_was_done_is_turned_with_what_it_was_done_to(
    angle: float, down: float, right: float, at: int
) -> None:
    """One thing goes as its actions say, in other axes and with a wind; the other faces somewhere."""
    rng = torch.Generator().manual_seed(0)
    meant = torch.tensor([[0.1, 0.5, 0.0], [0.4, -0.1, 0.0]])
    actions = torch.randn(30, 3, generator=rng)
    agent = torch.zeros(30, 2)
    agent[1:] = (actions @ meant.T + torch.tensor([0.02, -0.01])).cumsum(0)[:-1]
    block = torch.tensor([1.0, -2.0]) + 0.01 * torch.arange(30)[:, None]
    z = torch.cat([agent, block, block + torch.tensor([0.0, 0.5])], 1)
    dz = torch.cat([torch.zeros(1, 6), z.diff(dim=0)])
    recall = Recall(30, 6, 3, things=2)
    recall.fit({"z": z, "dz": dz}, actions, torch.arange(30).flip(0))
    torch.testing.assert_close(recall.plane, meant.T, atol=1e-4, rtol=1e-4)
    cos, sin = math.cos(angle), math.sin(angle)
    turn = torch.tensor([[cos, -sin], [sin, cos]])

    def elsewhere(z: Tensor, shift: Tensor) -> Tensor:
        return (z.unflatten(-1, (3, 2)) @ turn.T + shift).flatten(-2)[None]

    shift = torch.tensor([down, right])
    now = {"z": elsewhere(z[at], shift), "dz": elsewhere(dz[at], torch.zeros(2))}
    goal = {"z": elsewhere(z[at + 7], shift)}
    found = recall(now, [goal], 3, 10)[0, 0, 0]
    wanted = actions[at : at + 10]
    torch.testing.assert_close(found @ meant.T, wanted @ meant.T @ turn.T, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found[:, 2], wanted[:, 2])  # what goes nowhere stays as it is


def test_a_model_keeps_them(trained: tuple[Hierarchy, Episodes], tmp_path: Path) -> None:
    checkpoint.save_model(tmp_path / "some.safetensors", trained[0], {})
    loaded = checkpoint.load_model(tmp_path / "some.safetensors", torch.device("cpu"))
    for name, kept in known(trained[0]).named_buffers():
        assert torch.equal(known(loaded).get_buffer(name), kept)


def test_more_or_longer_than_are_kept(trained: tuple[Hierarchy, Episodes]) -> None:
    level = trained[0].levels[0]
    state = {"z": torch.zeros(1, 4), "dz": torch.zeros(1, 4)}
    assert level.recall(state, [state], KEPT + 1, 6).shape == (1, 1, KEPT, 6, 1)
    sequences = level.recall(state, [state], 10, 30)[0, 0]
    assert len({sequence.numpy().tobytes() for sequence in sequences}) == 3  # whole episodes
    with pytest.raises(EchelonError, match=r"31 steps cannot be recalled.* more than 30"):
        level.recall(state, [state], 1, 31)
    none = Hierarchy(model_config(1), 1).levels[0]
    with pytest.raises(EchelonError, match="train with recall above 0"):
        none.recall(state, [state], 1, 1)
    with pytest.raises(EchelonError, match="recall: -1 must be at least 0"):
        ModelConfig(recall=-1)


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


@torch.no_grad()
def test_a_level_recalls_what_the_one_below_did(trained: tuple[Hierarchy, Episodes]) -> None:
    model, episodes = trained
    asked = OptimizerConfig("evolution", 8, 2, 2, proposal="recall")
    frames = torch.from_numpy(np.stack([episodes.pixels[:2], episodes.pixels[5:7]]))
    states = model.lift(model.encode(frames))
    planner = build(model.levels, (PlannerConfig(6, 4, asked), PlannerConfig(2, 4, asked)))
    goals = planner.aim((*model.lift(model.encode(frames.flip(0))),))
    found = planner.recall((*states,), goals, 5, 2)
    fine, above = model.levels
    done = fine.recall(states[0], [goals[0]], 5, 8)[:, 0]
    assert torch.equal(found, above.encode_action(done.unflatten(2, (2, 4))))


def test_a_planner_recalls_and_pays_for_it(trained: tuple[Hierarchy, Episodes]) -> None:
    model, episodes = trained
    asked = OptimizerConfig("evolution", 8, 2, 2, proposal="recall")
    frames = torch.from_numpy(np.stack([episodes.pixels[:2], episodes.pixels[5:7]]))
    macs: list[list[int]] = []
    with torch.no_grad():
        states = (*model.lift(model.encode(frames)),)
        for optimizer in (asked, replace(asked, proposal="gaussian")):
            planner = build(
                model.levels, (PlannerConfig(6, 4, optimizer), PlannerConfig(2, 4, optimizer))
            )
            plan = planner.plan(states, planner.aim(states), 0, torch.Generator().manual_seed(0))
            macs.append([int(level.spent.macs[0]) for level in plan.levels])
        encoding = (
            8
            * 2
            * sum(
                p.numel()
                for n, p in model.levels[1].encode_action.named_parameters()
                if n.endswith("weight")
            )
        )
    fine, above = (a - b for a, b in zip(*macs, strict=True))
    looked = KEPT * 2 * model.levels[0].config.latent_dim
    assert (fine, above) == (looked, looked + encoding)


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
