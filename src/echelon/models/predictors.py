"""Latent dynamics.

Every predictor maps ``x [..., S], action [..., A] -> x [..., S]`` one step later, where x is the
parts of a state, one after the other. One with a memory takes and gives what it keeps beside x.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from echelon.models.linear import Linear


def mlp(inputs: int, width: int, depth: int, outputs: int) -> nn.Sequential:
    """`depth` hidden layers of `width` units with SiLU between linear layers."""
    sizes = [inputs] + [width] * depth
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [Linear(before, after), nn.SiLU()]
    return nn.Sequential(*layers, Linear(sizes[-1], outputs))


class WithMemory(nn.Module):
    """A predictor that keeps something from step to step, as one more part of the state:
    ``x [..., S], action [..., A], kept [...] or None at the first step -> x [..., S], kept [...]``.
    """

    part: str
    """what the state calls it"""


class ResidualMLP(nn.Module):
    """``x, a -> x + W [x, a] + MLP([x, a])``; the linear path carries momentum exactly."""

    def __init__(self, state_dim: int, action_dim: int, width: int, depth: int) -> None:
        super().__init__()
        self.linear = nn.Linear(state_dim + action_dim, state_dim)
        self.nonlinear = mlp(state_dim + action_dim, width, depth, state_dim)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, action: Tensor) -> Tensor:
        """``x [..., S], action [..., A] -> [..., S]``"""
        both = torch.cat([x, action], -1)
        return x + self.linear(both) + self.nonlinear(both)
