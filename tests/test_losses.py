"""Every loss where its value is known by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from echelon import losses


def signs(dimensions: int) -> Tensor:
    """Every combination of 1 and -1: zero mean, and columns that are exactly uncorrelated."""
    return torch.tensor(list(itertools.product((-1.0, 1.0), repeat=dimensions)))


def test_prediction_is_a_mean_of_squares() -> None:
    a, b = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 4.0]])
    assert losses.prediction(a, b).item() == pytest.approx((4 + 9) / 4)


def test_prediction_by_absolute_value() -> None:
    a, b = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [6.0, 4.0]])
    assert losses.prediction(a, b, "l2").item() == losses.prediction(a, b).item()
    assert losses.prediction(a, b, "l1").item() == pytest.approx((2 + 3) / 4)
    b.requires_grad_()
    assert not losses.prediction(a, b, "l1").requires_grad


def test_prediction_sends_no_gradient_to_the_target() -> None:
    predicted, target = torch.ones(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    losses.prediction(predicted, target).backward()
    assert target.grad is None
    assert predicted.grad is not None
    assert predicted.grad.tolist() == [0.5] * 4


@pytest.mark.parametrize(
    ("deviations", "floor", "expected"),
    [((0.5, 0.5), 1, 0.5), ((0.25, 2.0), 1, 0.375), ((1.5, 3.0), 1, 0), ((1.0, 2.0), 4, 2.5)],
)
def test_variance_hinge(deviations: tuple[float, float], floor: float, expected: float) -> None:
    z = signs(2).repeat(50, 1) + 7
    z = (z - z.mean(0)) / z.std(0) * torch.tensor(deviations)
    assert losses.variance_hinge(z, floor).item() == pytest.approx(expected, abs=1e-3)


def test_variance_hinge_pushes_a_collapsed_latent_apart() -> None:
    z = (1e-3 * signs(2)).requires_grad_()
    loss = losses.variance_hinge(z)
    assert loss.item() == pytest.approx(0.99, abs=1e-3)
    loss.backward()
    assert z.grad is not None
    assert (z.grad.sign() == -signs(2)).all()
    constant = torch.zeros(5, 2, requires_grad=True)
    losses.variance_hinge(constant).backward()
    assert constant.grad is not None
    assert constant.grad.isfinite().all()


def test_correlation_of_independent_columns_is_0() -> None:
    assert losses.correlation(3 * signs(4) + 2).item() == pytest.approx(0, abs=1e-6)
    assert losses.correlation(torch.randn(9, 1)).item() == 0


@pytest.mark.parametrize("columns", [2, 3, 5])
@pytest.mark.parametrize("scale", [0.1, 1.0, -10.0])
def test_correlation_of_the_same_column(columns: int, scale: float) -> None:
    """All D (D - 1) correlations off the diagonal are 1 or -1, over D latents."""
    z = torch.randn(50, 1).expand(-1, columns).clone()
    z[:, 0] *= scale
    assert losses.correlation(z).item() == pytest.approx(columns - 1, rel=1e-3)


def test_correlation_is_that_of_numpy() -> None:
    z = torch.randn(100, 3) @ torch.randn(3, 3)
    matrix = np.corrcoef(z.numpy().T)
    expected = (matrix**2).sum() - 3
    assert losses.correlation(z).item() == pytest.approx(expected / 3, rel=1e-4)


# ------------------------------------------------------------------------------------ SIGReg

ROOT = math.sqrt(2 * math.pi)


def sigreg_of_gaussian(deviation: float) -> float:
    """Its value for infinitely many of N(0, deviation^2): three Gaussian integrals."""
    square = deviation**2
    return ROOT * (1 / math.sqrt(2 * square + 1) - 2 / math.sqrt(square + 2) + 1 / math.sqrt(3))


# Of a fair coin, whose characteristic function is cos t: integrals of cos^2 t exp(-t^2 / 2), of
# cos t exp(-t^2) and of exp(-3 t^2 / 2).
COIN = ROOT * ((1 + math.exp(-2)) / 2 - 2 * math.exp(-1 / 4) / math.sqrt(2) + 1 / math.sqrt(3))


def mean_sigreg(draw: Callable[[int], Tensor], size: int, total: int) -> float:
    """Over batches of `size`, `total` latents in all."""
    values = [losses.sigreg(draw(size), 16).item() for _ in range(total // size)]
    return sum(values) / len(values)


def coins(size: int) -> Tensor:
    return torch.randint(0, 2, (size, 1)) * 2.0 - 1


def test_sigreg_of_a_gaussian_is_near_0() -> None:
    assert losses.sigreg(torch.randn(4000, 8)).item() == pytest.approx(0, abs=2e-3)
    assert mean_sigreg(lambda n: torch.randn(n, 4), 8, 32_000) == pytest.approx(0, abs=4e-3)


@pytest.mark.parametrize("size", [2, 100])
@pytest.mark.parametrize("dimensions", [1, 5])
def test_sigreg_of_a_collapsed_latent(size: int, dimensions: int) -> None:
    z = torch.zeros(size, dimensions)
    assert losses.sigreg(z).item() == pytest.approx(sigreg_of_gaussian(0), rel=2e-3)
    assert sigreg_of_gaussian(0) == pytest.approx(0.409, abs=1e-3)


@pytest.mark.parametrize("deviation", [0.3, 0.7, 2.0])
def test_sigreg_of_another_gaussian(deviation: float) -> None:
    """The same in every direction, so that the random ones do not matter."""
    found = losses.sigreg(deviation * torch.randn(40_000, 3)).item()
    assert found == pytest.approx(sigreg_of_gaussian(deviation), rel=0.04)


def test_sigreg_of_a_uniform_distribution() -> None:
    """Of unit variance, against its integral summed finely."""
    t = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    distance = torch.sinc(math.sqrt(3) / math.pi * t) - torch.exp(-t.square() / 2)
    expected = torch.trapezoid(distance.square() * torch.exp(-t.square() / 2), t).item()
    z = math.sqrt(3) * torch.linspace(-1, 1, 100_001)[:, None]
    assert losses.sigreg(z, 1).item() == pytest.approx(expected, rel=0.01)


def test_sigreg_keeps_its_value_when_the_batch_doubles() -> None:
    """Batches so small that the bias of the published form would be a third of the value, and then
    a sixth.
    """
    values = [mean_sigreg(coins, size, 60_000) for size in (32, 64)]
    assert values == pytest.approx([COIN] * 2, rel=0.03)


def test_sigreg_sees_what_variance_and_correlation_do_not() -> None:
    """A ring has the covariance of a Gaussian; its characteristic function is another."""
    angle = torch.linspace(0, 2 * math.pi, 2001)[:-1]
    ring = math.sqrt(2) * torch.stack([angle.cos(), angle.sin()], -1)
    assert losses.variance_hinge(ring).item() < 1e-3
    assert losses.correlation(ring).item() < 1e-3
    t = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    distance = torch.special.bessel_j0(math.sqrt(2) * t) - torch.exp(-t.square() / 2)
    expected = torch.trapezoid(distance.square() * torch.exp(-t.square() / 2), t).item()
    assert expected > 0.01
    assert losses.sigreg(ring).item() == pytest.approx(expected, rel=0.04)


def test_sigreg_pushes_towards_the_gaussian() -> None:
    """Outwards where the cloud is small, inwards where it is wide, back where it is off centre."""
    cloud = torch.randn(2000, 3)
    size, shift = torch.ones(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    for scale, sign in ((0.2, -1), (3.0, 1)):
        (gradient,) = torch.autograd.grad(losses.sigreg(scale * size * cloud), size)
        assert (gradient * sign > 0.01).all()
    (gradient,) = torch.autograd.grad(losses.sigreg(cloud + 1 + shift), shift)
    assert (gradient > 0.05).all()
    z = torch.zeros(4, 2, requires_grad=True)
    losses.sigreg(z).backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()


def test_sigreg_descends_to_a_gaussian() -> None:
    """Latents that are free to move: 128 of them, from a corner to unit variance, uncorrelated."""
    z = (0.1 * torch.randn(128, 2) + 0.5).requires_grad_()
    for _ in range(100):
        (gradient,) = torch.autograd.grad(losses.sigreg(z, 8), z)
        z = (z - 128 * gradient).detach().requires_grad_()
    covariance = torch.cov(z.detach().T)
    assert z.detach().mean(0).abs().max() < 0.1
    assert torch.allclose(covariance, torch.eye(2), atol=0.2)


def test_sigreg_draws_its_directions_from_the_generator() -> None:
    z = torch.randn(50, 3) * torch.tensor([0.1, 1.0, 2.0])
    values = [losses.sigreg(z, 2, torch.Generator().manual_seed(seed)).item() for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


def test_smoothness_of_a_ramp() -> None:
    slope = torch.tensor([1.0, -3.0])
    ramp = torch.arange(6.0)[None, :, None] * slope
    assert losses.smoothness(ramp.expand(4, -1, -1)).item() == pytest.approx((1 + 9) / 2)
    assert losses.smoothness(torch.ones(2, 5, 3)).item() == 0
    # Sequences are never compared with one another.
    assert losses.smoothness(torch.arange(3.0)[:, None, None].expand(3, 4, 2)).item() == 0


def test_effective_rank() -> None:
    line = torch.linspace(-1, 1, 20)[:, None] * torch.tensor([1.0, 2.0, -3.0])
    assert losses.effective_rank(line + 5).item() == pytest.approx(1, abs=1e-3)
    assert losses.effective_rank(signs(4) * 0.01 - 2).item() == pytest.approx(4, rel=1e-5)
    # Singular values 2 : 1 : 1, so an entropy of (1/2) log 2 + 2 (1/4) log 4.
    uneven = signs(3) * torch.tensor([2.0, 1.0, 1.0])
    expected = math.exp(0.5 * math.log(2) + 0.5 * math.log(4))
    assert losses.effective_rank(uneven).item() == pytest.approx(expected, rel=1e-5)


def test_effective_rank_of_a_collapsed_latent() -> None:
    assert losses.effective_rank(torch.ones(10, 3)).item() == pytest.approx(1)
    assert losses.effective_rank(torch.randn(200, 3).half()).item() > 2.5


def test_means_do_not_grow_with_the_batch() -> None:
    z = torch.randn(8, 6, 3)
    twice = torch.cat([z, z])
    assert losses.smoothness(twice).item() == pytest.approx(losses.smoothness(z).item())
    assert losses.prediction(twice, twice + 1).item() == pytest.approx(1)
    flat = z.flatten(0, 1)
    one, two = losses.correlation(flat), losses.correlation(twice.flatten(0, 1))
    assert two.item() == pytest.approx(one.item(), rel=1e-3)


def test_log_determinant_of_a_known_covariance() -> None:
    z = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]) * torch.tensor(
        [1.0, 3.0]
    )
    # Variances 4/3 and 12, uncorrelated.
    expected = -(math.log(4 / 3) + math.log(12)) / 2
    assert losses.log_determinant(z).item() == pytest.approx(expected, abs=1e-5)
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    assert losses.log_determinant(z @ turn).item() == pytest.approx(expected, abs=1e-5)
    assert losses.log_determinant(z + 7).item() == pytest.approx(expected, abs=1e-4)


def test_smooth_latents_grow_where_entropy_is_asked_for() -> None:
    """At the optimum a latent's variance is the inverse of how fast it changes."""
    x = torch.randn(64, 50, 2).cumsum(1) * torch.tensor([0.1, 1.0])
    x[..., 1] = torch.randn(64, 50)
    flat = x.flatten(0, 1)
    centred = flat - flat.mean(0)
    whiten = torch.linalg.cholesky(torch.linalg.inv(centred.T @ centred / (len(flat) - 1)))
    x = (x - flat.mean(0)) @ whiten
    change = (x[:, 1:] - x[:, :-1]).square().mean((0, 1))
    assert change[1] > 5 * change[0]
    weight = 4.0
    size = (1 / (weight * change).sqrt()).requires_grad_()
    z = x * size
    loss = weight * losses.smoothness(z) + losses.log_determinant(z.flatten(0, 1))
    (gradient,) = torch.autograd.grad(loss, size)
    assert gradient.abs().max() < 1e-3
