"""Things that move, each of a colour of its own: where they are, which way they face, and dynamics
that are seen from one of them.

No network sees the image. Colours are fitted to the data, a thing is the pixels of a colour that is not
always in the same place, and moments of those pixels say where it is to a fraction of a pixel.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from echelon.models.predictors import mlp
from echelon.models.scene import HALF

ROWS = 128
"""images at a time, whose pixels a processor's caches then hold"""
LEAST = 0.05
"""share of a pixel below which it has nothing of a colour"""
REACH = 2.0
"""of the root mean square of a thing's pixels from its middle: about where it ends"""
PIXELS, ROUNDS = 20_000, 5
"""that colours are fitted to, and rounds of k-means"""


class ThingsEncoder(nn.Module):
    """One frame ``[..., H, W, 3] uint8 -> [..., D]``: row and column of the middle of N things, then
    of a place beside the last D / 2 - N of them, in the direction that they face.

    A thing is a soft mask: how much of each pixel is of its colour, by the shares of all colours that
    make up the pixel's, so that an edge is placed to a fraction of a pixel. It faces where it is
    heaviest far from its middle, by the third moment ``E[|r|^2 r]`` of its mask, which turns as the
    thing does; one that looks the same from all sides faces nowhere. That place is about as far from
    the middle as the thing reaches, so that a distance of latents sees it turned as well as moved.

    An image may be several views, one above the other, in each of which every thing is to be seen: the
    latent is that of the first, then that of the next, and so on.
    """

    frames = 1
    mean: Tensor
    scale: Tensor
    colours: Tensor
    shares: Tensor
    moving: Tensor
    reach: Tensor
    powers: Tensor

    def __init__(
        self, latent_dim: int, image_size: int, things: int, colours: int, views: int = 1
    ) -> None:
        super().__init__()
        self.things, self.facing = things, latent_dim // 2 // views - things
        self.register_buffer("mean", torch.full((3,), 127.5))
        self.register_buffer("scale", torch.tensor(1 / 127.5))
        self.register_buffer("colours", torch.zeros(colours, 3))
        self.register_buffer("shares", torch.zeros(4, colours))
        self.register_buffer("moving", torch.arange(things))
        self.register_buffer("reach", torch.ones(things))
        centres = (torch.arange(image_size) + 0.5) * (2 / image_size) - 1
        high = centres[: image_size // views] + 1 - 1 / views  # the middle of a view is 0 too
        row, column = torch.cartesian_prod(high, centres).unbind(1)
        powers = [row**i * column**j for i in range(4) for j in range(4 - i)]
        self.register_buffer("powers", torch.stack(powers, 1))

    def forward(self, frames: Tensor) -> Tensor:
        images = frames.reshape(-1, *frames.shape[-3:])
        latents = torch.cat([self._points(some) for some in images.split(ROWS)])
        return latents.reshape(*frames.shape[:-3], -1)

    def _points(self, frames: Tensor) -> Tensor:
        middle, facing, _ = self._moments(frames, self.moving)
        last = slice(self.things - self.facing, None)
        beside = middle[:, last] + self.reach[last, None] * facing[:, last]
        return HALF * torch.cat([middle, beside], 1).flatten(1)

    def _moments(self, frames: Tensor, some: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of some colours ``[N]``: the middles ``[B, N, 2]`` of their pixels, the third moments over
        the second ``[B, N, 2]``, and the roots of the second ``[B, N]``; an image is 2 wide, and B
        counts views.
        """
        pixels = frames.reshape(-1, self.powers.shape[0], 3)
        x = (pixels - self.mean).mul_(self.scale)
        mask = x @ self.shares[:3, some] + self.shares[3, some]
        mask = ((mask.clamp(0, 1) - LEAST) / (1 - LEAST)).relu().transpose(1, 2)
        moments = mask @ self.powers
        each = moments[..., 1:] / moments[..., :1].clamp_min(1e-6)
        c, cc, ccc, r, rc, rcc, rr, rrc, rrr = each.unbind(-1)
        second = (rr - r * r + cc - c * c).clamp_min(1e-9)
        down = rrr - 3 * r * rr + 2 * r**3 + rcc - 2 * c * rc - r * cc + 2 * r * c * c
        right = ccc - 3 * c * cc + 2 * c**3 + rrc - 2 * r * rc - c * rr + 2 * c * r * r
        facing = torch.stack([down, right], -1) / second[..., None]
        return torch.stack([r, c], -1), facing, second.sqrt()

    @torch.no_grad()
    def fit(self, frames: Tensor, others: Tensor) -> None:
        """Colours, and which of them move: from frames ``[N, H, W, 3]``, and others of the same
        episodes.
        """
        generator = torch.Generator().manual_seed(0)
        pixels = frames.reshape(-1, 3)
        rows = torch.randint(len(pixels), (PIXELS,), generator=generator)
        x = (pixels[rows.to(pixels.device)] - self.mean) * self.scale
        self.colours.copy_(_clustered(x, len(self.colours)))
        ones = torch.ones_like(self.colours[:, :1])
        self.shares.copy_(torch.linalg.pinv(torch.cat([self.colours, ones], 1)))
        every = torch.arange(len(self.colours), device=frames.device)
        middle, facing, size = self._moments(frames, every)
        moved = (middle - self._moments(others, every)[0]).square().sum(-1).mean(0)
        lean = facing.norm(dim=-1).mean(0)
        size = size.mean(0)
        moving = moved.topk(self.things).indices
        last = (lean / size)[moving].argsort()  # what faces somewhere
        self.moving.copy_(moving[last])
        self.reach.copy_((REACH * size / lean.clamp_min(1e-6))[self.moving])


def _clustered(x: Tensor, count: int) -> Tensor:
    """``[N, 3] -> [count, 3]``: k-means, from points that are as far apart as can be; of each cluster
    the median, which the mixed colours at edges hardly move.
    """
    chosen = [x.median(0).values]
    while len(chosen) < count:
        chosen.append(x[torch.cdist(x, torch.stack(chosen)).amin(1).argmax()])
    means = torch.stack(chosen)
    for _ in range(ROUNDS):
        nearest = torch.cdist(x, means).argmin(1)
        sums = torch.zeros_like(means).index_add_(0, nearest, x)
        counts = torch.bincount(nearest, minlength=count)[:, None]
        means = torch.where(counts > 0, sums / counts, means)
    nearest = torch.cdist(x, means).argmin(1)
    some = [x[nearest == k] for k in range(count)]
    pairs = zip(some, means, strict=True)
    return torch.stack([s.median(0).values if len(s) else mean for s, mean in pairs])


WAVES = (1.0, 2.0, 4.0, 8.0)
"""half turns in a latent unit, by which predictors see what lies near, finely"""


class PairsPredictor(nn.Module):
    """``x, a -> x + W [m, a] + MLP([b, sin wb, cos wb, z, m, a])`` for x of things, where b is where
    each is beside each other one in the same view, and m is motion. So a grasp is seen to a fraction of
    a pixel, wherever it is. The linear path carries momentum exactly.
    """

    waves: Tensor
    ends: Tensor

    def __init__(
        self, latent_dim: int, state_dim: int, action_dim: int, width: int, depth: int, views: int
    ) -> None:
        super().__init__()
        self.latent_dim, self.points = latent_dim, latent_dim // 2 // views
        pairs = views * math.comb(self.points, 2)
        moving = state_dim - latent_dim + action_dim
        self.register_buffer("waves", torch.pi * torch.tensor(WAVES))
        self.register_buffer("ends", torch.triu_indices(self.points, self.points, 1))
        self.linear = nn.Linear(moving, state_dim)
        inputs = 2 * pairs * (1 + 2 * len(WAVES)) + latent_dim + moving
        self.nonlinear = mlp(inputs, width, depth, state_dim)
        for zero in (self.linear.weight, self.linear.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor, action: Tensor) -> Tensor:
        """``x [..., S], action [..., A] -> [..., S]``"""
        z, moving = x[..., : self.latent_dim], torch.cat([x[..., self.latent_dim :], action], -1)
        points = z.unflatten(-1, (-1, self.points, 2))
        one, other = self.ends
        beside = (points[..., one, :] - points[..., other, :]).flatten(-3)
        angles = (beside[..., None] * self.waves).flatten(-2)
        seen = torch.cat([beside, angles.sin(), angles.cos(), z, moving], -1)
        return x + self.linear(moving) + self.nonlinear(seen)


class RelativePredictor(nn.Module):
    """``x, a -> x + W [m, a] + MLP([s, m, z, a])`` for x of things, where s is everything, motion m and
    some directions that an action means included, as seen from the last thing, turned as it faces, and
    what the MLP says of motion is turned back: one rule for all places and directions. Where a thing is
    on the image it is told as well, for the sake of walls. The linear path carries momentum exactly.
    """

    DIRECTIONS = 4
    """that an action means at least: one for each two numbers of a longer one, such as of a segment"""

    waves: Tensor

    def __init__(
        self,
        latent_dim: int,
        state_dim: int,
        action_dim: int,
        width: int,
        depth: int,
        things: int,
    ) -> None:
        super().__init__()
        self.latent_dim, self.things = latent_dim, things
        many = max(self.DIRECTIONS, action_dim // 2)
        self.directions = nn.Linear(action_dim, 2 * many, bias=False)
        moving = state_dim - latent_dim + action_dim
        vectors = 2 * latent_dim - 2 + 2 * many
        waves = 2 * (latent_dim - 2) * len(WAVES)
        self.register_buffer("waves", torch.pi * torch.tensor(WAVES))
        self.linear = nn.Linear(moving, state_dim)
        self.nonlinear = mlp(vectors + waves + moving + latent_dim + 2, width, depth, state_dim)
        for zero in (self.linear.weight, self.linear.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor, action: Tensor) -> Tensor:
        """``x [..., S], action [..., A] -> [..., S]``"""
        d = self.latent_dim
        z, moving = x[..., :d], torch.cat([x[..., d:], action], -1)
        middle, facing = viewpoint(z, self.things)
        points = z.unflatten(-1, (-1, 2))
        others = [k for k in range(d // 2) if k != self.things - 1]
        relative = turned(points[..., others, :] - middle[..., None, :], facing, -1)
        motion = x[..., d : 2 * d].unflatten(-1, (-1, 2))
        meant = self.directions(action).unflatten(-1, (-1, 2))
        vectors = torch.cat([relative, turned(torch.cat([motion, meant], -2), facing, -1)], -2)
        angles = (relative.flatten(-2)[..., None] * self.waves).flatten(-2)
        seen = [vectors.flatten(-2), angles.sin(), angles.cos(), moving, z, facing]
        found = self.nonlinear(torch.cat(seen, -1))
        back = turned(found[..., : 2 * d].unflatten(-1, (-1, 2)), facing, 1).flatten(-2)
        return x + self.linear(moving) + torch.cat([back, found[..., 2 * d :]], -1)


def viewpoint(z: Tensor, things: int) -> tuple[Tensor, Tensor]:
    """``z [..., D] -> [..., 2], [..., 2]``: the middle of the last thing, and the way it faces."""
    points = z.unflatten(-1, (-1, 2))
    middle = points[..., things - 1, :]
    facing = points[..., -1, :] - middle
    return middle, facing / facing.norm(dim=-1, keepdim=True).clamp_min(1e-3)


def turned(vectors: Tensor, facing: Tensor, sign: int) -> Tensor:
    """``vectors [..., N, 2], facing [..., 2]``, of length 1: from its frame (1), or into it (-1)."""
    a, b = vectors.unbind(-1)
    cos, sin = facing[..., None, 0], sign * facing[..., None, 1]
    return torch.stack([cos * a - sin * b, sin * a + cos * b], -1)
