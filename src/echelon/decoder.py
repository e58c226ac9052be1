"""Images of level 0's latents, for people: a small decoder, fitted to a model that stays as it is.

Nothing plans with it or learns from it. What it cannot draw, the latent does not say, or it was too
small to tell.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from echelon import checkpoint, schema
from echelon.data.episodes import Episodes
from echelon.models.hierarchy import Hierarchy
from echelon.progress import Progress
from echelon.statistics import encode
from echelon.types import EchelonError

Images = NDArray[np.uint8]

FRAMES = 20_000
"""frames that it is fitted to, evenly picked"""
HELD_OUT = 0.05
"""share of the episodes that it is judged by"""


@dataclass(frozen=True)
class DecoderConfig:
    """How a decoder is fitted."""

    steps: int = 1500
    """of training; a minute or two on one core"""
    batch_size: int = 128
    """frames a step"""
    learning_rate: float = 2e-3
    width: int = 256
    """hidden units"""
    channels: int = 32
    """numbers that a patch is drawn from"""
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.width, self.channels) < 1:
            raise EchelonError("decoder: steps, batch-size, width and channels are at least 1")
        if not self.learning_rate > 0:
            raise EchelonError("decoder: learning-rate must be above 0")


class Decoder(nn.Module):
    """``z [..., D] -> [..., S, S, 3]``: an MLP draws each patch's numbers, and one layer, the same for
    all patches, its pixels. So `PatchEncoder`, backwards.
    """

    z_mean: Tensor
    z_std: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int, image_size: int, width: int, channels: int) -> None:
        super().__init__()
        self.size, self.patch = image_size, math.gcd(image_size, 8)
        cells = (image_size // self.patch) ** 2
        self.register_buffer("z_mean", torch.zeros(latent_dim))
        self.register_buffer("z_std", torch.ones(latent_dim))
        self.register_buffer("mean", torch.full((image_size, image_size, 3), 127.5))
        self.register_buffer("scale", torch.tensor(127.5))
        self.network = nn.Sequential(
            nn.Linear(latent_dim, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, channels * cells),
            nn.Unflatten(-1, (cells, channels)),
            nn.SiLU(),
            nn.Linear(channels, 3 * self.patch**2),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Differences from the mean image, in deviations."""
        rows = self.size // self.patch
        drawn = self.network((z - self.z_mean) / self.z_std)
        drawn = drawn.unflatten(-1, (self.patch, self.patch, 3)).unflatten(-4, (rows, rows))
        return drawn.transpose(-4, -3).flatten(-5, -4).flatten(-3, -2)

    @torch.no_grad()
    def images(self, z: Tensor) -> Images:
        """``[..., D] -> [..., S, S, 3] uint8``"""
        pixels = self.mean + self.scale * self(z)
        return pixels.round().clamp(0, 255).to(torch.uint8).cpu().numpy()


@dataclass(frozen=True)
class Fitted:
    """How good a decoder is on frames of episodes that it was not fitted to."""

    explained: float
    """share of the pixels' variance about the mean image"""
    error: float
    """root mean square, in grey levels of 255"""

    def in_words(self) -> str:
        """One line."""
        return (
            f"held-out frames: {100 * self.explained:.0f} % of what changes is drawn; error "
            f"{self.error:.1f} of 255 (root mean square)"
        )


def fit_decoder(
    model: Hierarchy, episodes: Episodes, config: DecoderConfig, progress: Progress
) -> tuple[Decoder, Fitted]:
    """A decoder for a trained model, and how good it is. The model is read, and stays as it is."""
    if episodes.image_size != model.config.image_size:
        raise EchelonError(
            f"{episodes.path}: frames are {episodes.image_size} pixels wide, the model was trained on "
            f"{model.config.image_size}; give episodes like those that it was trained on"
        )
    device = next(model.parameters()).device
    train_ids, held_out_ids = episodes.split(HELD_OUT, config.seed)
    rows, held_out = _rows(episodes, train_ids, FRAMES), _rows(episodes, held_out_ids, FRAMES // 10)
    z, seen = encode(model, episodes, rows), torch.from_numpy(episodes.pixels[rows]).to(device)
    torch.manual_seed(config.seed)
    size = model.config.image_size
    decoder = Decoder(z.shape[-1], size, config.width, config.channels).to(device)
    decoder.z_mean.copy_(z.mean(0))
    decoder.z_std.copy_(z.std(0).clamp_min(1e-6))
    decoder.mean.copy_(torch.stack([part.float().mean(0) for part in seen.split(500)]).mean(0))
    decoder.scale.copy_((seen[:2000] - decoder.mean).square().mean().sqrt().clamp_min(1e-3))
    optimizer = torch.optim.AdamW(decoder.parameters(), config.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    generator = torch.Generator().manual_seed(config.seed)
    with progress.task("fit decoder", config.steps) as advance:
        for _ in range(config.steps):
            some = torch.randint(len(rows), (config.batch_size,), generator=generator).to(device)
            loss = _loss(decoder, z[some], seen[some])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            advance(loss.item())
    decoder.eval()
    with torch.no_grad():
        z, seen = encode(model, episodes, held_out), torch.from_numpy(episodes.pixels[held_out])
        seen = seen.to(device)
        left = float(_loss(decoder, z, seen))
        whole = float(((seen - decoder.mean) / decoder.scale).square().mean())
    return decoder, Fitted(1 - left / max(whole, 1e-12), left**0.5 * float(decoder.scale))


def _loss(decoder: Decoder, z: Tensor, seen: Tensor) -> Tensor:
    return (decoder(z) - (seen - decoder.mean) / decoder.scale).square().mean()


def _rows(episodes: Episodes, ids: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Rows of frames of some episodes, evenly picked."""
    spans = zip(episodes.offsets[ids], episodes.lengths[ids], strict=True)
    every = np.concatenate([np.arange(first, first + length) for first, length in spans])
    return every[:: math.ceil(len(every) / most)]


@torch.no_grad()
def decoded(decoder: Decoder, model: Hierarchy, latents: Mapping[int, Tensor]) -> dict[int, Images]:
    """By level, ``latents [N, D] -> images [N, S, S, 3]``: those above level 0 by the nearest known
    latent of the level below, and so on down.
    """
    found: dict[int, Images] = {}
    for index, z in latents.items():
        state = {"z": z.to(decoder.mean)}
        for level in reversed(model.levels[1 : index + 1]):
            state = level.lower(state)
        found[index] = decoder.images(state["z"])
    return found


# ------------------------------------------------------------------ on disk


@dataclass(frozen=True)
class _Header:
    format: int
    model: str
    """checksum of the encoder that it was fitted to"""
    latent_dim: int
    image_size: int
    width: int
    channels: int


def save_decoder(path: Path, decoder: Decoder, model: Hierarchy, config: DecoderConfig) -> None:
    """One file with the weights, and which model they belong to."""
    header = {
        "format": checkpoint.FORMAT_VERSION,
        "model": _checksum(model),
        "latent_dim": len(decoder.z_mean),
        "image_size": decoder.size,
        "width": config.width,
        "channels": config.channels,
    }
    checkpoint.write_tensors(path, decoder.state_dict(), "decoder", header)


def load_decoder(path: Path, model: Hierarchy) -> Decoder:
    """The decoder of a file, which must have been fitted to this model."""
    if not path.exists():
        raise EchelonError(f"{path}: no such decoder; fit one with 'echelon decoder'")
    values, tensors = checkpoint.read_tensors(path, "decoder")
    header = schema.read(_Header, values, f"{path}: header")
    if header.model != _checksum(model):
        raise EchelonError(
            f"{path}: was fitted to another model; fit one to this with 'echelon decoder'"
        )
    decoder = Decoder(header.latent_dim, header.image_size, header.width, header.channels)
    checkpoint.fill(decoder, tensors, path)
    return decoder.to(next(model.parameters()).device).eval()


def _checksum(model: Hierarchy) -> str:
    """Of all that makes the latents of level 0."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.levels[0].lift.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()
