"""Transformer blocks on PyTorch's fused attention, with rotary positions on any number of axes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from echelon.models.linear import Linear


def rotate(x: Tensor, positions: Tensor, longest: float = 100.0) -> Tensor:
    """Rotary position embedding (RoFormer, arXiv 2104.09864, eq. 34).

    x: [..., heads, N, C]; positions: [..., N, P], a coordinate an axis. The channels are shared
    equally between the axes; those left over are not rotated. Scores of two tokens then depend on
    the differences of their positions alone.
    """
    axes = positions.shape[-1]
    pairs = x.shape[-1] // (2 * axes)
    rates = longest ** (-torch.arange(pairs, device=x.device, dtype=x.dtype) / max(pairs, 1))
    angles = positions.to(x.dtype)[..., None, :, :, None] * rates  # [..., 1, N, P, pairs]
    cos, sin = angles.cos().flatten(-2), angles.sin().flatten(-2)
    turned = 2 * axes * pairs
    a, b = x[..., : turned // 2], x[..., turned // 2 : turned]
    return torch.cat([a * cos - b * sin, a * sin + b * cos, x[..., turned:]], -1)


class Attention(nn.Module):
    """Multi-head self-attention ``[..., N, W] -> [..., N, W]``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.inward = Linear(width, 3 * width)
        self.outward = Linear(width, width)

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        """positions: [..., N, P]; mask: [..., N, N], True where a row may look at a column."""
        q, k, v = self.inward(x).unflatten(-1, (3, self.heads, -1)).transpose(-4, -2).unbind(-3)
        q, k = rotate(q, positions), rotate(k, positions)
        if mask is not None:
            mask = mask[..., None, :, :]
        return self.outward(
            scaled_dot_product_attention(q, k, v, mask).transpose(-3, -2).flatten(-2)
        )


class Block(nn.Module):
    """Pre-norm attention and MLP; with a condition, AdaLN-zero (DiT, arXiv 2212.09748, fig. 3).

    condition: size of a vector a token that scales, shifts and gates both branches; 0 for none.
    """

    def __init__(self, width: int, heads: int, condition: int = 0) -> None:
        super().__init__()
        plain = condition == 0
        self.norm1 = nn.LayerNorm(width, elementwise_affine=plain)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=plain)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(Linear(width, 4 * width), nn.GELU(), Linear(4 * width, width))
        self.modulation: Linear | None = None
        if condition:
            self.modulation = Linear(condition, 6 * width)
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None = None,
        condition: Tensor | None = None,
    ) -> Tensor:
        """``x [..., N, W], condition [..., N, C] -> [..., N, W]``; see :class:`Attention`."""
        if self.modulation is None:
            x = x + self.attention(self.norm1(x), positions, mask)
            return x + self.mlp(self.norm2(x))
        scale1, shift1, gate1, scale2, shift2, gate2 = self.modulation(condition).chunk(6, -1)
        x = x + gate1 * self.attention(self.norm1(x) * (1 + scale1) + shift1, positions, mask)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)
