"""The transformer over tubelets: what it sees, in which order, and how well it tells a place."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from echelon.models.encoders import PatchEncoder
from echelon.models.vit import TubeletEncoder
from echelon.types import EchelonError


def encoder(frames: int = 2, **sizes: int) -> TubeletEncoder:
    options = {"latent_dim": 5, "image_size": 16, "patch": 4, "width": 24, "depth": 2, "heads": 2}
    return TubeletEncoder(frames=frames, **{**options, **sizes})


def clips(*shape: int) -> Tensor:
    return torch.randint(0, 256, (*shape, 16, 16, 3), dtype=torch.uint8)


def fit(model: TubeletEncoder) -> TubeletEncoder:
    """Statistics that no pixel shares with another."""
    model.mean.copy_(255 * torch.rand(16, 16, 3))
    model.scale.fill_(0.02)
    return model


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_a_latent_for_every_run_of_frames(frames: int) -> None:
    model = fit(encoder(frames))
    clip = clips(2, 3, 4 + frames)
    together = model(clip)
    assert together.shape == (2, 3, 5, 5)
    for t in range(5):
        alone = model(clip[:, :, t : t + frames])
        assert alone.shape == (2, 3, 1, 5)
        assert torch.allclose(alone[:, :, 0], together[:, :, t], atol=1e-5)
    assert torch.allclose(model(clip[1, 2]), together[1, 2], atol=1e-5)
    assert clip.dtype == torch.uint8


def test_frames_of_a_latent() -> None:
    assert (encoder(1).frames, encoder(3).frames) == (1, 3)
    assert PatchEncoder(latent_dim=4, image_size=16, channels=8).frames == 1


@pytest.mark.parametrize("frames", [1, 2])
def test_tubelets_are_normalised_and_in_the_order_of_time_height_width(frames: int) -> None:
    model, clip = fit(encoder(frames)), clips(2, 4)
    seen, places = model.tubelets(clip), model.places(clip)
    assert seen.shape == (2, 16 * 4 // frames, frames * 48)
    normalised = (clip - model.mean) * model.scale
    for n, (t, y, x) in enumerate(places.tolist()):
        assert n == (t * 4 + y) * 4 + x
        block = normalised[:, t * frames : (t + 1) * frames, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
        assert torch.allclose(seen[:, n], block.flatten(1), atol=1e-6)
    chosen = torch.tensor([[5, 0, 17], [31, 2, 9]])
    assert torch.equal(model.places(clip, chosen), places[chosen])
    for b in range(2):
        assert torch.equal(model.tubelets(clip, chosen)[b], seen[b, chosen[b]])


def test_images_are_normalised_by_the_encoders_statistics() -> None:
    model, clip = encoder(2), clips(3, 4)
    usual = model(clip)
    model.mean.fill_(0)
    model.scale.fill_(1 / 127.5)
    assert torch.allclose(model(clip - 127.5), usual, atol=1e-5)


def test_a_visible_subset_is_the_whole_clip_with_the_rest_masked_from_attention() -> None:
    model, clip = fit(encoder(2)), clips(2, 6)
    visible = torch.stack([torch.randperm(48)[:13].sort().values for _ in range(2)])
    attended = torch.zeros(2, 48, dtype=torch.bool).scatter(1, visible, True)
    x, places = model.embed(model.tubelets(clip)), model.places(clip)
    for block in model.blocks:
        x = block(x, places, attended[:, None].expand(-1, 48, -1))
    expected = model.norm(x).gather(1, visible[..., None].expand(-1, -1, 24))
    found = model.tokens(clip, visible)
    assert found.shape == (2, 13, 24)
    assert torch.allclose(found, expected, atol=1e-5)
    everything = torch.arange(48).expand(2, -1)
    assert torch.allclose(model.tokens(clip, everything), model.tokens(clip), atol=1e-5)


def test_what_is_not_visible_changes_no_token() -> None:
    model, clip = fit(encoder(2)), clips(2, 4)
    visible = torch.tensor([[0, 5, 20]]).expand(2, -1)
    usual = model.tokens(clip, visible)
    pixels = torch.ones(4, 16, 16, dtype=torch.bool)
    for t, y, x in model.places(clip, visible)[0].tolist():
        pixels[2 * t : 2 * t + 2, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4] = False
    other = torch.where(pixels[..., None], 255 - clip, clip)
    assert not torch.equal(other, clip)
    assert torch.equal(model.tokens(other, visible), usual)
    other[:, 2, 5, 3] += 1  # within tubelet 20: time 1, height 1, width 0
    assert not torch.equal(model.tokens(other, visible), usual)


def test_equal_tubelets_at_other_places_get_other_tokens() -> None:
    """Rotary positions alone say where a tubelet is; along each axis they do."""
    model = encoder(1)
    clip = torch.zeros(1, 2, 16, 16, 3, dtype=torch.uint8)
    clip[0, 0, :4, :4] = 255
    tokens = model.tokens(clip)[0]
    for one, other in ((1, 2), (4, 8), (2, 18), (1, 4)):
        assert (tokens[one] - tokens[other]).abs().max() > 1e-3


def test_a_blob_is_located_to_a_fraction_of_a_pixel() -> None:
    """The mean error after a short regression; the centre of the image would be off by 4.6."""

    def blobs(count: int) -> tuple[Tensor, Tensor]:
        centre = 2 + 12 * torch.rand(count, 2)
        rows, columns = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
        distance = torch.stack([rows, columns], -1) - centre[:, None, None]
        glow = 255 * torch.exp(-distance.square().sum(-1) / 4)
        return glow[:, None, ..., None].expand(-1, 1, -1, -1, 3).to(torch.uint8), centre

    model = encoder(1, latent_dim=2, depth=1)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(120):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / 120)
        images, centre = blobs(48)
        loss = (model(images)[:, 0] - (centre - 8) / 4).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, centre = blobs(256)
    with torch.no_grad():
        found = 4 * model(images)[:, 0] + 8
    assert (found - centre).norm(dim=-1).mean() < 0.4


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"frames": 0}, "frames: a tubelet spans at least 1 frame, not 0"),
        ({"patch": 5}, "patch: tubelets of 5 pixels do not tile an image of 16"),
        ({"patch": 0}, "patch: tubelets of 0 pixels"),
        ({"heads": 5}, "width: 24 channels cannot be shared equally by 5 heads"),
        ({"heads": 0}, "width: 24 channels cannot be shared equally by 0 heads"),
        ({"heads": 6}, "heads: 6 of 4 channels .*; use at most 4"),
    ],
)
def test_impossible_sizes(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(EchelonError, match=message) as caught:
        encoder(**sizes)
    assert "\n" not in str(caught.value)


def test_clips_that_do_not_divide() -> None:
    with pytest.raises(EchelonError, match=r"a clip of 5 frames .* tubelets of 2"):
        encoder(2).tokens(clips(1, 5))
