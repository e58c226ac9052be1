"""The shortest way over the places of an image: a distance for layouts that were never seen.

Where a keypoint is ever seen can be told from an image alone, by what is there; between two places the
way leads over such places. So a goal in a layout that no episode was logged in has a distance, which
knows the walls between.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from echelon.config import DistanceConfig
from echelon.models.scene import HALF, sampled

SHARPNESS = 4.0
"""of the step from passable to impassable, in logits"""
BLOCKED = 1000.0
"""what a way through what is impassable costs at most, in its length"""
NARROW = 2.0
"""what a way costs close to what is impassable"""


def logits_at(floor: Tensor, places: Tensor) -> Tensor:
    """``floor [B, F, F], places [B, N, 2] in latent units -> [B, N]``"""
    return sampled(floor[:, None], places / HALF, places.new_zeros(1, 2))[:, 0, :, 0]


def floor_loss(floor: Tensor, place: Tensor, seen: Tensor, tries: int = 4) -> Tensor:
    """Tells where a keypoint was seen from where it might as well have been.

    floor: [B, F, F] of frames in which it is at ``place [B, 2]``
    seen: [B, N, 2] where it is at other times of the same episodes

    The others lie just as far from `place`, in a direction at random: so it says nothing that the
    keypoint is nearby, and only what is there does. Those outside the image, after a few tries, are not
    counted.
    """
    away = (seen - place[:, None]).norm(dim=-1, keepdim=True)
    angle = 2 * torch.pi * torch.rand(*seen.shape[:2], tries, device=seen.device)
    around = away[:, :, None] * torch.stack([angle.cos(), angle.sin()], -1)
    other = place[:, None, None] + around
    inside = (other.abs() <= HALF).all(-1)
    first = inside.byte().argmax(-1)[..., None, None].expand(-1, -1, 1, 2)
    other, counted = other.gather(2, first)[:, :, 0], inside.any(-1)
    found = logits_at(floor, torch.cat([seen, other], 1))
    label = torch.cat([torch.ones_like(counted), torch.zeros_like(counted)], 1)
    weight = torch.cat([torch.ones_like(counted), counted], 1).to(found)
    return functional.binary_cross_entropy_with_logits(found, label.to(found), weight)


class PathDistance(nn.Module):
    """Length of the shortest way over passable places, in latent units.

    A place is passable where logits are no lower than those of all but a few places that were seen,
    and none beside it is impassable: what is too narrow, as where two walls touch, lets nothing by.
    """

    threshold: Tensor
    places: Tensor

    def __init__(self, config: DistanceConfig) -> None:
        super().__init__()
        self.resolution, self.clearance = config.resolution, config.clearance
        self.rare = config.rare
        self.register_buffer("threshold", torch.zeros(()))
        centres = (torch.arange(self.resolution) + 0.5) * (2 * HALF / self.resolution) - HALF
        self.register_buffer("places", torch.cartesian_prod(centres, centres), persistent=False)

    def field(self, floor: Tensor, goal: Tensor) -> Tensor:
        """``floor [B, F, F], goal [B, 2] -> [B, R, R]``: from each place of a grid to the goal.

        By relaxation: every place takes what its eight neighbours have, and the way there, until
        nothing changes. A diagonal step costs as much as the dearer of the two ways around its corner.
        """
        side, batch = self.resolution, len(goal)
        cost = self._costs(floor)
        start = (goal[:, None] - self.places).square().sum(-1).argmin(-1)
        length = torch.full((batch, side * side), torch.inf, device=goal.device)
        length = length.scatter(1, start[:, None], 0.0).view(batch, side, side)
        walled = functional.pad(cost, (1, 1, 1, 1), value=BLOCKED)
        steps: list[tuple[slice, slice, Tensor]] = []
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                if (down, right) == (0, 0):
                    continue
                rows, columns = slice(1 + down, 1 + down + side), slice(1 + right, 1 + right + side)
                step = (walled[:, rows, columns] + cost) / 2
                if down and right:
                    step = step.maximum(walled[:, rows, 1:-1]).maximum(walled[:, 1:-1, columns])
                size = 2 * HALF / side * (down**2 + right**2) ** 0.5
                steps.append((rows, columns, size * step))
        while True:
            before = length
            for _ in range(8):  # then whether something changed is asked
                known = functional.pad(length, (1, 1, 1, 1), value=torch.inf)
                for rows, columns, step in steps:
                    length = length.minimum(known[:, rows, columns] + step)
            if torch.equal(before, length):
                return length

    def _costs(self, floor: Tensor) -> Tensor:
        """``[B, F, F] -> [B, R, R]`` of a way over each place, in its length."""
        places = self.places.expand(len(floor), -1, -1)
        passable = (SHARPNESS * (logits_at(floor, places) - self.threshold)).sigmoid()
        cost = (1 / passable).clamp_max(BLOCKED).unflatten(1, (self.resolution, self.resolution))
        cost = self._widened(cost, self.clearance)
        near = self._widened(cost, 1) > BLOCKED / 50
        return torch.where(near, cost.clamp_min(NARROW), cost)

    @staticmethod
    def _widened(cost: Tensor, by: int) -> Tensor:
        """The dearest within so many places."""
        return functional.max_pool2d(cost[:, None], 2 * by + 1, stride=1, padding=by)[:, 0]

    def forward(self, z: Tensor, goal: Tensor, field: Tensor | None) -> Tensor:
        """``z [..., 2], goal [..., 2], field [..., R, R] of the goal -> [...]``, leading dimensions
        broadcast. Never less than the straight line, which is all there is without a field.
        """
        straight = (z - goal).norm(dim=-1)
        if field is None:
            return straight
        side = self.resolution
        at = ((z / HALF + 1) * (side / 2) - 0.5).clamp(0, side - 1)
        low = at.detach().floor().clamp_max(side - 2)
        (down, right), (row, column) = (at - low).unbind(-1), low.long().unbind(-1)
        first = row * side + column
        corners = torch.stack([first, first + 1, first + side, first + side + 1], -1)
        flat = field.flatten(-2)
        shape = torch.broadcast_shapes(first.shape, flat.shape[:-1])
        known = flat.expand(*shape, -1).gather(-1, corners.expand(*shape, 4))
        part = [(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right]
        return (known * torch.stack(part, -1)).sum(-1).maximum(straight)
