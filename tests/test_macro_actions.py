"""Macro-actions: segments of any length, and nothing beyond them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from echelon.models.macro_actions import ConcatenatedActions, SegmentMLP, SegmentTransformer

A, STRIDE, MACRO = 2, 4, 3


def encoder(noise: float = 0.0) -> SegmentTransformer:
    """In evaluation, with running statistics that are not those of a fresh one."""
    model = SegmentTransformer(STRIDE, A, MACRO, noise, width=16, heads=2).double()
    model(torch.randn(64, STRIDE, A).double())
    return model.eval()


def segments(*shape: int) -> Tensor:
    return torch.randn(*shape, A).double()


def test_concatenated_actions_are_the_segment() -> None:
    model = ConcatenatedActions(STRIDE, A)
    segment = segments(5, 6, STRIDE)
    assert model.macro_dim == STRIDE * A
    assert torch.equal(model(segment).reshape(segment.shape), segment)
    assert model(segment).shape == (5, 6, model.macro_dim)


@pytest.mark.parametrize("leading", [(), (3,), (2, 3)])
@pytest.mark.parametrize("longest", [1, 4, 7])
def test_segments_are_encoded_alone(leading: tuple[int, ...], longest: int) -> None:
    model = encoder()
    segment = segments(*leading, longest)
    lengths = torch.randint(1, longest + 1, leading)
    macro = model(segment, lengths)
    assert macro.shape == (*leading, MACRO + 1)
    assert torch.equal(macro[..., -1], lengths.double() / STRIDE)
    rows = zip(segment.reshape(-1, longest, A), lengths.reshape(-1).tolist(), strict=True)
    alone = torch.stack([model(row[:length]) for row, length in rows])
    assert torch.allclose(macro.reshape(-1, MACRO + 1), alone)


def test_no_lengths_are_full_lengths() -> None:
    model, segment = encoder(), segments(2, 3, STRIDE)
    full = torch.full((2, 3), STRIDE)
    assert torch.equal(model(segment), model(segment, full))
    assert (model(segment)[..., -1] == 1).all()


def test_padding_has_no_influence() -> None:
    model, segment = encoder(), segments(4, 6)
    lengths = torch.tensor([1, 2, 4, 5])
    other = segment.clone()
    for row, length in enumerate(lengths.tolist()):
        other[row, length:] = torch.nan
    macro = model(segment, lengths)
    assert torch.equal(macro, model(other, lengths))
    assert torch.allclose(macro, model(torch.cat([segment, segments(4, 9)], 1), lengths))
    model.train()
    assert torch.equal(model(segment, lengths), model(other, lengths))


def test_every_action_and_its_place_matter() -> None:
    model, segment = encoder(), segments(1, 4)
    macro = model(segment)
    for place in range(4):
        other = segment.clone()
        other[:, place] += 1
        assert (model(other) - macro).abs().max() > 1e-4
    assert (model(segment.flip(1)) - macro).abs().max() > 1e-4


def test_macro_actions_have_unit_variance_and_durations_stay() -> None:
    model = encoder(noise=0.0).train()
    lengths = torch.randint(1, 6, (50, 4))
    macro = model(segments(50, 4, 5) * 3 + 1, lengths)
    flat = macro[..., :-1].flatten(0, 1)
    assert torch.allclose(flat.mean(0), torch.zeros(MACRO).double(), atol=1e-6)
    assert torch.allclose(flat.var(0, correction=0), torch.ones(MACRO).double(), atol=1e-2)


def test_noise_is_on_the_macro_action_in_training_alone() -> None:
    model, segment = encoder(noise=0.5).train(), segments(400, 5)
    lengths = torch.randint(1, 6, (400,))
    one, two = model(segment, lengths), model(segment, lengths)
    assert torch.equal(one[:, -1], two[:, -1])
    difference = (one - two)[:, :-1]
    assert difference.std().item() == pytest.approx(0.5 * 2**0.5, rel=0.1)
    model.eval()
    assert torch.equal(model(segment, lengths), model(segment, lengths))


def test_gradients_reach_every_parameter() -> None:
    segment = segments(8, STRIDE)
    for model in (SegmentMLP(STRIDE, A, MACRO, 0.1), SegmentTransformer(STRIDE, A, MACRO, 0.1)):
        (model.double()(segment) ** 3).sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in model.parameters())
