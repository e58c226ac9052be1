"""The terms of the objective: pure functions of tensors, each with its source.

Every term is a mean, so that its weight keeps its meaning when the batch grows. Where several
processes share a batch, those of ``z [N, D]`` want the rows of all of them
(:func:`echelon.distributed.gather`).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def prediction(predicted: Tensor, target: Tensor, norm: Literal["l2", "l1"] = "l2") -> Tensor:
    """Mean square (l2) or mean absolute value (l1) of the error; any equal shapes.

    The target takes no gradient.
    """
    error = predicted - target.detach()
    return error.square().mean() if norm == "l2" else error.abs().mean()


def variance_hinge(z: Tensor, floor: float = 1.0) -> Tensor:
    """VICReg's variance term (arXiv 2105.04906, eq. 1): ``mean(max(0, floor - std(z)))``, z [N, D]."""
    return torch.relu(floor - (z.var(0) + 1e-4).sqrt()).mean()


def on_what_changes(attention: Tensor, changes: Tensor) -> Tensor:
    """Minus the log of the attention that lies on what changes: attention [B, N, C], of which each of N
    sums to 1, changes [B, C] from 0 to 1; the mean over images, where nothing does 0.

    Of several, each is to have what those before it leave.
    """
    moving = (changes.amax(1) > 0).float()
    left, total = changes, attention.new_zeros(())
    for each in attention.unbind(1):
        found = -((each * left).sum(1) + 1e-3).log()
        total = total + (found * moving).mean()
        left = left * (1 - each / each.amax(1, keepdim=True)).detach()
    return total / attention.shape[1]


def correlation(z: Tensor) -> Tensor:
    """Mean squared correlation between latents, z [N, D]; 0 for one latent.

    VICReg's covariance term (arXiv 2105.04906, eq. 4) on standardised latents: the same where the
    hinge holds their deviation at 1, and still felt where smoothness has made a latent small.
    """
    if z.shape[1] == 1:
        return z.new_zeros(())
    z = (z - z.mean(0)) / (z.var(0) + 1e-6).sqrt()
    matrix = z.T @ z / (len(z) - 1)
    return (matrix.square().sum() - matrix.diagonal().square().sum()) / z.shape[1]


def log_determinant(z: Tensor) -> Tensor:
    """Minus the mean log eigenvalue of the covariance of z [N, D]: entropy, were it Gaussian.

    The information measure of CorInfoMax (arXiv 2209.07999, eq. 3). It takes the place of variance
    and correlation terms. Together with smoothness it makes each latent's variance the inverse of
    how fast it changes, the scaling of a commute-time embedding: distance grows with the time that
    wandering from one state to the other takes.
    """
    z = z - z.mean(0)
    covariance = z.T @ z / (len(z) - 1)
    return -torch.logdet(covariance + 1e-6 * torch.eye(z.shape[1], device=z.device)) / z.shape[1]


def sigreg(z: Tensor, projections: int = 64, generator: torch.Generator | None = None) -> Tensor:
    """SIGReg (LeJEPA, arXiv 2511.08544): how far z [N, D], N > 1, is from a standard Gaussian.

    The mean over random unit directions of the Epps-Pulley distance of the projected latents,

        integral of |phi(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt

    with phi their empirical characteristic function, by the trapezoid rule on 17 points from -4 to
    4. It is 0 for a Gaussian and 0.41 where all latents are 0.

    Two deviations from the paper, so that the value does not hang on the batch size: it is not
    multiplied by N (a published weight, times its batch size, is the weight here), and no latent is
    paired with itself in ``|phi|^2``, which would add a bias of order 1 / N. A Gaussian batch may
    thus have a value a little below 0.

    Cost: a cosine and a sine of [N, projections, 8], the integrand being even and 0 at t = 0; about
    7 ms a thousand latents on one CPU core, forward and backward.
    generator: of the directions, on the device of z; None is PyTorch's own, which gives all processes
        the same directions where they have the same seed.
    """
    directions = torch.randn(
        z.shape[1], projections, generator=generator, device=z.device, dtype=z.dtype
    )
    t = torch.arange(1, 9, device=z.device, dtype=z.dtype) / 2
    gaussian = torch.exp(-t.square() / 2)
    weight = gaussian.clone()  # the spacing, twice: for t and -t
    weight[-1] /= 2
    angle = (z @ (directions / directions.norm(dim=0)))[..., None] * t
    real, imaginary, n = angle.cos().mean(0), angle.sin().mean(0), len(z)
    square = (n * (real.square() + imaginary.square()) - 1) / (n - 1)
    distance = square - 2 * real * gaussian + gaussian.square()
    return (distance @ weight).mean()


def smoothness(z: Tensor) -> Tensor:
    """Mean squared change from one step to the next, z [B, T, D]; 0 for a constant sequence."""
    return (z[:, 1:] - z[:, :-1]).square().mean()


def effective_rank(z: Tensor) -> Tensor:
    """exp of the entropy of the normalised singular values (Roy and Vetterli 2007), z [N, D].

    Between 1 (all on a line, or collapsed) and D (a round cloud).
    """
    values = torch.linalg.svdvals((z - z.mean(0)).float())
    p = values / values.sum().clamp_min(1e-12)
    return torch.exp(-(p * p.clamp_min(1e-12).log()).sum())
