"""The terms of the objective: pure functions of tensors, each with its source.

Every term is a mean, so that its weight keeps its meaning when the batch grows.
"""

from __future__ import annotations

import torch
from torch import Tensor


def prediction(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean squared error to a target that takes no gradient; any equal shapes."""
    return (predicted - target.detach()).square().mean()


def variance_hinge(z: Tensor, floor: float = 1.0) -> Tensor:
    """VICReg's variance term (arXiv 2105.04906, eq. 1): ``mean(max(0, floor - std(z)))``, z [N, D]."""
    return torch.relu(floor - (z.var(0) + 1e-4).sqrt()).mean()


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
