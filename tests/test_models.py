"""The recursion, one level at a time, and what training sees of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import IMAGE_SIZE, model_config
from torch import Tensor, nn

from echelon import losses
from echelon.config import LossConfig
from echelon.models.encoders import PatchEncoder
from echelon.models.hierarchy import Hierarchy, ImageLift, LatentLift
from echelon.models.macro_actions import SegmentMLP
from echelon.models.predictors import ResidualMLP
from echelon.objective import Objective, level_terms
from echelon.types import Window

DIMENSIONS = (4, 3, 3)
ACTIONS = (1, 2, 2)


def frames(*shape: int) -> Tensor:
    return torch.randint(0, 256, (*shape, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=torch.uint8)


def objective(levels: int = 2, **weights: float) -> Objective:
    config = model_config(levels)
    if weights:
        changed = (replace(level, loss=LossConfig(**weights)) for level in config.levels)
        config = replace(config, levels=tuple(changed))
    return Objective(Hierarchy(config, 1), ema=0.9)


def lift_of(model: Hierarchy, index: int) -> LatentLift:
    lift = model.levels[index].lift
    assert isinstance(lift, LatentLift)
    return lift


def encoder_of(model: Hierarchy) -> PatchEncoder:
    lift = model.levels[0].lift
    assert isinstance(lift, ImageLift)
    assert isinstance(lift.encoder, PatchEncoder)
    return lift.encoder


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_shapes_and_durations(levels: int) -> None:
    config = model_config(levels)
    assert config.durations == (1, 4, 8)[:levels]
    model = Hierarchy(config, 1)
    state = model.encode(frames(5, 2))
    seen = model.lift(state)
    assert len(seen) == len(model.levels) == levels
    for level, here, size, actions in zip(model.levels, seen, DIMENSIONS, ACTIONS, strict=False):
        assert here["z"].shape == here["dz"].shape == (5, size)
        assert level.action_dim == actions
        after = level.predict(here, torch.randn(5, actions))
        assert after["z"].shape == after["dz"].shape == (5, size)
        prior = level.prior
        assert prior.mean.shape == prior.low.shape == (actions,)
    for below, level in zip(seen, model.levels[1:], strict=False):
        lowered = level.lower(level.lift(below))
        assert lowered["z"].shape == below["z"].shape
        segments = torch.randn(5, 6, level.stride, model.levels[0].action_dim)
        if level is model.levels[1]:
            assert level.encode_action(segments).shape == (5, 6, 2)
    assert torch.equal(
        model.predict(state, torch.ones(5, 1))["z"],
        model.levels[0].predict(state, torch.ones(5, 1))["z"],
    )


def test_level_0_sees_the_change_since_the_frame_before() -> None:
    model = Hierarchy(model_config(), 1)
    clip = frames(3, 5)
    latents = encoder_of(model)(clip)
    states = model.levels[0].lift(clip)
    assert torch.equal(states["z"], latents[:, 1:])
    assert torch.equal(states["dz"], 4.0 * (latents[:, 1:] - latents[:, :-1]))
    last = model.encode(clip[:, -2:])
    assert torch.allclose(last["z"], states["z"][:, -1], atol=1e-6)
    assert torch.allclose(last["dz"], states["dz"][:, -1], atol=1e-5)


def test_a_lift_sees_the_change_of_its_own_latent() -> None:
    """The state below says where it was a step before: what the lift makes of that is `before`."""
    config = model_config()
    scales = (replace(config.levels[0], difference_scale=8.0), config.levels[1])
    model = Hierarchy(replace(config, levels=scales), 1)
    latents = torch.randn(6, 4)
    below = model.levels[0].lift
    assert isinstance(below, ImageLift)
    states = below({"latents": latents})
    network = lift_of(model, 1).network
    now, before = network(latents[1:]), network(latents[:-1])
    lifted = model.lift(states)[1]
    assert torch.allclose(lifted["z"], now, atol=1e-6)
    assert torch.allclose(lifted["dz"], 4.0 * (now - before), atol=1e-5)
    assert lifted["dz"].abs().max() > 0.01
    assert torch.equal(lift_of(model, 1).place(states)["z"], lifted["z"])


def test_lower_gives_the_nearest_known_place() -> None:
    level = Hierarchy(model_config(), 1).levels[1]
    level.bank.copy_(torch.randn_like(level.bank))
    level.bank_below.copy_(torch.randn_like(level.bank_below))
    z = torch.randn(4, 5, 3)
    lowered = level.lower({"z": z, "dz": torch.randn(4, 5, 3)})
    assert set(lowered) == {"z"}
    for i in range(4):
        for j in range(5):
            nearest = min(range(64), key=lambda k: (level.bank[k] - z[i, j]).norm().item())
            assert torch.equal(lowered["z"][i, j], level.bank_below[nearest])
    known = level.lower({"z": level.bank[7:9], "dz": torch.zeros(2, 3)})
    assert torch.equal(known["z"], level.bank_below[7:9])


def test_frames_are_encoded_one_by_one() -> None:
    encoder = PatchEncoder(latent_dim=4, image_size=16, channels=8)
    clip = frames(3, 2)
    together = encoder(clip)
    assert together.shape == (3, 2, 4)
    for i in range(3):
        for j in range(2):
            assert torch.allclose(encoder(clip[i, j]), together[i, j], atol=1e-6)
    assert clip.dtype == torch.uint8


def test_images_are_normalised_by_the_encoders_statistics() -> None:
    encoder = PatchEncoder(latent_dim=4, image_size=16, channels=8)
    clip = frames(3)
    usual = encoder(clip)
    encoder.mean.fill_(0)
    encoder.scale.fill_(1 / 127.5)
    assert torch.allclose(encoder(clip - 127.5), usual, atol=1e-5)


def test_a_predictor_is_linear_in_what_it_carries() -> None:
    predictor = ResidualMLP(state_dim=3, action_dim=2, width=8, depth=1)
    for parameter in predictor.nonlinear.parameters():
        nn.init.zeros_(parameter)
    x, action = torch.randn(5, 3), torch.randn(5, 2)
    assert torch.equal(predictor(x, action), x)
    nn.init.ones_(predictor.linear.weight)
    expected = x + x.sum(-1, keepdim=True) + action.sum(-1, keepdim=True)
    assert torch.allclose(predictor(x, action), expected, atol=1e-5)


def test_actions_are_standardised_for_the_predictor() -> None:
    level = Hierarchy(model_config(), 1).levels[0]
    state = {"z": torch.randn(2, 4), "dz": torch.randn(2, 4)}
    usual = level.predict(state, torch.tensor([[1.0], [-2.0]]))["z"]
    level.action_mean.fill_(5)
    level.action_std.fill_(3)
    moved = level.predict(state, torch.tensor([[8.0], [-1.0]]))["z"]
    assert torch.allclose(moved, usual, atol=1e-6)


def test_macro_actions_have_unit_variance_in_training() -> None:
    encode = SegmentMLP(stride=4, action_dim=2, macro_dim=3, noise=0.0)
    macro = encode(100 * torch.randn(16, 8, 4, 2) + 3)
    flat = macro.flatten(0, 1)
    assert flat.mean(0).tolist() == pytest.approx([0, 0, 0], abs=1e-4)
    assert flat.var(0, correction=0).tolist() == pytest.approx([1, 1, 1], rel=1e-3)


def test_macro_actions_are_noisy_in_training_alone() -> None:
    segments = torch.randn(200, 5, 4, 2)
    quiet = SegmentMLP(stride=4, action_dim=2, macro_dim=3, noise=0.0)
    noisy = SegmentMLP(stride=4, action_dim=2, macro_dim=3, noise=0.5)
    noisy.load_state_dict(quiet.state_dict())
    difference = noisy(segments) - quiet(segments)
    assert difference.std().item() == pytest.approx(0.5, rel=0.1)
    noisy.load_state_dict(quiet.state_dict())
    noisy.eval()
    quiet.eval()
    before = {name: value.clone() for name, value in noisy.state_dict().items()}
    assert torch.equal(noisy(segments), noisy(segments))
    assert torch.equal(noisy(segments), quiet(segments))
    # A segment's macro-action does not hang on which others are asked for with it.
    assert torch.allclose(noisy(segments[:1])[0], noisy(segments)[0], atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in noisy.state_dict().items())


# ---------------------------------------------------------------------------- the objective


def test_targets_follow_by_the_formula() -> None:
    module = objective(3)
    slow = [value.clone() for value in module.targets.parameters()]
    with torch.no_grad():
        for parameter in module.hierarchy.parameters():
            parameter.add_(torch.randn_like(parameter))
        encoder_of(module.hierarchy).mean.fill_(3)
    fast = [p for level in module.hierarchy.levels for p in level.lift.parameters()]
    module.update_targets()
    for old, online, new in zip(slow, fast, module.targets.parameters(), strict=True):
        assert torch.allclose(new, 0.9 * old + 0.1 * online, atol=1e-6)
    copied = module.targets[0]
    assert isinstance(copied, ImageLift)
    assert (copied.encoder.mean == 3).all()


def test_targets_take_no_gradient() -> None:
    module = objective(2)
    terms = module({"pixels": frames(4, 11)}, torch.randn(4, 9, 1), (0, 1))
    torch.stack(list(terms.values())).sum().backward()
    assert not any(parameter.requires_grad for parameter in module.targets.parameters())
    assert all(parameter.grad is None for parameter in module.targets.parameters())


@pytest.mark.parametrize("index", [1, 2])
def test_a_level_sends_no_gradient_below(index: int) -> None:
    module = objective(3)
    terms = module({"pixels": frames(4, 19)}, torch.randn(4, 17, 1), (index,))
    assert terms
    assert all(name.startswith(f"level{index}/") for name in terms)
    torch.stack(list(terms.values())).sum().backward()
    for level in module.hierarchy.levels[:index]:
        assert all(parameter.grad is None for parameter in level.parameters())
    here = module.hierarchy.levels[index]
    assert all(parameter.grad is not None for parameter in here.lift.parameters())
    assert all(parameter.grad is not None for parameter in here.predictor.parameters())


def test_the_window_of_level_1_is_that_of_level_0_coarsened() -> None:
    module = objective(2).eval()
    with torch.no_grad():
        for parameter in module.targets.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model = module.hierarchy
    clip, actions = frames(2, 11), torch.randn(2, 9, 1)
    (first, _), (window, target) = module.windows({"pixels": clip}, actions, 1)
    latents = encoder_of(model)(clip)
    assert first.states["z"].shape == (2, 10, 4)
    assert torch.equal(first.actions, actions)
    # 9 steps hold two segments of 4; the first frame only gives the change of the second.
    network = lift_of(model, 1).network
    places = torch.tensor([1, 5, 9])
    z, before = network(latents[:, places]), network(latents[:, places - 1])
    assert torch.allclose(window.states["z"], z, atol=1e-6)
    assert torch.allclose(window.states["dz"], 4 * (z - before), atol=1e-5)
    encode = model.levels[1].encode_action
    macro = torch.stack([encode(actions[:, :4]), encode(actions[:, 4:8])], 1)
    assert torch.allclose(window.actions, macro, atol=1e-6)
    slow_encoder, slow = module.targets[0], module.targets[1]
    assert isinstance(slow_encoder, ImageLift)
    assert isinstance(slow, LatentLift)
    aim = slow.network(slow_encoder.encoder(clip)[:, places])
    assert torch.allclose(target["z"], aim, atol=1e-6)
    assert not torch.allclose(target["z"], window.states["z"], atol=1e-3)


def test_latents_do_instead_of_frames() -> None:
    """With a frozen encoder, level 0's target is the encoder itself, and not its EMA copy."""
    module = objective(2).eval()
    clip, actions = frames(2, 11), torch.randn(2, 9, 1)
    with torch.no_grad():
        for parameter in module.targets[0].parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    latents = encoder_of(module.hierarchy)(clip).detach()
    by_frames = list(module.windows({"pixels": clip}, actions, 1))
    by_latents = list(module.windows({"latents": latents}, actions, 1))
    for (one, _), (other, _) in zip(by_frames, by_latents, strict=True):
        assert torch.equal(one.states["z"], other.states["z"])
        assert torch.equal(one.actions, other.actions)
    assert not torch.equal(by_frames[0][1]["z"], by_frames[0][0].states["z"])
    assert torch.equal(by_latents[0][1]["z"], by_latents[0][0].states["z"])
    terms = module({"latents": latents}, actions, (0,))
    assert list(terms) == ["level0/prediction"]


def test_terms_are_the_weighted_losses() -> None:
    weights = {"prediction": 3.0, "variance": 5.0, "correlation": 7.0, "smoothness": 11.0}
    module = objective(1, **weights, inverse_dynamics=13.0)
    level = module.hierarchy.levels[0]
    z = torch.randn(6, 4, 4).requires_grad_()
    states = {"z": z, "dz": torch.randn(6, 4, 4)}
    target = {"z": torch.randn(6, 4, 4), "dz": torch.randn(6, 4, 4)}
    actions = torch.randn(6, 3, 1)
    terms = level_terms(level, Window(states, actions), target, level.config.loss)
    state, error = {key: value[:, 0] for key, value in states.items()}, 0.0
    for t in range(3):
        state = level.predict(state, actions[:, t])
        error += sum((state[k] - target[k][:, t + 1]).square().mean().item() for k in state)
    flat = z.reshape(24, 4)
    pairs = torch.cat([z[:, :-1], states["dz"][:, :-1], z[:, 1:], states["dz"][:, 1:]], -1)
    expected = {
        "prediction": 3 * error / 3,
        "variance": 5 * losses.variance_hinge(flat).item(),
        "correlation": 7 * losses.correlation(flat).item(),
        "smoothness": 11 * losses.smoothness(z).item(),
        "inverse_dynamics": 13 * (level.inverse(pairs) - actions).square().mean().item(),
    }
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(expected, 1e-4)
