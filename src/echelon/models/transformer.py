"""Latent dynamics with a memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from echelon.models.attention import Block
from echelon.models.linear import Linear
from echelon.models.predictors import WithMemory
from echelon.types import EchelonError


class CausalTransformer(WithMemory):
    """``x, a -> x + W [x, a] + transformer``, seeing the last `history` steps, the present included.

    A token is the state of one step; its action conditions it by AdaLN-zero, and time is a rotary
    position, so that only how long ago a step was counts. What is remembered travels beside the
    state as one tensor, the past: ``[..., history - 1, S + A + 1]``, oldest first, each step its
    state, its action and a 1; where the last channel is 0, nothing is remembered yet and nothing
    looks. The linear path is that of :class:`echelon.models.predictors.ResidualMLP`.
    """

    part = "past"

    def __init__(
        self, state_dim: int, action_dim: int, width: int, depth: int, heads: int, history: int
    ) -> None:
        super().__init__()
        if width % heads:
            raise EchelonError(f"width {width}: must be a multiple of heads ({heads})")
        if history < 1:
            raise EchelonError(f"history {history}: the present is one step; use at least 1")
        self.sizes = (state_dim, action_dim, 1)
        self.history = history
        self.linear = Linear(state_dim + action_dim, state_dim)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.embed = Linear(state_dim, width)
        self.condition = nn.Sequential(Linear(action_dim, width), nn.SiLU())
        self.blocks = nn.ModuleList(Block(width, heads, condition=width) for _ in range(depth))
        self.head = nn.Sequential(nn.LayerNorm(width), Linear(width, state_dim))

    def empty(self, x: Tensor) -> Tensor:
        """``x [..., S] -> past``, in which nothing is remembered."""
        return x.new_zeros(*x.shape[:-1], self.history - 1, sum(self.sizes))

    def forward(self, x: Tensor, action: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor]:
        """``x [..., S], action [..., A], past -> x [..., S] one step later, past`` with this step."""
        past = self.empty(x) if kept is None else kept
        now = torch.cat([x, action, torch.ones_like(x[..., :1])], -1)
        steps = torch.cat([past, now[..., None, :]], -2)
        rows = steps.reshape(-1, *steps.shape[-2:])
        states, actions, known = rows.split(self.sizes, -1)
        token = self.attend(states, actions, known.squeeze(-1) > 0)[:, -1]
        change = self.linear(torch.cat([x, action], -1)) + self.head(token).reshape(x.shape)
        return x + change, steps[..., 1:, :]

    def attend(self, states: Tensor, actions: Tensor, known: Tensor) -> Tensor:
        """``states [B, N, S], actions [B, N, A], known [B, N] bool -> tokens [B, N, W]``.

        Each token sees itself and what is known among the tokens before it.
        """
        steps = torch.arange(states.shape[1], device=states.device)
        before, same = steps[:, None] > steps, steps[:, None] == steps
        mask = before & known[:, None, :] | same
        tokens, condition = self.embed(states), self.condition(actions)
        for block in self.blocks:
            tokens = block(tokens, steps[:, None], mask, condition)
        return tokens
