"""Things and what turns with them: known places and directions, one rule for all of them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import model_config, train_config

from echelon.config import EncoderConfig, ModelConfig, StageConfig, TrainConfig
from echelon.data.episodes import Episodes
from echelon.envs import pushing
from echelon.envs.push_t import random_state
from echelon.envs.pushing import PushTCollect
from echelon.envs.t_block import AGENT, BLOCK, SIDE, draw
from echelon.models.scene import HALF
from echelon.models.things import REACH, PairsPredictor, RelativePredictor, ThingsEncoder
from echelon.progress import Progress
from echelon.trainer import Trainer
from echelon.types import EchelonError

PX = SIDE / 2 / HALF
"""of the table, a latent unit"""


def images(count: int, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Push-T's table in states drawn at random, and those states."""
    rng = np.random.default_rng(seed)
    states = np.stack([random_state(rng) for _ in range(count)])
    return torch.from_numpy(draw(states, 64)), states


@pytest.fixture(scope="module")
def encoder() -> ThingsEncoder:
    fitted = ThingsEncoder(6, 64, things=2, colours=4)
    fitted.fit(images(200, 1)[0], images(200, 2)[0])
    return fitted


def test_places_and_directions_are_read_off_an_image(encoder: ThingsEncoder) -> None:
    frames, states = images(300)
    points = encoder(frames).reshape(-1, 3, 2).flip(-1).numpy() * PX + SIDE / 2  # x, y
    assert np.abs(points[:, 0] - states[:, :2]).mean() < 0.5  # of 512
    along = points[:, 2] - points[:, 1]
    angle = np.arctan2(along[:, 1], along[:, 0])
    stem = states[:, 4] + np.pi / 2  # of a block at angle 0 it points down
    off = np.abs((angle - stem + np.pi) % (2 * np.pi) - np.pi)
    assert np.quantile(off, 0.9) < np.pi / 60
    assert np.linalg.norm(along, axis=1).std() < 5
    # of bar and stem, 120 x 30 and 30 x 90: variances in each, and of their middles, by their areas
    spread = (3600 * (1275 + 25.7**2) + 2700 * (750 + 34.3**2)) / 6300
    assert np.linalg.norm(along, axis=1).mean() == pytest.approx(REACH * spread**0.5, rel=0.05)


def test_of_two_things_the_one_that_faces_somewhere_comes_last(encoder: ThingsEncoder) -> None:
    assert encoder.facing == 1
    red, blue = encoder.colours[encoder.moving] / encoder.scale + encoder.mean
    assert (red - torch.tensor(AGENT)).abs().amax() < 30  # few of its pixels are of one colour
    assert (blue - torch.tensor(BLOCK)).abs().amax() < 2


def test_an_image_without_a_thing_is_finite(encoder: ThingsEncoder) -> None:
    assert encoder(torch.full((2, 3, 64, 64, 3), 236, dtype=torch.uint8)).isfinite().all()


@given(angle=st.floats(-3.2, 3.2), down=st.floats(-2, 2), right=st.floats(-2, 2))
def test_dynamics_turn_and_move_with_what_they_are_seen_from(
    angle: float, down: float, right: float
) -> None:
    torch.manual_seed(0)
    predictor = RelativePredictor(6, 12, 2, 16, 1, things=2)
    with torch.no_grad():
        first = predictor.nonlinear[0]
        assert isinstance(first, torch.nn.Linear)
        seen = 2 * 6 - 2 + 2 * predictor.DIRECTIONS + 2 * 4 * len(predictor.waves)
        first.weight[:, seen:] = 0  # what hangs on where things are, or on actions as they are
        predictor.directions.weight.zero_()
    turn = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    x, still = torch.randn(5, 6, 2), torch.zeros(5, 2)
    by = torch.tensor([down, right])
    moved = torch.cat([x[:, :3] @ turn + by, x[:, 3:] @ turn], 1)
    found = predictor(x.flatten(1), still).unflatten(1, (6, 2))
    there = predictor(moved.flatten(1), still).unflatten(1, (6, 2))
    expected = torch.cat([found[:, :3] @ turn + by, found[:, 3:] @ turn], 1)
    torch.testing.assert_close(there, expected, atol=2e-3, rtol=0)


def test_pairs_are_seen_within_a_view_and_wherever_they_are() -> None:
    torch.manual_seed(0)
    predictor = PairsPredictor(12, 24, 5, 16, 1, views=2)
    z, motion, action = torch.randn(4, 2, 3, 2), torch.randn(4, 12), torch.randn(4, 5)
    first = predictor.nonlinear[0]
    assert isinstance(first, torch.nn.Linear)
    with torch.no_grad():
        first.weight[:, -12 - 12 - 5 : -12 - 5] = 0  # without where all are on the image
    shifted = z + torch.randn(4, 2, 1, 2)  # each view by itself

    def change(points: torch.Tensor) -> torch.Tensor:
        x = torch.cat([points.flatten(1), motion], 1)
        return predictor(x, action) - x

    torch.testing.assert_close(change(shifted), change(z), atol=1e-4, rtol=0)
    apart = z + torch.randn(4, 2, 3, 2)
    assert not torch.allclose(change(apart), change(z), atol=1e-2)


def things_config() -> ModelConfig:
    """Two levels that see Push-T's things."""
    fine, above = model_config(2).levels
    fine = replace(fine, latent_dim=6, predictor="relative")
    above = replace(above, latent_dim=6, latent="shared", predictor="relative")
    return ModelConfig((fine, above), EncoderConfig(kind="things"))


def test_a_hierarchy_of_things_trains(tmp_path: Path) -> None:
    pushing.collect(PushTCollect(episodes=6, steps=40), tmp_path / "push.h5", Progress(quiet=True))
    episodes = Episodes.open(tmp_path / "push.h5")
    stages = (
        StageConfig((0,), 30, 32, window=1, learning_rate=1e-2),
        StageConfig((0, 1), 10, 16),
    )
    train: TrainConfig = replace(train_config(2), stages=stages, held_out=0.2, ema=0.0)
    model = Trainer(episodes, things_config(), train, tmp_path / "run").run(Progress(quiet=True))
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert len(lines) > 1
    pixels = torch.from_numpy(episodes.pixels[None, :2])
    state = model.levels[0].lift(pixels)
    assert state["z"].shape == (1, 1, 6)
    assert state["z"].abs().amax() < HALF


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"latent_dim": 10}, "2 things have 4 numbers, and two more for each that faces"),
        ({"latent_dim": 4}, "levels.0.predictor: relative needs a thing to look from"),
    ],
)
def test_what_things_cannot_be(changes: dict[str, int], says: str) -> None:
    config = things_config()
    with pytest.raises(EchelonError, match=says):
        replace(config, levels=(replace(config.levels[0], **changes),))


def test_views_divide_the_image_and_face_nowhere_together() -> None:
    config = things_config()
    fine = replace(config.levels[0], latent_dim=12)
    views = EncoderConfig(kind="things", views=2)
    with pytest.raises(EchelonError, match="relative needs a thing to look from"):
        ModelConfig((fine,), views)
    pairs = replace(fine, predictor="pairs")
    assert not ModelConfig((pairs,), views).faces
    with pytest.raises(EchelonError, match="views: they must divide"):
        ModelConfig((replace(pairs, latent_dim=18),), replace(views, views=3))
    with pytest.raises(EchelonError, match="pairs needs a thing to look from"):
        ModelConfig((pairs,), EncoderConfig())


def test_fewer_things_than_colours() -> None:
    with pytest.raises(EchelonError, match="fewer than colours"):
        EncoderConfig(kind="things", things=4, colours=4)


def test_a_stage_may_cut_windows_short() -> None:
    config = things_config()
    whole, train = StageConfig((0,), 1, 1), TrainConfig()
    assert train.window(config, whole) == config.levels[0].rollout
    assert train.window(config, replace(whole, window=1)) == 1
    assert train.window(config, replace(whole, window=1000)) == config.levels[0].rollout
