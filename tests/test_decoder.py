"""Images of latents: a decoder that learns, draws bytes, and knows its model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imsave
from tiny import frame, model_config, write_episodes

from echelon import checkpoint
from echelon import decoder as decoders
from echelon.cli import main
from echelon.data.episodes import Episodes, EpisodeWriter
from echelon.decoder import Decoder, DecoderConfig, decoded, fit_decoder, load_decoder, save_decoder
from echelon.images import read_png
from echelon.models.hierarchy import Hierarchy
from echelon.progress import Progress
from echelon.statistics import encode, fit_inputs, fit_search
from echelon.types import EchelonError

QUIET = Progress(quiet=True)
CONFIG = DecoderConfig(steps=300, batch_size=32, width=32, channels=8, learning_rate=5e-3)


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Episodes:
    return Episodes.open(write_episodes(tmp_path_factory.mktemp("data") / "dots.h5", episodes=20))


@pytest.fixture(scope="module")
def model(episodes: Episodes) -> Hierarchy:
    """Of random weights: even so an encoder says where the dot is."""
    torch.manual_seed(0)
    model = Hierarchy(model_config(2), 1).eval()
    ids = np.arange(len(episodes.lengths))
    fit_inputs(model, episodes, ids)
    fit_search(model, episodes, ids, 0)
    return model


@pytest.fixture(scope="module")
def fitted(model: Hierarchy, episodes: Episodes) -> tuple[Decoder, decoders.Fitted]:
    return fit_decoder(model, episodes, CONFIG, QUIET)


def latent(model: Hierarchy, x: float) -> torch.Tensor:
    clip = torch.from_numpy(np.stack([frame(x), frame(x)])[None])
    with torch.no_grad():
        return model.encode(clip)["z"]


def brightest(image: np.ndarray) -> float:
    """Where the dot is, from 0 to 1."""
    return float(image[..., 0].sum(0, dtype=np.int64).argmax()) / (image.shape[1] - 1)


def test_it_learns_to_draw_the_dot_where_it_is(
    model: Hierarchy, episodes: Episodes, fitted: tuple[Decoder, decoders.Fitted]
) -> None:
    decoder, good = fitted
    _, early = fit_decoder(model, episodes, replace(CONFIG, steps=2), QUIET)
    assert early.explained < 0.5 < 0.8 < good.explained <= 1
    assert good.error < early.error
    assert f"{100 * good.explained:.0f} % of what changes is drawn" in good.in_words()
    places = np.linspace(0.1, 0.9, 9)
    images = decoder.images(torch.cat([latent(model, x) for x in places]))
    assert images.dtype == np.uint8
    assert images.shape == (9, 16, 16, 3)
    assert images.min() < 30
    assert images.max() > 200
    assert [brightest(image) for image in images] == pytest.approx(places, abs=1.5 / 15)


def test_images_stay_bytes_for_any_latent(fitted: tuple[Decoder, decoders.Fitted]) -> None:
    images = fitted[0].images(1e4 * torch.randn(2, 5, 4))
    assert images.shape == (2, 5, 16, 16, 3)
    assert images.dtype == np.uint8
    assert {0, 255} <= set(images.flatten().tolist())  # cut off, and not wrapped round


def test_pixels_go_where_they_belong() -> None:
    """A patch of 8 x 8 pixels is one of the latent's; its rows and columns aren't mixed up."""
    decoder = Decoder(2, 16, width=4, channels=4)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.zero_()
        pixels = torch.zeros(8, 8, 3)
        pixels[1, 2, 0] = 1.0
        decoder.network[-1].bias.copy_(pixels.flatten())
    drawn = decoder(torch.zeros(1, 2))[0]
    assert drawn.nonzero().tolist() == [[r, c, 0] for r in (1, 9) for c in (2, 10)]
    assert Decoder(2, 20, 4, 4)(torch.zeros(3, 2)).shape == (3, 20, 20, 3)


def test_the_model_stays_as_it_is_and_the_same_seed_gives_the_same(
    model: Hierarchy, episodes: Episodes
) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    short = replace(CONFIG, steps=3)
    one, other = (fit_decoder(model, episodes, short, QUIET)[0] for _ in range(2))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in one.state_dict().items())


def test_upper_levels_are_drawn_through_the_nearest_known_latent(
    model: Hierarchy, fitted: tuple[Decoder, decoders.Fitted]
) -> None:
    upper = model.levels[1]
    shown = decoded(fitted[0], model, {0: latent(model, 0.3), 1: upper.bank[:5] + 1e-6})
    assert np.array_equal(shown[0], fitted[0].images(latent(model, 0.3)))
    wanted = fitted[0].images(upper.bank_below[:5])  # or of one that is as near, but for rounding
    assert np.abs(shown[1].astype(int) - wanted).max() <= 4
    three = Hierarchy(model_config(3), 1)
    for level in three.levels[1:]:
        level.bank.normal_()
        level.bank_below.normal_()
    z = torch.randn(2, 3)
    lowered = three.levels[1].lower(three.levels[2].lower({"z": z}))["z"]
    assert np.array_equal(decoded(fitted[0], three, {2: z})[2], fitted[0].images(lowered))


def test_a_file_gives_back_the_decoder(
    model: Hierarchy, fitted: tuple[Decoder, decoders.Fitted], tmp_path: Path
) -> None:
    path = tmp_path / "decoder.safetensors"
    save_decoder(path, fitted[0], model, CONFIG)
    again, z = load_decoder(path, model), torch.randn(3, 4)
    assert np.array_equal(again.images(z), fitted[0].images(z))


def test_mistakes(
    model: Hierarchy, fitted: tuple[Decoder, decoders.Fitted], tmp_path: Path
) -> None:
    path, other = tmp_path / "decoder.safetensors", Hierarchy(model_config(2), 1)
    with pytest.raises(EchelonError, match="no such decoder; fit one with 'echelon decoder'"):
        load_decoder(path, model)
    save_decoder(path, fitted[0], model, CONFIG)
    with pytest.raises(EchelonError, match="was fitted to another model; fit one to this"):
        load_decoder(path, other)
    checkpoint.save_model(path, model, {})
    with pytest.raises(EchelonError, match="is not an Echelon decoder checkpoint"):
        load_decoder(path, model)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(EchelonError, match="truncated"):
        load_decoder(path, model)
    with EpisodeWriter(tmp_path / "large.h5") as writer:
        writer.add({"pixels": np.zeros((4, 24, 24, 3), np.uint8), "action": np.zeros((3, 1))})
    with pytest.raises(EchelonError, match="24 pixels wide, the model was trained on 16"):
        fit_decoder(model, Episodes.open(tmp_path / "large.h5"), CONFIG, QUIET)
    for wrong in ({"steps": 0}, {"channels": 0}, {"learning_rate": 0.0}):
        with pytest.raises(EchelonError, match="decoder: "):
            DecoderConfig(**wrong)


def test_latents_are_those_of_the_frames_drawn(model: Hierarchy, episodes: Episodes) -> None:
    """Frame by frame, or the decoder would draw what was a moment ago."""
    row = int(episodes.offsets[3]) + 5
    clip = torch.from_numpy(episodes.pixels[[row, row]])[None]
    with torch.no_grad():
        assert torch.allclose(encode(model, episodes, np.array([row])), model.encode(clip)["z"])


def test_from_the_command_line(
    model: Hierarchy,
    episodes: Episodes,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, out = tmp_path / "checkpoint.safetensors", tmp_path / "decoder.safetensors"
    checkpoint.save_model(path, model, {})
    fit = ["decoder", str(path), "--data", str(episodes.path), "--steps", "5"]
    for name, x in (("now", 0.2), ("goal", 0.8)):
        imsave(tmp_path / f"{name}.png", frame(x))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped:
        stopped.setattr(decoders, "_loss", stop)
        assert main(fit) == 130
    assert not out.exists()
    assert main(fit) == 0
    said = capsys.readouterr()
    good, written = said.out.splitlines()
    assert "of what changes is drawn" in good
    assert written == str(out)
    assert "fit decoder" in said.err
    assert main(fit) == 2
    assert "is there already" in capsys.readouterr().err
    picture = tmp_path / "plan.png"
    plan = ["plan", str(path), "--observation", str(tmp_path / "now.png")]
    plan += ["--goal", str(tmp_path / "goal.png"), "--decoder", str(out)]
    assert main(plan) == 2
    assert "give --picture too" in capsys.readouterr().err
    assert main([*plan, "--picture", str(picture)]) == 0
    levels = json.loads(capsys.readouterr().out)["levels"]
    height = read_png(picture).shape[0]
    assert main([*plan, "--picture", str(picture), "--episodes", str(episodes.path)]) == 0
    assert len(levels) == 2
    assert read_png(picture).shape[0] > height  # another row of images, for the one upper level
