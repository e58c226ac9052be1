"""Predictors and the spatial encoder: shapes, memory, locality."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from echelon.models import linear
from echelon.models.encoders import PatchEncoder
from echelon.models.linear import Linear
from echelon.models.predictors import ResidualMLP
from echelon.models.spatial import ConvEncoder, ConvPredictor
from echelon.models.transformer import CausalTransformer
from echelon.planning.ledger import flop_counter
from echelon.types import EchelonError

S, A = 6, 2


def shaken(module: nn.Module) -> nn.Module:
    """Away from a start where gates and linear paths are closed."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module.double()


def transformer(history: int, depth: int = 2) -> CausalTransformer:
    model = shaken(CausalTransformer(S, A, width=8, depth=depth, heads=2, history=history))
    assert isinstance(model, CausalTransformer)
    return model


def conv(grid: int = 2, parts: int = 2, latent_dim: int = 12, depth: int = 2) -> ConvPredictor:
    model = shaken(ConvPredictor(latent_dim, grid, A, width=5, depth=depth, parts=parts))
    assert isinstance(model, ConvPredictor)
    return model


def sequence(*shape: int) -> tuple[Tensor, Tensor]:
    return torch.randn(*shape, S).double(), torch.randn(*shape, A).double()


def steps(
    model: CausalTransformer, states: Tensor, actions: Tensor, past: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Teacher-forced, one step after the other: ``[B, T, S], [B, T, A] -> [B, T, S], past``."""
    past = model.empty(states[:, 0]) if past is None else past
    out: list[Tensor] = []
    for t in range(states.shape[1]):
        after, past = model(states[:, t], actions[:, t], past)
        out.append(after)
    return torch.stack(out, 1), past


@pytest.mark.parametrize("leading", [(), (3,), (2, 3), (2, 1, 3)])
def test_rows_are_predicted_alone(leading: tuple[int, ...]) -> None:
    for model in (ResidualMLP(24, A, 8, 2).double(), conv(latent_dim=12)):
        x, action = torch.randn(*leading, 24).double(), torch.randn(*leading, A).double()
        together = model(x, action)
        assert together.shape == x.shape
        alone = [model(a, b) for a, b in zip(x.reshape(-1, 24), action.reshape(-1, A), strict=True)]
        assert torch.allclose(together.reshape(-1, 24), torch.stack(alone))


@pytest.mark.parametrize("history", [1, 2, 4])
@pytest.mark.parametrize("leading", [(), (3,), (2, 3)])
def test_rows_are_remembered_alone(leading: tuple[int, ...], history: int) -> None:
    model = transformer(history)
    x, action = sequence(*leading)
    past = model.empty(x)
    assert past.shape == (*leading, history - 1, S + A + 1)
    for _ in range(3):
        after, grown = model(x, action, past)
        assert after.shape == x.shape
        assert grown.shape == past.shape
        pasts = past.reshape(x.numel() // S, history - 1, S + A + 1)
        rows = zip(x.reshape(-1, S), action.reshape(-1, A), pasts, strict=True)
        alone = torch.stack([model(*row)[0] for row in rows])
        assert torch.allclose(after.reshape(-1, S), alone)
        x, past = after, grown


def test_the_past_grows_and_then_slides() -> None:
    model = transformer(3)
    states, actions = sequence(2, 5)
    whole = torch.cat([states, actions, torch.ones(2, 5, 1)], -1)
    past = model.empty(states[:, 0])
    assert not past.any()
    for t in range(5):
        _, past = model(states[:, t], actions[:, t], past)
        remembered = min(t + 1, 2)
        assert torch.equal(past[:, -remembered:], whole[:, t + 1 - remembered : t + 1])
        assert not past[:, :-remembered].any()


@pytest.mark.parametrize("depth", [1, 3])
def test_step_by_step_is_one_causal_pass(depth: int) -> None:
    """With a memory that holds all, both see the same; rotary positions are relative."""
    model = transformer(6, depth)
    states, actions = sequence(2, 6)
    tokens = model.attend(states, actions, torch.ones(2, 6, dtype=torch.bool))
    expected = states + model.linear(torch.cat([states, actions], -1)) + model.head(tokens)
    stepwise, _ = steps(model, states, actions)
    assert torch.allclose(stepwise, expected)


def test_what_is_older_than_the_history_is_forgotten() -> None:
    model = transformer(3)
    states, actions = sequence(2, 6)
    other = states.clone()
    other[:, 1] += 1
    one, _ = steps(model, states, actions)
    two, _ = steps(model, other, actions)
    changed = (one != two).any(-1).any(0)
    assert changed.tolist() == [False, True, True, True, False, False]
    fresh, _ = steps(model, states[:, 2:5], actions[:, 2:5])
    assert torch.allclose(fresh[:, -1], one[:, 4])


def test_the_order_of_the_past_matters() -> None:
    model = transformer(3)
    states, actions = sequence(2, 3)
    one, _ = steps(model, states, actions)
    order = [1, 0, 2]
    two, _ = steps(model, states[:, order], actions[:, order])
    assert (one[:, -1] - two[:, -1]).abs().max() > 1e-4


def test_what_is_not_remembered_has_no_influence() -> None:
    model = transformer(4)
    (x, action), (states, actions) = sequence(3), sequence(3, 3)
    known = torch.tensor([[0, 0, 0], [0, 0, 1], [1, 1, 1]]).double()[..., None]
    past = torch.cat([states, actions, known], -1)
    blank = past * known
    assert torch.allclose(model(x, action, past)[0], model(x, action, blank)[0])
    junk = torch.cat([states + 1, actions - 1, known], -1)
    moved = (model(x, action, junk)[0] - model(x, action, past)[0]).abs().amax(-1)
    assert moved[0] < 1e-12
    assert moved[1] > 1e-4
    assert moved[2] > 1e-4


def test_a_memory_of_one_step_is_none() -> None:
    model = transformer(1)
    states, actions = sequence(2, 3)
    after, past = steps(model, states, actions)
    assert past.shape == (2, 0, S + A + 1)
    tokens = model.attend(states[:, 2:], actions[:, 2:], torch.ones(2, 1, dtype=torch.bool))
    both = torch.cat([states[:, 2], actions[:, 2]], -1)
    expected = states[:, 2] + model.linear(both) + model.head(tokens[:, 0])
    assert torch.allclose(after[:, 2], expected)


def test_gradients_reach_every_parameter_and_the_past() -> None:
    x, action = torch.randn(4, 24).double(), torch.randn(4, A).double()
    for model in (ResidualMLP(24, A, 8, 2).double(), conv()):
        model(x, action).square().sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    model = transformer(3)
    states, actions = sequence(2, 3)
    states.requires_grad_()
    after, _ = steps(model, states, actions)
    after[:, -1].square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    assert states.grad is not None
    assert states.grad.any(-1).all()


def test_a_new_transformer_changes_the_state_whatever_the_action() -> None:
    """AdaLN-zero: the action's gates are closed at the start, and learning opens them."""
    model = CausalTransformer(S, A, width=8, depth=1, heads=2, history=2)
    x, past = torch.randn(5, S), torch.zeros(5, 1, S + A + 1)
    one, _ = model(x, torch.zeros(5, A), past)
    two, _ = model(x, torch.ones(5, A), past)
    assert torch.equal(one, two)
    parameters = list(model.parameters())
    for _ in range(2):
        loss = (model(x, torch.ones(5, A), past)[0] - x).square().mean()
        for parameter, slope in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.data -= 0.1 * slope
    one, _ = model(x, torch.zeros(5, A), past)
    assert not torch.equal(one, model(x, torch.ones(5, A), past)[0])


def test_maps_are_predicted_by_one_local_rule() -> None:
    """Away from the border, a shifted map has a shifted future."""
    grid, depth = 11, 2
    model = conv(grid, parts=2, latent_dim=3 * grid**2, depth=depth)
    maps, action = torch.randn(2, 6, grid, grid).double(), torch.randn(2, A).double()
    one = model(maps.flatten(1), action).reshape(maps.shape)
    two = model(maps.roll((1, 2), (2, 3)).flatten(1), action).reshape(maps.shape)
    reach = depth + 1  # of as many 3 x 3 convolutions
    inside = slice(reach + 2, grid - reach)
    same = one.roll((1, 2), (2, 3))
    assert torch.allclose(two[..., inside, inside], same[..., inside, inside])
    assert not torch.allclose(two, same)


def test_parts_of_a_state_are_maps_of_one_place() -> None:
    """What happens in a cell of either part is felt around that cell alone, in both."""
    grid, parts, depth = 7, 2, 1
    model = conv(grid, parts, latent_dim=2 * grid**2, depth=depth)
    x, action = torch.randn(parts * 2 * grid**2).double(), torch.randn(A).double()
    for channel in range(4):
        other = x.clone()
        other.view(4, grid, grid)[channel, 3, 2] += 1
        moved = (model(other, action) != model(x, action)).view(4, grid, grid)
        expected = torch.zeros(grid, grid, dtype=torch.bool)
        expected[1:6, 0:5] = True
        assert torch.equal(moved.any(0), expected)
        assert moved[:2].any()
        assert moved[2:].any()


def test_an_action_acts_everywhere_alike() -> None:
    grid = 7
    model = conv(grid, 1, latent_dim=grid**2, depth=1)
    x = torch.full((grid**2,), 0.3).double()
    change = model(x, torch.ones(A).double()) - model(x, torch.zeros(A).double())
    inside = change.view(grid, grid)[2:-2, 2:-2]
    assert inside.abs().max() > 1e-4
    assert torch.allclose(inside, inside[0, 0].expand_as(inside))


@pytest.mark.parametrize(("size", "grid"), [(64, 8), (64, 4), (64, 1), (16, 4), (24, 3)])
@pytest.mark.parametrize("leading", [(), (2, 3)])
def test_images_become_maps(size: int, grid: int, leading: tuple[int, ...]) -> None:
    encoder = ConvEncoder(2 * grid**2, size, 4, grid)
    frames = torch.randint(0, 256, (*leading, size, size, 3), dtype=torch.uint8)
    latent = encoder(frames)
    assert latent.shape == (*leading, 2 * grid**2)
    buffers = dict(PatchEncoder(4, 64, 4).named_buffers())
    assert dict(encoder.named_buffers()).keys() == buffers.keys()
    encoder.mean.fill_(0)
    encoder.scale.fill_(2)
    pixels = 2 * frames.reshape(-1, size, size, 3).permute(0, 3, 1, 2).float()
    expected = encoder.network(pixels).flatten(1)
    assert torch.allclose(encoder(frames).reshape(expected.shape), expected, atol=1e-4)


def test_a_pixel_is_seen_near_its_place() -> None:
    encoder = ConvEncoder(3 * 16, 64, 8, grid=4)
    frames = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8)
    other = frames.clone()
    other[20, 50] = 255 - other[20, 50]  # patch (2, 6), in cell (1, 3)
    moved = (encoder(other) != encoder(frames)).view(3, 4, 4).any(0)
    far = torch.ones(4, 4, dtype=torch.bool)
    far[0:2, 2:4] = False
    assert moved[1, 3]
    assert not (moved & far).any()


def test_gradients_reach_every_parameter_of_the_encoder() -> None:
    encoder = ConvEncoder(8, 16, 4, grid=2)
    encoder(torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in encoder.parameters())


def test_sizes_that_do_not_fit() -> None:
    with pytest.raises(EchelonError, match=r"latent_dim 10.*multiple of grid\^2 = 4"):
        ConvPredictor(10, 2, A, 4, 1)
    with pytest.raises(EchelonError, match="latent_dim 10"):
        ConvEncoder(10, 16, 4, 2)
    for size, grid in ((64, 3), (60, 4), (4, 8)):
        with pytest.raises(EchelonError, match=f"grid {grid} does not fit.*{size} pixels"):
            ConvEncoder(grid**2, size, 4, grid)
    with pytest.raises(EchelonError, match=r"width 10: must be a multiple of heads \(4\)"):
        CausalTransformer(S, A, 10, 1, 4, 2)
    with pytest.raises(EchelonError, match="history 0"):
        CausalTransformer(S, A, 8, 1, 2, 0)


@pytest.mark.parametrize("shape", [(200, 8), (3, 70, 8), (2, 8), (8,)])
@pytest.mark.parametrize("slow", [False, True])
def test_a_linear_layer_is_as_pytorchs_whoever_multiplies(
    shape: tuple[int, ...], slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "_slow", lambda: slow)
    ours = Linear(8, 5)
    x, g = torch.randn(shape, requires_grad=True), torch.randn(*shape[:-1], 5)
    wanted = nn.functional.linear(x, ours.weight, ours.bias)
    with flop_counter() as counter:
        found = ours(x)
    assert counter.get_total_flops() == 2 * x[..., 0].numel() * 8 * 5
    torch.testing.assert_close(found, wanted)
    of = (x, ours.weight, ours.bias)
    grads = torch.autograd.grad(found, of, g)
    torch.testing.assert_close(grads, torch.autograd.grad(wanted, of, g), rtol=1e-4, atol=1e-5)
    assert all(grad.layout == torch.strided for grad in grads)


def test_what_onednn_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.dtype] = []
    to_mkldnn = Tensor.to_mkldnn

    def noted(x: Tensor) -> Tensor:
        asked.append(x.dtype)
        return to_mkldnn(x)

    monkeypatch.setattr(Tensor, "to_mkldnn", noted)
    monkeypatch.setattr(linear, "_slow", lambda: True)
    layer, x = Linear(8, 5), torch.randn(linear.FEWEST, 8)
    layer(x[1:])
    with torch.autocast("cpu"):
        layer(x)
    layer.double()(x.double())
    layer.float()
    with monkeypatch.context() as patch:
        patch.setattr(linear, "_slow", lambda: False)
        layer(x)
    assert not asked
    layer(x)
    assert asked == [torch.float32]
