"""Where things are, and what is around them: keypoints of an image, and dynamics that look no farther.

A keypoint is a place in the image, in numbers that a network cannot tie to one layout; what lies
around it is read from a map of the image, the `scene`, that travels beside the latent and does not
change. A predictor that sees its keypoints' surroundings, and never where they are, learns one rule for
all places, and for layouts that it has not seen.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from echelon.models.predictors import WithMemory, mlp
from echelon.types import EchelonError

HALF = 2.5
"""latent units from the middle of an image to its edge: what roams it has about unit deviation"""


class KeypointEncoder(nn.Module):
    """One frame ``[..., H, W, 3] uint8 -> [..., 2 N]``, row and column of N places in it.

    Each is the mean of the cells of a map under a softmax of its own, moved by what the cell itself
    says of its inside; so a place is read to a fraction of a pixel. Source: spatial softmax (arXiv
    1504.00702). Deviations: logits have unit deviation in each image, and cells their offsets.
    """

    SHARPNESS = 4.0
    """deviations of the logits, which are scaled to it"""

    frames = 1
    mean: Tensor
    scale: Tensor
    cells: Tensor

    def __init__(self, points: int, image_size: int, width: int, grid: int, channels: int) -> None:
        """grid: height and width of the map. channels: of the scene."""
        super().__init__()
        if image_size % grid:
            raise EchelonError(
                f"encoder.grid: {grid} cells do not divide an image of {image_size} pixels; use a grid "
                "that does"
            )
        self.points = points
        self.register_buffer("mean", torch.full((3,), 127.5))  # the same everywhere
        self.register_buffer("scale", torch.tensor(1 / 127.5))
        patch = image_size // grid
        self.features = nn.Sequential(
            nn.Conv2d(3, width, patch, stride=patch),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
        )
        self.logits = nn.Conv2d(width, points, 1)
        self.offsets = nn.Conv2d(width, 2 * points, 1)
        self.surroundings = nn.Conv2d(width, channels, 1)
        centres = (torch.arange(grid) + 0.5) * (2 / grid) - 1
        self.register_buffer("cells", torch.cartesian_prod(centres, centres))

    def forward(self, frames: Tensor) -> Tensor:
        features = self._features(frames)
        logits = self.logits(features).flatten(2)
        spread = logits.std(-1, keepdim=True) + 1e-3
        logits = (logits - logits.mean(-1, keepdim=True)) / spread
        weights = (self.SHARPNESS * logits).softmax(-1)
        cell = 2 / features.shape[-1]
        offsets = self.offsets(features).tanh() * cell
        places = self.cells + offsets.unflatten(1, (self.points, 2)).flatten(3).transpose(2, 3)
        latent = HALF * (weights[..., None] * places).sum(2)
        return latent.reshape(*frames.shape[:-3], -1)

    def scene(self, frames: Tensor) -> Tensor:
        """``[..., H, W, 3] uint8 -> [..., C, G, G]``, what is where, but for the keypoints."""
        scene = self.surroundings(self._features(frames))
        return scene.reshape(*frames.shape[:-3], *scene.shape[1:])

    def _features(self, frames: Tensor) -> Tensor:
        x = (frames.reshape(-1, *frames.shape[-3:]) - self.mean).mul_(self.scale)
        return self.features(x.permute(0, 3, 1, 2))


class Glimpse(nn.Module):
    """What a scene holds around places: samples on a square grid centred at each of them."""

    around: Tensor

    def __init__(self, across: int, spacing: float, grid: int) -> None:
        """across: samples on a side. spacing: between them, in cells of the map."""
        super().__init__()
        steps = (torch.arange(across) - (across - 1) / 2) * spacing * 2 / grid
        self.register_buffer("around", torch.cartesian_prod(steps, steps))

    def forward(self, scene: Tensor, places: Tensor) -> Tensor:
        """``scene [R, C, G, G], places [R, N, 2] in latent units -> [R, N, C * samples]``

        Beyond an image lies what lies at its edge.
        """
        at = (places[:, :, None] / HALF + self.around).flip(-1)  # as PyTorch has it, column first
        seen = functional.grid_sample(scene, at, padding_mode="border", align_corners=False)
        return seen.transpose(1, 2).flatten(2)


class LocalPredictor(WithMemory):
    """``x, a -> x + W [m, a] + MLP([s, m, a])``: of where things are it sees only the surroundings s,
    and m is the rest of the state, how they move; the linear path carries momentum exactly.
    """

    part = "scene"

    def __init__(
        self,
        latent_dim: int,
        state_dim: int,
        action_dim: int,
        width: int,
        depth: int,
        channels: int,
        glimpse: Glimpse,
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.glimpse = glimpse
        moving = state_dim - latent_dim + action_dim
        seen = latent_dim // 2 * channels * len(glimpse.around)
        self.linear = nn.Linear(moving, state_dim)
        self.nonlinear = mlp(seen + moving, width, depth, state_dim)
        for zero in (self.linear.weight, self.linear.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor, action: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor]:
        """See :class:`WithMemory`; what is kept is the scene ``[..., C, G, G]``, as it is."""
        assert kept is not None, "a lift of level 0 gives the scene"
        places = x[..., : self.latent_dim].reshape(-1, self.latent_dim // 2, 2)
        seen = self.glimpse(kept.reshape(-1, *kept.shape[-3:]), places)
        moving = torch.cat([x[..., self.latent_dim :], action], -1)
        every = torch.cat([seen.reshape(*x.shape[:-1], -1), moving], -1)
        return x + self.linear(moving) + self.nonlinear(every), kept
