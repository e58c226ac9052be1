"""Keypoints and what is around them: known places, known surroundings, no knowledge of the layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import model_config, train_config, write_episodes

from echelon import losses
from echelon.config import EncoderConfig, ModelConfig, StageConfig
from echelon.data.episodes import Episodes, EpisodeWriter
from echelon.data.windows import WindowSampler
from echelon.models.hierarchy import Hierarchy
from echelon.models.scene import (
    HALF,
    Glimpse,
    KeypointEncoder,
    LocalPredictor,
    changes,
    shifted,
)
from echelon.planning.planner import rollout
from echelon.progress import Progress
from echelon.trainer import Trainer
from echelon.types import EchelonError, tree_stack

GRID = 16


def scene_config() -> ModelConfig:
    """One level of a keypoint and local dynamics, for the world of `tiny`."""
    (fine,) = model_config(1).levels
    level = replace(fine, latent_dim=2, predictor="local", glimpse=3)
    return ModelConfig((level,), EncoderConfig(kind="keypoints", grid=4, channels=2), image_size=16)


class Given(torch.nn.Module):
    """Features that are what they are, whatever the image."""

    def __init__(self, features: torch.Tensor) -> None:
        super().__init__()
        self.features = features

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.features


def test_a_keypoint_is_where_the_one_cell_is_that_stands_out() -> None:
    encoder = KeypointEncoder(1, 64, 4, GRID)
    with torch.no_grad():
        for layer in (encoder.logits, encoder.offsets):
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
        encoder.logits.weight[0, 0] = 1
        bright = torch.zeros(3, 4, GRID, GRID)
        for image, (row, column) in enumerate([(0, 0), (3, 12), (15, 15)]):
            bright[image, 0, row, column] = 1
        encoder.features = Given(bright)
        z, attention = encoder.look(torch.zeros(3, 64, 64, 3, dtype=torch.uint8))
    centres = (torch.tensor([[0, 0], [3, 12], [15, 15]]) + 0.5) * 2 / GRID - 1
    assert torch.allclose(z, HALF * centres, atol=1e-5)
    assert torch.equal(attention[:, 0].argmax(-1), torch.tensor([0, 3 * GRID + 12, GRID**2 - 1]))
    assert torch.allclose(attention.sum(-1), torch.ones(3, 1))


def test_a_glimpse_reads_the_map_where_it_looks() -> None:
    """A scene that holds its own row and column says, between its cells, where it was read."""
    centres = (torch.arange(GRID) + 0.5) * 2 / GRID - 1
    scene = torch.stack(torch.meshgrid(centres, centres, indexing="ij"))[None].expand(5, -1, -1, -1)
    places = torch.empty(5, 2, 2).uniform_(-0.6, 0.6, generator=torch.Generator().manual_seed(0))
    glimpse = Glimpse(3, 1.5, GRID)  # of an image of as many pixels
    seen = glimpse(scene, HALF * places).unflatten(-1, (2, 9))
    expected = (places[:, :, None] + glimpse.around).transpose(-1, -2)
    assert torch.allclose(seen, expected, atol=1e-6)
    assert glimpse.around.abs().max() == pytest.approx(1.5 * 2 / GRID)


def test_candidates_that_share_a_scene_see_what_each_would_see_in_its_own() -> None:
    glimpse = Glimpse(3, 1.5, GRID)
    scene, places = torch.randn(2, 3, GRID, GRID), torch.randn(2, 5, 1, 2)
    shared = scene[:, None].expand(-1, 5, -1, -1, -1)
    seen = glimpse(shared, places)
    assert seen.shape == (2, 5, 1, 27)
    torch.testing.assert_close(seen, glimpse(shared.contiguous(), places))


def test_a_local_predictor_knows_surroundings_and_no_place() -> None:
    """The same surroundings elsewhere give the same change; other surroundings another one."""
    torch.manual_seed(0)
    predictor = LocalPredictor(2, 4, 1, 16, 1, 3, Glimpse(5, 1.0, GRID))
    for parameter in predictor.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    scene = torch.randn(1, 3, GRID, GRID)
    x, action = torch.tensor([[0.3, -0.4, 0.5, 0.1]]), torch.tensor([[0.7]])
    moved = x + torch.tensor([[2, -3, 0, 0]]) * HALF * 2 / GRID
    here, kept = predictor(x, action, scene)
    there, _ = predictor(moved, action, scene.roll((2, -3), (2, 3)))
    elsewhere, _ = predictor(moved, action, scene)
    assert kept is scene
    assert torch.allclose(here - x, there - moved, atol=1e-5)
    assert (here - x - elsewhere + moved).abs().max() > 1e-2


def test_rolling_out_keeps_one_scene(tmp_path: Path) -> None:
    """Candidates and steps share it, and what is predicted is what steps one by one predict."""
    model = Hierarchy(scene_config(), 1)
    frames = torch.randint(0, 256, (2, 2, 16, 16, 3), dtype=torch.uint8)
    state = model.encode(frames)
    assert torch.equal(state["scene"], model.levels[0].lift.scene(frames[:, 0])[0])
    actions = torch.randn(2, 3, 4, 1)
    states = rollout(model.levels[0], state, actions)
    assert states["scene"].stride()[2] == 0
    for candidate in range(3):
        one = state
        for step in range(4):
            one = model.predict(one, actions[:, candidate, step])
            for part in ("z", "dz", "scene"):
                assert torch.allclose(states[part][:, candidate, step], one[part], atol=1e-6)


def test_equal_tensors_are_stacked_without_a_copy() -> None:
    one, other = torch.arange(6.0).reshape(2, 3), torch.ones(2, 3)
    trees = [{"same": one, "new": one}, {"same": one, "new": other}]
    stacked = tree_stack(trees, 1)
    assert torch.equal(stacked["same"], torch.stack([one, one], 1))
    assert torch.equal(stacked["new"], torch.stack([one, other], 1))
    assert stacked["same"].data_ptr() == one.data_ptr()


def test_attention_lies_on_what_changes() -> None:
    """Nothing where all of it does; its log where a part does; a second point has what is left."""
    changed = torch.tensor([[0.0, 1.0, 0.5], [0.0, 0.0, 0.0]])
    on = torch.tensor([[[0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]]])
    assert losses.on_what_changes(on, changed).item() == pytest.approx(0, abs=2e-3)
    half = torch.tensor([[[0.5, 0.5, 0.0]], [[1.0, 0.0, 0.0]]])
    found = losses.on_what_changes(half, changed).item()
    assert found == pytest.approx(np.log(2) / 2, abs=2e-3)  # of two images, one of which is still
    both = torch.tensor([[[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])
    again = torch.tensor([[[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]])
    first = changed[:1]
    assert losses.on_what_changes(both, first).item() == pytest.approx(np.log(2) / 2, abs=2e-3)
    assert losses.on_what_changes(again, first).item() > 3


def test_an_image_is_shifted_and_compared() -> None:
    frames = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    moved = shifted(frames, torch.tensor([[2, -1], [0, 0]]))
    assert torch.equal(moved[0, 2:, :-1], frames[0, :-2, 1:])
    assert torch.equal(moved[0, 0], moved[0, 2])  # what comes in is the edge
    assert torch.equal(moved[1], frames[1])
    other = frames.clone()
    other[0, 5, 1] = 255 - other[0, 5, 1]
    found = changes(frames, other, 4).unflatten(1, (4, 4))
    assert found[0, 2, 0] == 1
    assert found.sum() == 1


def test_a_ball_is_found_wherever_it_is_and_whatever_stands_around(tmp_path: Path) -> None:
    """Trained in rooms that differ, it is read to half a pixel in others."""

    def worlds(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng(seed)
        walls = rng.uniform(size=(count, 1, 8, 8, 1)) < 0.3
        grounds = np.where(walls, 60, 230).repeat(4, 2).repeat(4, 3)
        places = rng.uniform(4, 28, (count, 4, 2))
        rows = np.arange(32) + 0.5
        away = (rows[:, None] - places[..., 0, None, None]) ** 2
        away = away + (rows - places[..., 1, None, None]) ** 2
        ball = np.clip(3.5 - np.sqrt(away), 0, 1)[..., None]
        frames = (1 - ball) * grounds + ball * np.array([220, 40, 40])
        return torch.from_numpy(frames.astype(np.uint8)), torch.from_numpy(places).float()

    frames, _ = worlds(64, 0)
    path = tmp_path / "balls.h5"
    with EpisodeWriter(path, {}) as writer:
        for clip in frames:
            writer.add({"pixels": clip.numpy(), "action": np.zeros((3, 1), np.float32)})
    (fine,) = model_config(1).levels
    model = ModelConfig(
        (replace(fine, latent_dim=2, lift_width=16),),
        EncoderConfig("keypoints", grid=8),
        image_size=32,
        bank_size=16,
    )
    stage = StageConfig((), 120, 32, train_encoder=True, learning_rate=4e-3)
    train = replace(train_config(1), stages=(stage,), checkpoint_seconds=60.0)
    trained = Trainer(Episodes.open(path), model, train, tmp_path / "run").run(Progress(quiet=True))
    frames, places = worlds(64, 1)
    with torch.no_grad():
        z = trained.levels[0].lift.encoder(frames[:, 0])
    error = (z / HALF + 1) * 16 - places[:, 0]
    error = error - error.median(0).values  # which point of the ball it is, is not said
    assert error.norm(dim=1).quantile(0.9) < 0.5


@given(
    st.lists(st.integers(2, 9), min_size=1, max_size=6), st.integers(0, 99), st.sampled_from((1, 2))
)
def test_paired_windows_are_of_one_episode(lengths: list[int], seed: int, world: int) -> None:
    sizes = np.array(lengths)
    offsets = np.cumsum(sizes) - sizes
    sampler = WindowSampler.of(sizes, offsets, np.arange(len(sizes)), 1, paired=True)
    shares = [sampler.rows(16, seed, 3, rank, world) for rank in range(world)]
    owner = np.repeat(np.arange(len(sizes)), sizes)
    for share in shares:
        owners = owner[share]
        assert (owners == owners[:, :1]).all()
        assert (owners[::2] == owners[1::2]).all()
    assert np.array_equal(np.concatenate(shares), sampler.rows(16, seed, 3))
    with pytest.raises(EchelonError, match=r"batch_size of 15 .* in pairs"):
        sampler.rows(15, seed, 3)


@given(st.lists(st.integers(2, 9), min_size=1, max_size=6), st.integers(0, 99), st.integers(1, 4))
def test_paired_windows_are_at_most_so_far_apart(lengths: list[int], seed: int, apart: int) -> None:
    sizes = np.array(lengths)
    offsets = np.cumsum(sizes) - sizes
    everyone = np.arange(len(sizes))
    near = WindowSampler.of(sizes, offsets, everyone, 1, paired=True, apart=apart)
    first = near.rows(200, seed, 0)[:, 0]
    away = np.abs(first[1::2] - first[::2])
    assert away.max() == min(apart, sizes.max() - 2)  # the most that one episode holds
    owner = np.repeat(everyone, sizes)
    assert (owner[first[::2]] == owner[first[1::2]]).all()
    far = WindowSampler.of(sizes, offsets, everyone, 1, paired=True)
    assert np.array_equal(far.rows(200, seed, 0)[::2], near.rows(200, seed, 0)[::2])


def test_what_is_around_is_learned_from_images_where_the_encoder_is_frozen(tmp_path: Path) -> None:
    """From each window's first frame; the encoder stays as it was."""
    episodes = Episodes.open(write_episodes(tmp_path / "e.h5"))
    stage = replace(train_config(1).stages[0], levels=(0,), train_encoder=False)
    train = replace(train_config(1), stages=(stage,))
    trainer = Trainer(episodes, scene_config(), train, tmp_path / "run")
    batches, _ = trainer._batches(stage, 0)
    inputs, _ = batches(0)
    rows = batches.sampler.rows(batches.size, batches.seed, 0)
    assert np.array_equal(inputs["first"].numpy(), episodes.pixels[rows[:, 0]])
    lift = trainer.model.levels[0].lift
    before = {name: value.clone() for name, value in lift.state_dict().items()}
    lift = trainer.run(Progress(quiet=True)).levels[0].lift
    moved = {name for name, value in lift.state_dict().items() if not value.equal(before[name])}
    moved -= {"encoder.mean", "encoder.scale"}  # which fit_inputs measures
    assert {name.split(".")[0] for name in moved} == {"scene"}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"predictor": "local"}, "local needs a scene"),
        ({"predictor": "local", "ensemble": 2}, "ensemble: a local predictor"),
        ({"glimpse": 0}, "glimpse: 0 must be at least 1"),
        ({"spacing": 0.0}, "spacing: 0.0 must be above 0"),
    ],
)
def test_levels_that_cannot_look(options: dict[str, object], told: str) -> None:
    (fine,) = model_config(1).levels
    with pytest.raises(EchelonError, match=told):
        ModelConfig((replace(fine, **options),), image_size=16)


def test_keypoints_have_two_numbers_and_whole_cells() -> None:
    config = scene_config()
    with pytest.raises(EchelonError, match=r"latent_dim: 3 is odd"):
        replace(config, levels=(replace(config.levels[0], latent_dim=3),))
    with pytest.raises(EchelonError, match="5 cells do not divide an image of 16"):
        Hierarchy(replace(config, encoder=replace(config.encoder, grid=5)), 1)


def test_an_encoder_that_finds_nothing_by_itself_is_not_left_alone(tmp_path: Path) -> None:
    episodes = Episodes.open(write_episodes(tmp_path / "e.h5"))
    train = replace(train_config(1), stages=(StageConfig((), 2, 8, train_encoder=True),))
    with pytest.raises(EchelonError, match="nothing trains an encoder of patches by itself"):
        Trainer(episodes, model_config(1), train, tmp_path / "run")
    with pytest.raises(EchelonError, match="some levels, or the encoder"):
        StageConfig((), 2, 8)
    with pytest.raises(EchelonError, match="shifting and apart are at least 0"):
        EncoderConfig("keypoints", shifting=-1.0)
