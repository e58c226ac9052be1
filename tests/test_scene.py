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
from echelon.config import DistanceConfig, EncoderConfig, LossConfig, ModelConfig, StageConfig
from echelon.data.episodes import Episodes
from echelon.data.windows import WindowSampler
from echelon.models.hierarchy import Hierarchy
from echelon.models.scene import HALF, Glimpse, KeypointEncoder, LocalPredictor
from echelon.objective import Objective
from echelon.planning.planner import rollout
from echelon.progress import Progress
from echelon.statistics import still
from echelon.trainer import Trainer
from echelon.types import EchelonError, tree_stack

GRID = 16


def scene_config() -> ModelConfig:
    """One level of a keypoint and local dynamics, for the world of `tiny`."""
    (fine,) = model_config(1).levels
    level = replace(fine, latent_dim=2, predictor="local", glimpse=3)
    return ModelConfig((level,), EncoderConfig(kind="keypoints", grid=4, channels=2), image_size=16)


def test_a_keypoint_is_where_the_one_cell_is_that_stands_out() -> None:
    encoder = KeypointEncoder(1, 64, 4, GRID, 2)
    with torch.no_grad():
        for layer in (encoder.logits, encoder.offsets):
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
        encoder.logits.weight[0, 0] = 1
        bright = torch.zeros(3, 4, GRID, GRID)
        for image, (row, column) in enumerate([(0, 0), (3, 12), (15, 15)]):
            bright[image, 0, row, column] = 1
        encoder._features = lambda frames: bright  # pyright: ignore[reportAttributeAccessIssue]
        z = encoder(torch.zeros(3, 64, 64, 3, dtype=torch.uint8))
    centres = (torch.tensor([[0, 0], [3, 12], [15, 15]]) + 0.5) * 2 / GRID - 1
    assert torch.allclose(z, HALF * centres, atol=1e-5)


def test_a_glimpse_reads_the_map_where_it_looks() -> None:
    """A scene that holds its own row and column says, between its cells, where it was read."""
    centres = (torch.arange(GRID) + 0.5) * 2 / GRID - 1
    scene = torch.stack(torch.meshgrid(centres, centres, indexing="ij"))[None].expand(5, -1, -1, -1)
    places = torch.empty(5, 2, 2).uniform_(-0.6, 0.6, generator=torch.Generator().manual_seed(0))
    glimpse = Glimpse(3, 1.5, GRID)
    seen = glimpse(scene, HALF * places).unflatten(-1, (2, 9))
    expected = (places[:, :, None] + glimpse.around).transpose(-1, -2)
    assert torch.allclose(seen, expected, atol=1e-6)
    assert glimpse.around.abs().max() == pytest.approx(1.5 * 2 / GRID)


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
    assert torch.equal(state["scene"], model.levels[0].lift.encoder.scene(frames[:, 0]))
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


def test_spread_is_the_hinge_of_pairs() -> None:
    z = torch.tensor([[0.0, 0.0], [0.5, 3.0], [1.0, 0.0], [1.5, 3.0]])
    assert losses.spread(z).item() == pytest.approx((0.5**2 + 0) / 2, abs=1e-6)
    layouts = torch.randn(8, 2).repeat_interleave(2, 0)  # what only tells episodes apart
    assert losses.spread(layouts).item() == pytest.approx(1, abs=1e-3)


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


def test_frozen_stages_know_the_scene_of_each_episode(tmp_path: Path) -> None:
    episodes = Episodes.open(write_episodes(tmp_path / "e.h5"))
    trainer = Trainer(episodes, scene_config(), train_config(1), tmp_path / "run")
    stage = replace(train_config(1).stages[0], levels=(0,), train_encoder=False)
    batches, _ = trainer._batches(stage, 0)
    inputs, _ = batches(0)
    rows = batches.sampler.rows(batches.size, batches.seed, 0)
    first = episodes.offsets[np.searchsorted(episodes.offsets, rows[:, 0], side="right") - 1]
    encoder = trainer.model.levels[0].lift.encoder
    with torch.no_grad():
        expected = encoder.scene(torch.from_numpy(episodes.pixels[first]))
    assert torch.allclose(inputs["scene"], expected, atol=1e-6)
    assert still(Hierarchy(model_config(1), 1), episodes) == {}


def test_frozen_stages_go_on_learning_where_things_can_be(tmp_path: Path) -> None:
    """From each window's first frame; the encoder stays as it was."""
    episodes = Episodes.open(write_episodes(tmp_path / "e.h5"))
    config = scene_config()
    level = replace(config.levels[0], distance=DistanceConfig(kind="paths", resolution=8))
    config = replace(config, levels=(level,))
    stage = replace(train_config(1).stages[0], levels=(0,), train_encoder=False)
    train = replace(train_config(1), stages=(stage,))
    trainer = Trainer(episodes, config, train, tmp_path / "run")
    batches, _ = trainer._batches(stage, 0)
    inputs, _ = batches(0)
    rows = batches.sampler.rows(batches.size, batches.seed, 0)
    assert np.array_equal(inputs["first"].numpy(), episodes.pixels[rows[:, 0]])
    lift = trainer.model.levels[0].lift
    before = {name: value.clone() for name, value in lift.state_dict().items()}
    lift = trainer.run(Progress(quiet=True)).levels[0].lift
    moved = {name for name, value in lift.state_dict().items() if not value.equal(before[name])}
    assert {name.split(".")[0] for name in moved if "encoder.mean" not in name} >= {"floor"}
    assert not [
        name for name in moved if "encoder" in name and "mean" not in name and "scale" not in name
    ]


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


def test_predictions_come_to_count() -> None:
    """Their share rises to the whole, and nothing else is weighed by it."""
    stage = StageConfig((0,), 10, 4, rise=4)
    assert [stage.risen(step) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert replace(stage, rise=0).risen(0) == 1
    with pytest.raises(EchelonError, match="rise is a number of its 10 steps"):
        replace(stage, rise=11)
    torch.manual_seed(0)
    objective = Objective(Hierarchy(model_config(1), 1), ema=0.99)
    inputs = {"pixels": torch.randint(0, 256, (4, 6, 16, 16, 3), dtype=torch.uint8)}
    whole, half = (
        objective(inputs, torch.zeros(4, 4, 1), (0,), risen=share) for share in (1.0, 0.5)
    )
    for name, value in whole.items():
        share = 0.5 if name == "level0/prediction" else 1.0
        assert half[name].item() == pytest.approx(share * value.item())


def test_motion_weighs_how_latents_change() -> None:
    """The error of a prediction is that of places, and as much of that of changes."""
    torch.manual_seed(0)
    inputs = {"pixels": torch.randint(0, 256, (4, 6, 16, 16, 3), dtype=torch.uint8)}
    model = Hierarchy(model_config(1), 1)
    found: list[float] = []
    for motion in (0.0, 0.5, 1.0):
        level = model.levels[0]
        level.config = replace(level.config, loss=LossConfig(motion=motion))
        terms = Objective(model, ema=0.99)(inputs, torch.zeros(4, 4, 1), (0,))
        found.append(terms["level0/prediction"].item())
    assert 0 < found[0] < found[2]
    assert found[1] == pytest.approx((found[0] + found[2]) / 2)
