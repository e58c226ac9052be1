"""A small flat world model after LeWM, that shares no code with the library: only its two methods.

Frames are encoded to vectors, a predictor conditioned on the action by AdaLN rolls them out, and SIGReg
alone keeps them from collapsing: no copy of the encoder, and no stopped gradient.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

SIZE, WIDTH = 32, 128
HORIZON = 6
"""steps that the predictor is trained to roll out"""
WINDOW = HORIZON + 1
"""steps of a training window: the first state wants two frames"""
FrameState = tuple[Tensor, Tensor]
"""[B, SIZE] of the last frame and of the one before, from which velocity can be read"""


class Block(nn.Module):
    """Residual MLP, shifted, scaled and gated by the action."""

    def __init__(self, action_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.modulate = nn.Linear(action_size, 3 * WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)
        )

    def forward(self, x: Tensor, action: Tensor) -> Tensor:
        shift, scale, gate = self.modulate(action).chunk(3, -1)
        return x + (1 + gate) * self.mlp(self.norm(x) * (1 + scale) + shift)


class FlatModel(nn.Module):
    """Frames [64, 64, 3] uint8 to vectors, and one step of them."""

    dark: Tensor

    def __init__(self, mean_frame: Tensor, action_size: int) -> None:
        """mean_frame: [64, 64, 3], what all frames have in common"""
        super().__init__()
        self.register_buffer("dark", mean_frame)
        self.see = nn.Sequential(
            nn.Conv2d(3, 32, 8, stride=8),
            nn.GELU(),
            nn.Flatten(),
            nn.LazyLinear(WIDTH),
            nn.GELU(),
            nn.Linear(WIDTH, SIZE),
            nn.BatchNorm1d(SIZE, affine=False),
        )
        self.join = nn.Linear(2 * SIZE, WIDTH)
        self.blocks = nn.ModuleList(Block(action_size) for _ in range(2))
        self.out = nn.Linear(WIDTH, SIZE)
        nn.init.zeros_(self.out.weight)
        self.vectors(mean_frame[None, None].expand(2, -1, -1, -1, -1))

    def vectors(self, frames: Tensor) -> Tensor:
        """``[B, T, 64, 64, 3] -> [B, T, SIZE]``"""
        seen = (frames.flatten(0, 1) - self.dark).mul_(1 / 16)
        return self.see(seen.permute(0, 3, 1, 2)).unflatten(0, frames.shape[:2])

    def encode(self, observation: Tensor) -> FrameState:
        """``[B, 2, 64, 64, 3]``, two frames in a row"""
        before, now = self.vectors(observation).unbind(1)
        return now, before

    def predict(self, state: FrameState, action: Tensor) -> FrameState:
        now, before = state
        x = self.join(torch.cat([now, 4 * (now - before)], -1))
        for block in self.blocks:
            x = block(x, action)
        return now + self.out(x), now


def gaussianity(z: Tensor, directions: int = 64) -> Tensor:
    """SIGReg (arXiv 2511.08544): Epps-Pulley distance of random projections of [N, SIZE] to a
    standard Gaussian, here by a sum over 16 frequencies up to 4.
    """
    ways = nn.functional.normalize(torch.randn(z.shape[1], directions), dim=0)
    t = torch.linspace(0.25, 4, 16)
    wave = torch.polar(torch.ones(()), (z @ ways)[..., None] * t).mean(0)
    target = torch.exp(-t.square() / 2)
    return (0.5 * (wave - target).abs().square() * target).sum(-1).mean()


def train_flat(
    pixels: NDArray[np.uint8],
    actions: NDArray[np.float32],
    starts: NDArray[np.int64],
    steps: int,
    seed: int,
    batch: int = 32,
) -> tuple[FlatModel, list[float]]:
    """Train on windows of `WINDOW` steps; returns the model and its prediction errors on the way.

    pixels: [N, 64, 64, 3] of all episodes, end to end. actions: [N, A].
    starts: rows from which `WINDOW` + 1 frames belong to one episode.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    some = pixels[rng.integers(len(pixels), size=2000)].astype(np.float32)
    model = FlatModel(torch.from_numpy(some.mean(0)), actions.shape[1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    errors: list[float] = []
    for step in range(steps):
        rows = starts[rng.integers(len(starts), size=batch)][:, None] + np.arange(WINDOW + 1)
        z = model.vectors(torch.from_numpy(pixels[rows]))
        done = torch.from_numpy(actions[rows[:, 1:-1]])
        state, error = (z[:, 1], z[:, 0]), torch.zeros(())
        for t in range(HORIZON):
            state = model.predict(state, done[:, t])
            error = error + (state[0] - z[:, t + 2]).square().mean() / HORIZON
        loss = error + gaussianity(z.flatten(0, 1))
        optimizer.zero_grad()
        loss.backward()  # pyright: ignore[reportUnknownMemberType]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            errors.append(error.item())
    return model.eval(), errors
