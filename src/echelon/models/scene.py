"""Where things are, and what is around them: keypoints of an image, and dynamics that look no farther.

A keypoint is a place in the image, in numbers that a network cannot tie to one layout. It is where
moments of an episode differ, and it goes with an image that is shifted. What lies around it is read
from a map of the image, the `scene`, that travels beside the latent and does not change. A predictor
that sees its keypoints' surroundings, and never where they are, learns one rule for all places, and for
layouts that it has not seen.
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

    def __init__(self, points: int, image_size: int, width: int, grid: int) -> None:
        """grid: height and width of the map."""
        super().__init__()
        if image_size % grid:
            raise EchelonError(
                f"encoder.grid: {grid} cells do not divide an image of {image_size} pixels; use a grid "
                "that does"
            )
        self.points, self.grid = points, grid
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
        centres = (torch.arange(grid) + 0.5) * (2 / grid) - 1
        self.register_buffer("cells", torch.cartesian_prod(centres, centres))

    def forward(self, frames: Tensor) -> Tensor:
        return self.look(frames)[0]

    def look(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """The latents, and the attention ``[..., N, G * G]`` of each point to the cells of the map."""
        x = (frames.reshape(-1, *frames.shape[-3:]) - self.mean).mul_(self.scale)
        features = self.features(x.permute(0, 3, 1, 2))
        logits = self.logits(features).flatten(2)
        spread = logits.std(-1, keepdim=True) + 1e-3
        logits = (logits - logits.mean(-1, keepdim=True)) / spread
        attention = (self.SHARPNESS * logits).softmax(-1)
        offsets = self.offsets(features).tanh() * (2 / self.grid)
        places = self.cells + offsets.unflatten(1, (self.points, 2)).flatten(3).transpose(2, 3)
        latent = HALF * (attention[..., None] * places).sum(2)
        leading = frames.shape[:-3]
        return latent.reshape(*leading, -1), attention.reshape(*leading, *attention.shape[1:])


def changes(frames: Tensor, others: Tensor, grid: int) -> Tensor:
    """``[B, H, W, 3] uint8, twice -> [B, G * G]``: how much of each cell is not the same in both, 1
    where it is most; 0 everywhere where nothing is.
    """
    change = (frames.float() - others.float()).square().mean(-1)
    cells = functional.avg_pool2d(change[:, None], frames.shape[1] // grid).flatten(1)
    return cells / cells.amax(1, keepdim=True).clamp_min(1e-6)


def shifted(frames: Tensor, by: Tensor) -> Tensor:
    """``[B, H, W, 3], by [B, 2] pixels down and right -> [B, H, W, 3]``; what comes in is the edge."""
    size = frames.shape[1]
    index = torch.arange(size, device=frames.device) - by[..., None]
    row, column = index.clamp(0, size - 1).unbind(1)
    image = torch.arange(len(frames), device=frames.device)[:, None, None]
    return frames[image, row[:, :, None], column[:, None]]


class Scene(nn.Module):
    """What is where in an image: ``[..., H, W, 3] uint8 -> [..., C, F, F], [..., F, F]``, with F half
    the image's size. The first is for dynamics; the second, the `floor`, has logits of where a
    keypoint is ever seen.
    """

    WIDTH = 16

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(3, self.WIDTH, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(self.WIDTH, self.WIDTH, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(self.WIDTH, self.WIDTH, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(self.WIDTH, channels + 1, 1),
        )

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        x = frames.reshape(-1, *frames.shape[-3:]).permute(0, 3, 1, 2) / 127.5 - 1
        found = self.network(x)
        found = found.reshape(*frames.shape[:-3], *found.shape[1:])
        return found[..., 1:, :, :], found[..., 0, :, :]


def sampled(maps: Tensor, places: Tensor, around: Tensor) -> Tensor:
    """``maps [B, C, F, F], places [B, N, 2], around [K, 2] -> [B, C, N, K]``: what lies `around` each
    place, both in rows and columns of which an image has those from -1 to 1; linear between cells, and
    beyond an image lies what lies at its edge.
    """
    at = places.flip(-1)[:, :, None] + around.flip(-1)  # columns first, as PyTorch has it
    return functional.grid_sample(maps, at, padding_mode="border", align_corners=False)


class Glimpse(nn.Module):
    """What a scene holds around places: samples on a square grid centred at each of them."""

    around: Tensor

    def __init__(self, across: int, spacing: float, image_size: int) -> None:
        """across: samples on a side. spacing: between them, in pixels of the image."""
        super().__init__()
        steps = (torch.arange(across) - (across - 1) / 2) * spacing * 2 / image_size
        self.register_buffer("around", torch.cartesian_prod(steps, steps))

    def forward(self, scene: Tensor, places: Tensor) -> Tensor:
        """``scene [..., C, F, F], places [..., N, 2] in latent units -> [..., N, C * samples]``"""
        leading = places.shape[:-1]
        # Candidates of a search are in the same scene, and in many places of it: it is not copied.
        if scene.ndim > 4 and scene.stride(-4) == 0:
            scene, places = scene.select(-4, 0), places.flatten(-3, -2)
        scene, places = (x.reshape(-1, *x.shape[-n:]) for x, n in ((scene, 3), (places, 2)))
        seen = sampled(scene, places / HALF, self.around)
        return seen.transpose(1, 2).reshape(*leading, -1)


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
        """See :class:`WithMemory`; what is kept is the scene ``[..., C, F, F]``, as it is."""
        assert kept is not None, "a lift of level 0 gives the scene"
        seen = self.glimpse(kept, x[..., : self.latent_dim].unflatten(-1, (-1, 2)))
        moving = torch.cat([x[..., self.latent_dim :], action], -1)
        every = torch.cat([seen.flatten(-2), moving], -1)
        return x + self.linear(moving) + self.nonlinear(every), kept
