"""Masks of the published geometry, and an objective that never sees what they hide."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from echelon import schema
from echelon.config import MaskConfig, MaskedConfig, to_dict
from echelon.models.masked_video import MaskedVideo, targets
from echelon.models.masking import block_masks, draw_masks
from echelon.models.vit import TubeletEncoder
from echelon.types import EchelonError

PUBLISHED = MaskedConfig().masks
SEEDS = st.integers(0, 2**31)


def seed(value: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(value)


def encoder() -> TubeletEncoder:
    model = TubeletEncoder(
        latent_dim=5, image_size=16, frames=2, patch=4, width=24, depth=1, heads=2
    )
    model.mean.copy_(255 * torch.rand(16, 16, 3))
    model.scale.fill_(0.02)
    return model


def clips(batch: int = 3, frames: int = 4) -> Tensor:
    return torch.randint(0, 256, (batch, frames, 16, 16, 3), dtype=torch.uint8)


def masked_video(weight: float = 1.0, pixels: float = 1.0, **options: Any) -> MaskedVideo:
    config = MaskedConfig(
        weight=weight, pixels=pixels, frames=4, width=24, depth=1, heads=2, **options
    )
    return MaskedVideo(config, encoder())


# ---------------------------------------------------------------------------- the masks


def rectangle(mask: Tensor) -> tuple[int, int]:
    """Height and width of the one block in a mask [G, G], which is all that is in it."""
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    height, width = len(rows), len(columns)
    assert int(mask.sum()) == height * width
    assert int(rows[-1] - rows[0]) + 1 == height
    assert int(columns[-1] - columns[0]) + 1 == width
    return height, width


@given(SEEDS, st.floats(0.05, 0.6), st.floats(0.5, 1.5), st.floats(1, 1.4), st.integers(6, 16))
def test_a_block_is_of_the_area_and_aspect_asked_for(
    value: int, area: float, low: float, ratio: float, grid: int
) -> None:
    aspect = (low, low * ratio)
    masks = block_masks(MaskConfig(1, area, aspect), 4, grid, seed(value))
    sizes = {rectangle(mask) for mask in masks}
    assert len(sizes) == 1
    height, width = sizes.pop()
    # Rounding moves a side by half a tubelet at most; a side longer than the frame is cut.
    exact = (
        [(area * grid**2 * a) ** 0.5 for a in aspect],
        [(area * grid**2 / a) ** 0.5 for a in reversed(aspect)],
    )
    for side, (least, most) in zip((height, width), exact, strict=True):
        assert min(least, grid) - 0.5 <= side <= min(most, grid) + 0.5
    if max(exact[0][1], exact[1][1]) <= grid:
        half = 0.5 * (height + width) + 0.25
        assert abs(height * width - area * grid**2) <= half


def test_a_mask_is_the_union_of_its_blocks() -> None:
    """Every hidden cell lies in a rectangle of the block's size that is hidden as a whole."""
    config = MaskConfig(blocks=4, area=0.06, aspect=(1.0, 1.0))  # 4 x 4 in 16 x 16
    masks = block_masks(config, 64, 16, seed())
    whole = masks.unfold(1, 4, 1).unfold(2, 4, 1).flatten(3).all(-1)  # [B, 13, 13] corners
    covered = torch.zeros_like(masks)
    for row in range(4):
        for column in range(4):
            covered[:, row : row + 13, column : column + 13] |= whole
    assert torch.equal(covered, masks)
    hidden = masks.flatten(1).sum(1)
    assert hidden.max() == 4 * 16
    assert hidden.min() >= 16


def test_every_place_of_a_block_is_as_likely() -> None:
    """P(hidden) = 1 - (1 - p(row) p(column))^blocks, for p the share of places that reach it."""
    config = MaskConfig(blocks=3, area=0.25, aspect=(1.0, 1.0), visible=0.0)  # 3 x 3 in 6 x 6
    found = block_masks(config, 4000, 6, seed()).float().mean(0)
    p = torch.tensor([1.0, 2.0, 3.0, 3.0, 2.0, 1.0]) / 4
    expected = 1 - (1 - p[:, None] * p) ** 3
    assert (found - expected).abs().max() < 0.04


def test_the_published_masks_are_the_default() -> None:
    assert [(kind.blocks, kind.area) for kind in PUBLISHED] == [(8, 0.15), (2, 0.7)]
    assert all(kind.aspect == (0.75, 1.5) for kind in PUBLISHED)


@given(SEEDS, st.sampled_from(PUBLISHED), st.integers(1, 9), st.integers(1, 4), st.integers(4, 9))
def test_indices_of_a_batch(value: int, kind: MaskConfig, batch: int, time: int, grid: int) -> None:
    masks = block_masks(kind, batch, grid, seed(value)).flatten(1)
    visible, hidden = draw_masks(kind, batch, time, grid, seed(value))
    for indices, allowed in ((visible, ~masks), (hidden, masks)):
        smallest = int(allowed.sum(1).min())
        assert smallest > 0
        assert indices.shape == (batch, time * smallest)
        assert (indices.diff() > 0).all()
        for row, cells in zip(indices, allowed, strict=True):
            # Full time extent: the same cells at every moment, and only cells of the mask.
            moments = row.reshape(time, -1)
            assert torch.equal(moments // grid**2, torch.arange(time)[:, None].expand_as(moments))
            assert (moments % grid**2 == moments[0]).all()
            assert cells[moments[0]].all()
    assert visible.shape[1] >= time * kind.visible * grid**2


def test_a_single_clip_is_divided_between_visible_and_hidden() -> None:
    visible, hidden = draw_masks(PUBLISHED[0], 1, 3, 8, seed())
    assert torch.cat([visible, hidden], 1).sort().values.tolist() == [list(range(192))]


def test_what_a_batch_cuts_off_is_not_always_the_same() -> None:
    first, second = (draw_masks(PUBLISHED[0], 2, 1, 8, seed(i)) for i in range(2))
    assert not torch.equal(first[0], second[0])
    again = draw_masks(PUBLISHED[0], 2, 1, 8, seed(0))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])


def test_blocks_that_hide_everything_are_refused() -> None:
    with pytest.raises(EchelonError, match=r"1 blocks of 90% leave less than 10% .* 2 x 2"):
        draw_masks(MaskConfig(1, 0.9), 1, 1, 2, seed())


# ---------------------------------------------------------------------------- the objective


def pixels_of(model: TubeletEncoder, clip: Tensor, indices: Tensor) -> Tensor:
    """[B, F, S, S, 1] bool, the pixels of some tubelets [B, M]."""
    inside = torch.zeros(*clip.shape[:4], 1, dtype=torch.bool)
    f, p = model.frames, model.patch
    for row, places in enumerate(model.places(clip, indices).tolist()):
        for t, y, x in places:
            inside[row, f * t : f * t + f, p * y : p * y + p, p * x : p * x + p] = True
    return inside


def test_prediction_never_sees_a_hidden_tubelet() -> None:
    module, model, clip = masked_video(), encoder(), clips()
    for kind, (visible, hidden) in enumerate(module.draw(model, clip, seed())):
        usual = module.predict(model, clip, visible, hidden, kind)
        assert usual.shape == (*hidden.shape, 24)
        unseen = ~pixels_of(model, clip, visible)
        assert (unseen | ~pixels_of(model, clip, hidden)).all()
        other = torch.where(unseen, torch.randint_like(clip, 256), clip)
        assert not torch.equal(other, clip)
        assert torch.equal(module.predict(model, other, visible, hidden, kind), usual)
        seen = pixels_of(model, clip, visible[:, :1])
        changed = module.predict(model, torch.where(seen, 255 - clip, clip), visible, hidden, kind)
        assert (changed != usual).flatten(1).any(1).all()


def test_gradient_reaches_all_but_the_target() -> None:
    module, model = masked_video(), encoder()
    slow = copy.deepcopy(model)
    terms = module(model, slow, clips(), seed())
    assert set(terms) == {"masked", "pixels"}
    torch.stack(list(terms.values())).sum().backward()
    assert all(parameter.grad is None for parameter in slow.parameters())
    for name, parameter in [*module.named_parameters(), *model.named_parameters()]:
        if not name.startswith("readout"):
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


class Answer(MaskedVideo):
    """Predicts what the test says, in place of what the visible tubelets tell."""

    answer: Tensor

    def predict(self, *_: Any) -> Tensor:
        return self.answer


@pytest.mark.parametrize(("weight", "pixels"), [(2.0, 0.0), (0.0, 3.0), (2.0, 3.0)])
def test_terms_on_planted_targets(weight: float, pixels: float) -> None:
    """The two kinds of mask ask for different tubelets; one answer fits the first exactly."""
    model, clip = encoder(), clips(2)
    config = MaskedConfig(weight=weight, pixels=pixels, frames=4, width=24, depth=1, heads=2)
    module = Answer(config, model)
    visible, first, second = (torch.tensor([[a], [b]]) for a, b in ((0, 1), (2, 3), (20, 9)))
    aim, seen = targets(model, clip), (clip - model.mean) * model.scale

    def tubelet(index: int, row: int) -> Tensor:
        t, y, x = index // 16, index // 4 % 4, index % 4
        return seen[row, 2 * t : 2 * t + 2, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].flatten()

    module.answer = torch.stack([aim[0, 2], aim[1, 3]])[:, None]
    if module.to_latents is not None:
        nn.init.eye_(module.to_latents.weight)
        nn.init.zeros_(module.to_latents.bias)
    if module.to_pixels is not None:
        nn.init.zeros_(module.to_pixels.weight)
        nn.init.constant_(module.to_pixels.bias, 0.5)
    terms = module(model, model, clip, [(visible, first), (visible, second)])
    expected: dict[str, float] = {}
    if weight:
        apart = torch.stack([aim[0, 2] - aim[0, 20], aim[1, 3] - aim[1, 9]]).abs().mean().item()
        expected["masked"] = weight * (0 + apart) / 2
    if pixels:
        asked = torch.stack([tubelet(*at) for at in ((2, 0), (3, 1), (20, 0), (9, 1))])
        expected["pixels"] = pixels * (asked - 0.5).square().mean().item()
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-5)


def test_targets_are_normalised_tokens_of_the_whole_clip() -> None:
    model, clip = encoder(), clips()
    with torch.no_grad():
        model.norm.weight.mul_(3)
        model.norm.bias.add_(torch.randn(24))
    found, tokens = targets(model, clip), model.tokens(clip)
    expected = tokens - tokens.mean(-1, keepdim=True)
    expected = expected / (expected.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    assert torch.allclose(found, expected, atol=1e-5)
    assert not found.requires_grad


def test_a_term_of_weight_0_has_no_module() -> None:
    assert masked_video(weight=0.0).to_latents is None
    assert masked_video(pixels=0.0).to_pixels is None


def test_a_mask_token_knows_its_place_and_its_kind() -> None:
    module, model, clip = masked_video(), encoder(), clips(1)
    visible, hidden = torch.tensor([[0, 7]]), torch.tensor([[2, 3, 6, 18]])
    features = module.predict(model, clip, visible, hidden)[0]
    for one in range(4):
        for other in range(one):
            assert (features[one] - features[other]).abs().max() > 1e-4
    assert not torch.equal(module.predict(model, clip, visible, hidden, 1)[0], features)


def test_the_order_of_indices_carries_no_meaning() -> None:
    """Every token goes with its own position, whatever its place in the sequence."""
    module, model, clip = masked_video(), encoder(), clips(1)
    visible, hidden = torch.tensor([[0, 7, 21, 12, 30]]), torch.tensor([[2, 3, 18]])
    usual = module.predict(model, clip, visible, hidden)
    assert torch.allclose(module.predict(model, clip, visible.flip(1), hidden), usual, atol=1e-5)
    turned = module.predict(model, clip, visible, hidden.flip(1))
    assert torch.allclose(turned, usual.flip(1), atol=1e-5)
    assert (turned - usual).abs().max() > 1e-3


def test_one_seed_gives_the_same_terms_again() -> None:
    module, model, clip = masked_video(), encoder(), clips()
    first, again, other = (module(model, model, clip, seed(i)) for i in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["masked"], other["masked"])


def test_training_learns_to_fill_in() -> None:
    """Clips of one colour: what is visible says all that is hidden."""
    module, model = masked_video(), encoder()
    model.mean.fill_(127.5)
    model.scale.fill_(1 / 64)
    slow = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.Adam([*module.parameters(), *model.parameters()], 3e-3)
    generator, seen = seed(), list[dict[str, float]]()
    for _ in range(40):
        colour = torch.randint(0, 256, (8, 1, 1, 1, 3), dtype=torch.uint8)
        terms = module(model, slow, colour.expand(8, 4, 16, 16, 3), generator)
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        seen.append({name: term.item() for name, term in terms.items()})
    for name in seen[0]:
        late = sum(terms[name] for terms in seen[-5:]) / 5
        assert late < 0.6 * seen[0][name], name


def test_options_survive_a_file() -> None:
    config = MaskedConfig(weight=0.5, masks=(MaskConfig(area=0.2, aspect=(1.0, 2.0)),))
    assert schema.read(MaskedConfig, json.loads(json.dumps(to_dict(config))), "here") == config


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MaskConfig(blocks=0), "masks.blocks"),
        (lambda: MaskConfig(area=0.0), "masks.area"),
        (lambda: MaskConfig(area=1.0), "masks.area"),
        (lambda: MaskConfig(visible=1.0), "masks.area and masks.visible"),
        (lambda: MaskConfig(aspect=(1.5, 0.75)), "masks.aspect"),
        (lambda: MaskConfig(aspect=(0.0, 0.75)), "masks.aspect"),
        (lambda: MaskedConfig(weight=-1.0), "must not be below 0"),
        (lambda: MaskedConfig(frames=0), "frames and depth"),
        (lambda: MaskedConfig(depth=0), "frames and depth"),
        (lambda: MaskedConfig(masks=()), "masked.masks"),
        (lambda: masked_video(weight=0.0, pixels=0.0), "weight and pixels are both 0"),
        (lambda: MaskedVideo(MaskedConfig(1.0, frames=3), encoder()), "clips of 3 frames"),
        (lambda: MaskedVideo(MaskedConfig(1.0, heads=5), encoder()), "48 channels .* 5 heads"),
    ],
)
def test_impossible_options(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(EchelonError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
