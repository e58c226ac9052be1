"""Masked video: the latents, and the pixels, of what is hidden of a clip from what is visible."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from echelon.config import MaskedConfig
from echelon.models.attention import Block
from echelon.models.masking import draw_masks
from echelon.models.vit import TubeletEncoder, check_heads
from echelon.types import EchelonError

Masks = Sequence[tuple[Tensor, Tensor]]
"""visible [B, V] and hidden [B, M] indices of tubelets, for each kind of mask"""


class MaskedVideo(nn.Module):
    """V-JEPA's objective (arXiv 2404.08471, eq. 1 and section 3) and, beside it, MAE's.

    A narrow transformer sees the visible tubelets' tokens and, for each hidden tubelet, a mask token
    of its kind of mask, which only its position tells from the others (as in V-JEPA 2, arXiv
    2506.09985). What comes out at the mask tokens is read twice: as the latent that the EMA encoder
    gives there when it sees the whole clip, and as the normalised pixels of the tubelet (the local
    loss; MAE, arXiv 2111.06377, section 3, has a decoder of its own for them). Each reading is one
    linear layer, built only where its weight is above 0.

    config: weights, sizes and kinds of mask
    encoder: one like those that the losses will be asked of; only its sizes are read

    Raises EchelonError where both weights are 0, or clips or heads do not divide.
    """

    def __init__(self, config: MaskedConfig, encoder: TubeletEncoder) -> None:
        super().__init__()
        if not config.weight and not config.pixels:
            raise EchelonError("masked: weight and pixels are both 0; set one of them above 0")
        if config.frames % encoder.frames:
            raise EchelonError(
                f"masked.frames: clips of {config.frames} frames do not divide into tubelets of "
                f"{encoder.frames}; use a multiple"
            )
        check_heads(config.width, config.heads)
        self.config = config
        self.embed = nn.Linear(encoder.width, config.width)
        self.mask_tokens = nn.Parameter(0.02 * torch.randn(len(config.masks), config.width))
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.to_latents = nn.Linear(config.width, encoder.width) if config.weight else None
        self.to_pixels = nn.Linear(config.width, encoder.pixels) if config.pixels else None

    def forward(
        self,
        encoder: TubeletEncoder,
        target_encoder: TubeletEncoder,
        clips: Tensor,
        masks: Masks | torch.Generator,
    ) -> dict[str, Tensor]:
        """The weighted terms, each a mean over kinds of mask.

        clips: [B, F, S, S, 3] uint8
        masks: one for each configured kind, or the CPU generator that draws them

        Returns ``masked``, the mean absolute error of the hidden tubelets' latents, and ``pixels``,
        the mean squared error of their normalised pixels; a term of weight 0 is left out.
        """
        if isinstance(masks, torch.Generator):
            masks = self.draw(encoder, clips, masks)
        found: dict[str, list[Tensor]] = {}
        target = targets(target_encoder, clips) if self.to_latents is not None else None
        for kind, (visible, hidden) in enumerate(masks):
            x = self.predict(encoder, clips, visible, hidden, kind)
            if self.to_latents is not None and target is not None:
                aim = target.gather(1, hidden[..., None].expand(-1, -1, target.shape[-1]))
                error = (self.to_latents(x) - aim).abs().mean()
                found.setdefault("masked", []).append(self.config.weight * error)
            if self.to_pixels is not None:
                error = (self.to_pixels(x) - encoder.tubelets(clips, hidden)).square().mean()
                found.setdefault("pixels", []).append(self.config.pixels * error)
        return {name: torch.stack(terms).mean() for name, terms in found.items()}

    def draw(self, encoder: TubeletEncoder, clips: Tensor, generator: torch.Generator) -> Masks:
        """A mask of each kind for every clip, on the device of the clips."""
        batch, time = len(clips), clips.shape[1] // encoder.frames
        drawn = (
            draw_masks(kind, batch, time, encoder.grid, generator) for kind in self.config.masks
        )
        return [(visible.to(clips.device), hidden.to(clips.device)) for visible, hidden in drawn]

    def predict(
        self, encoder: TubeletEncoder, clips: Tensor, visible: Tensor, hidden: Tensor, kind: int = 0
    ) -> Tensor:
        """What the visible tubelets [B, V] tell of the hidden ones [B, M]: features [B, M, width]."""
        context = self.embed(encoder.tokens(clips, visible))
        asked = self.mask_tokens[kind].expand(*hidden.shape, -1)
        x = torch.cat([context, asked.to(context.dtype)], 1)
        positions = encoder.places(clips, torch.cat([visible, hidden], 1))
        for block in self.blocks:
            x = block(x, positions)
        return self.norm(x[:, visible.shape[1] :])


@torch.no_grad()
def targets(target_encoder: TubeletEncoder, clips: Tensor) -> Tensor:
    """``[B, F, S, S, 3] -> [B, N, W]``: tokens of the whole clip, each of mean 0 and variance 1."""
    tokens = target_encoder.tokens(clips)
    return layer_norm(tokens, tokens.shape[-1:])
