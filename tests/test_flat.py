"""One level is exactly a flat world model, bit for bit: here is one that knows of no hierarchy.

It takes its first weights and its batches from Echelon, and nothing else: what it computes of them
is written out below in plain PyTorch.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import pytest
import torch
from tiny import frame, model_config, train_config, write_episodes
from torch import Tensor, nn

from echelon.agent import Agent
from echelon.config import OptimizerConfig, PlannerConfig
from echelon.data.episodes import Episodes
from echelon.data.windows import WindowSampler
from echelon.models import linear
from echelon.progress import Progress
from echelon.trainer import Trainer

STEPS, BATCH, ROLLOUT, RATE = 30, 8, 3, 1e-3
HORIZON, CANDIDATES, ROUNDS, ELITES, REPLAN, CORRELATION = 6, 12, 3, 3, 2, 0.8
Z, DZ = slice(0, 4), slice(4, 8)
"""where a state holds its latent, and how that changes"""
SPEED = 4.0
"""what the change of the latent is multiplied by"""


class Flat(nn.Module):
    """Two frames to (latent, speed); (latent, speed) and action to the next; the action between two."""

    def __init__(self, pixels: np.ndarray, actions: Tensor) -> None:
        super().__init__()
        frames = pixels.astype(np.float32)
        self.frame_mean = torch.from_numpy(frames.mean(0))
        self.frame_scale = torch.tensor(1 / float((frames - frames.mean(0)).std()))
        self.mean, self.std = actions.mean(0), actions.std(0, correction=0)
        self.low, self.high = actions.amin(0), actions.amax(0)
        self.patches = nn.Linear(8 * 8 * 3, 8)
        self.readout = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 4))
        self.linear = nn.Linear(9, 8)
        self.network = nn.Sequential(nn.Linear(9, 16), nn.SiLU(), nn.Linear(16, 8))
        self.inverse = nn.Sequential(nn.Linear(16, 64), nn.SiLU(), nn.Linear(64, 1))

    def take(self, weights: dict[str, Tensor]) -> None:
        """The first weights, by what they are called elsewhere."""
        elsewhere = {
            "patches": "lift.encoder.patches",
            "readout.0": "lift.encoder.readout.2",
            "readout.2": "lift.encoder.readout.4",
            "linear": "predictor.linear",
            "network": "predictor.nonlinear",
            "inverse": "inverse",
        }
        for name, parameter in self.named_parameters():
            here = next(key for key in elsewhere if name.startswith(key))
            parameter.data.copy_(weights[f"_levels.0.{elsewhere[here]}{name[len(here) :]}"])

    def latents(self, frames: Tensor) -> Tensor:
        x = (frames.flatten(0, -4) - self.frame_mean) * self.frame_scale
        x = x.reshape(-1, 2, 8, 2, 8, 3).transpose(2, 3).reshape(-1, 4, 192)  # 2 x 2 patches
        x = torch.relu(self.patches(x)).flatten(1)
        return self.readout(x).unflatten(0, frames.shape[:-3])

    def predict(self, state: Tensor, action: Tensor) -> Tensor:
        """``state [N, 8], action [N, 1] -> [N, 8]``"""
        both = torch.cat([state, (action - self.mean) / self.std], -1)
        return state + self.linear(both) + self.network(both)


def states(latents: Tensor) -> Tensor:
    """``[..., T + 1, 4] -> [..., T, 8]``: the latent and its speed."""
    now, before = latents[..., 1:, :], latents[..., :-1, :]
    return torch.cat([now, SPEED * (now - before)], -1)


def rolled_out(model: Flat, seen: Tensor, aim: Tensor, actions: Tensor) -> Tensor:
    """Mean squared error of the latent and that of the speed, along the rollout."""
    state, error = seen[:, 0], torch.zeros(())
    for t in range(ROLLOUT):
        state = model.predict(state, actions[:, t])
        place, speed = ((state[:, part] - aim[:, t + 1, part]).square().mean() for part in (Z, DZ))
        error = error + (place + speed)
    return error / ROLLOUT


def regularised(model: Flat, seen: Tensor, actions: Tensor) -> list[Tensor]:
    """VICReg's variance and correlation, smoothness, and the action read from two states."""
    z = seen[..., Z].reshape(-1, 4).contiguous()
    hinge = torch.relu(1 - (z.var(0) + 1e-4).sqrt()).mean()
    unit = (z - z.mean(0)) / (z.var(0) + 1e-6).sqrt()
    matrix = unit.T @ unit / (len(z) - 1)
    related = (matrix.square().sum() - matrix.diagonal().square().sum()) / 4
    moved = (seen[:, 1:, Z] - seen[:, :-1, Z]).square().mean()
    pairs = torch.cat([seen[:, :ROLLOUT], seen[:, 1 : ROLLOUT + 1]], -1)
    told = (model.inverse(pairs) - (actions[:, :ROLLOUT] - model.mean) / model.std).square().mean()
    return [1.0 * hinge, 0.0005 * related, 6.0 * moved, 0.5 * told]


def train(
    model: Flat, pixels: Tensor, actions: Tensor, rows: list[Callable[[int], Tensor]]
) -> list[float]:
    """The losses: first everything from images, then the predictor on latents that are frozen."""
    losses: list[float] = []
    slow = copy.deepcopy(model)
    for stage in (0, 1):
        with torch.no_grad():
            known = model.latents(pixels)
        trained = [*model.linear.parameters(), *model.network.parameters()]
        if stage == 0:
            trained += [*model.patches.parameters(), *model.readout.parameters()]
            trained += model.inverse.parameters()
        optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=1e-4, fused=True)
        for step in range(STEPS):
            share = step / STEPS
            warm = min(1.0, share / 0.05 + 1e-3)
            optimizer.param_groups[0]["lr"] = RATE * (
                warm * (0.05 + 0.475 * (1 + math.cos(math.pi * share)))
            )
            at = rows[stage](step)
            forces = actions[at[:, 1:-1]]
            seen = states(model.latents(pixels[at]) if stage == 0 else known[at])
            with torch.no_grad():
                aim = states(slow.latents(pixels[at])) if stage == 0 else seen
            terms = [rolled_out(model, seen, aim, forces)]
            terms += regularised(model, seen, forces) if stage == 0 else []
            loss = torch.stack(terms).sum()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            with torch.no_grad():
                for old, new in zip(slow.parameters(), model.parameters(), strict=True):
                    old.lerp_(new, 1 - 0.99)
            losses.append(loss.item())
    return losses


@torch.no_grad()
def search(
    model: Flat, state: Tensor, goal: Tensor, start: Tensor, noise: float, rng: torch.Generator
) -> Tensor:
    """The cross-entropy method: ``state [8], goal [4], start [H, 1] -> actions [H, 1]``."""
    time = torch.arange(HORIZON, dtype=torch.float64)
    factor = torch.linalg.cholesky(CORRELATION ** (time[:, None] - time).abs()).float()
    mean = start.clamp(model.low, model.high)
    std = noise * model.std.expand(HORIZON, 1)
    best, least = mean, math.inf
    for _ in range(ROUNDS):
        white = torch.randn(1, CANDIDATES, HORIZON, 1, generator=rng)[0]
        plans = mean + std * torch.einsum("ts,ksa->kta", factor, white)
        plans[0] = mean
        plans = plans.clamp(model.low, model.high)
        at, away = state.expand(CANDIDATES, -1), list[Tensor]()
        for t in range(HORIZON):
            at = model.predict(at, plans[:, t])
            away.append((at[:, Z] - goal).square().mean(-1).sqrt())
        distance = torch.stack(away, 1)
        cost = 0.7 * distance.amin(1) + 0.3 * distance.mean(1)
        found, index = cost.topk(ELITES, largest=False)
        elites = plans[index]
        if found[0] < least:
            best, least = elites[0], found[0].item()
        mean, std = elites.mean(0), elites.std(0, correction=0) + 1e-3 * model.std
    return best


@torch.no_grad()
def drive(model: Flat, frames: list[Tensor], goal: Tensor) -> Tensor:
    """The action for each frame, planned anew every `REPLAN` of them from what is left of the plan."""
    rng, actions = torch.Generator().manual_seed(5), list[Tensor]()
    target = model.latents(torch.stack([goal, goal])[None])[0, -1]
    fresh = model.mean.expand(HORIZON, 1)
    plan, before = fresh, frames[0]
    for now, image in enumerate(frames):
        if now % REPLAN == 0:
            state = states(model.latents(torch.stack([before, image])[None]))[0, 0]
            start = torch.cat([plan[REPLAN:], fresh[:REPLAN]]) if now else fresh
            plan = search(model, state, target, start, 0.5 if now else 1.0, rng)
        actions.append(plan[now % REPLAN])
        before = image
    return torch.stack(actions)


class Heard(Progress):
    """Keeps the losses that it is told."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.losses: list[float] = []

    @contextmanager
    def task(
        self, name: str, total: int, start: int = 0
    ) -> Generator[Callable[[float | None], None]]:
        def advance(loss: float | None = None) -> None:
            assert loss is not None
            self.losses.append(loss)

        yield advance


Both: TypeAlias = tuple[Trainer, list[float], Flat, list[float]]


@pytest.fixture(scope="module", autouse=True)
def without_onednn() -> Generator[None]:
    """Whose products differ from PyTorch's in the last bit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "FEWEST", 2**30)
        yield


@pytest.fixture(scope="module")
def both(
    tmp_path_factory: pytest.TempPathFactory,
) -> Both:
    """Echelon's one level and the flat model, each trained, with their losses."""
    torch.set_num_threads(1)  # sums in two parts differ in their last bit
    folder = tmp_path_factory.mktemp("flat")
    episodes = Episodes.open(write_episodes(folder / "dots.h5"))
    config = replace(train_config(1, STEPS), seed=3, checkpoint_seconds=1e6)
    trainer, heard = Trainer(episodes, model_config(1), config, folder / "run"), Heard()
    ids = trainer.train_ids
    spans = zip(episodes.offsets[ids], episodes.lengths[ids], strict=True)
    frames = np.concatenate([np.arange(first, first + length) for first, length in spans])
    forces = torch.from_numpy(episodes.actions[frames])
    flat = Flat(episodes.pixels[frames], forces[forces.isfinite().all(1)])
    flat.take(trainer.model.state_dict())
    windows = WindowSampler.of(episodes.lengths, episodes.offsets, ids, ROLLOUT + 1)

    def rows(stage: int) -> Callable[[int], Tensor]:
        seed = hash((3, stage)) % 2**32
        return lambda step: torch.from_numpy(windows.rows(BATCH, seed, step))

    pixels, actions = torch.from_numpy(episodes.pixels), torch.from_numpy(episodes.actions)
    trainer.run(heard)
    return trainer, heard.losses, flat, train(flat, pixels, actions, [rows(0), rows(1)])


def test_the_losses_are_those_of_the_flat_model(
    both: Both,
) -> None:
    _, ours, _, theirs = both
    assert len(ours) == 2 * STEPS
    assert ours == theirs


def test_the_weights_are_those_of_the_flat_model(
    both: Both,
) -> None:
    trainer, _, flat, _ = both
    other = copy.deepcopy(flat)
    other.take(trainer.model.state_dict())
    for (name, ours), theirs in zip(other.named_parameters(), flat.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    count = sum(p.numel() for p in trainer.model.parameters())
    assert count == sum(p.numel() for p in flat.parameters())


@pytest.mark.filterwarnings("ignore:planner:echelon.EchelonWarning")
def test_the_actions_are_those_of_the_flat_planner(
    both: Both,
) -> None:
    trainer, _, flat, _ = both
    optimizer = OptimizerConfig("cem", CANDIDATES, ROUNDS, ELITES, CORRELATION)
    agent = Agent.of(trainer.model, [PlannerConfig(HORIZON, REPLAN, optimizer)], seed=5)
    seen, goal = [frame(x) for x in (0.1, 0.15, 0.2, 0.3, 0.35)], frame(0.3)
    agent.reset(goal)
    ours = torch.stack([torch.from_numpy(agent.act(image)) for image in seen])
    theirs = drive(flat, [torch.from_numpy(image) for image in seen], torch.from_numpy(goal))
    assert torch.equal(ours, theirs)
    assert ours.std() > 0.01
