"""What a model is known to be good for, and a warning where more is asked of it. Nothing is refused.

Two things are known: which latents it has seen, from its own buffers, and to how many steps each level
was measured to predict (`Hierarchy.good_for`). See :class:`echelon.types.EchelonWarning`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from echelon.config import PlannerConfig
from echelon.models.hierarchy import Hierarchy
from echelon.types import EchelonWarning

FAR = 2.0
"""times the usual distance to the nearest known latent, from which on a goal counts as far: frames of
episodes that were held out stay within it"""
USUAL = 0.99
"""share of the known latents whose nearest other one lies within the usual distance"""


def warn_of_horizons(model: Hierarchy, configs: Sequence[PlannerConfig]) -> None:
    """Warn of levels that look farther ahead than they were measured to predict; level 0 first."""
    for level, known in enumerate(model.good_for[: len(configs)]):
        horizon = configs[level].horizon
        if known is not None and horizon > known:
            warnings.warn(
                f"planner: level {level} looks {horizon} steps ahead, but was measured to "
                f"predict better than no change and the mean to {known} only; use a shorter horizon",
                EchelonWarning,
                stacklevel=3,  # who made the agent
            )


def warn_of_goals(model: Hierarchy, z: Tensor) -> None:
    """Warn of goals whose latents of level 0, ``z [B, D]``, lie far from all that are known."""
    known, usual = known_latents(model)
    if not usual > 0:  # nothing has been fitted yet
        return
    away = _nearest(z, known)
    far = int((away > FAR * usual).sum())
    if far:
        which = "the goal lies" if len(z) == 1 else f"{far} of {len(z)} goals lie"
        least = "" if far == 1 else "up to "
        warnings.warn(
            f"goal: {which} {least}{away.max():.3g} from the nearest latent known from training, where "
            f"{usual:.3g} is usual; a plan towards what was never seen may lead anywhere",
            EchelonWarning,
            stacklevel=4,  # who called reset, above PyTorch's no_grad
        )


def known_latents(model: Hierarchy) -> tuple[Tensor, float]:
    """``[N, D]`` of level 0, and how far apart neighbours among them usually are: of 99 in 100 states
    the nearest other one lies within.
    """
    asked = model.levels[0].neighbours[0]["z"]
    banks = [level.bank_below for level in model.levels if hasattr(level, "bank_below")]
    known = torch.cat([asked, *banks[:1]])  # levels below the first bank share level 0's latent
    return known, float(_nearest(asked, known, own=True).quantile(USUAL))


def _nearest(z: Tensor, known: Tensor, own: bool = False) -> Tensor:
    """``[B, D], [N, D] -> [B]`` root mean squared difference to the nearest; `own`: z are known too,
    the first of them, and another one is meant.
    """
    apart = torch.cdist(z, known) / z.shape[-1] ** 0.5
    if own:
        apart.fill_diagonal_(torch.inf)
    return apart.amin(-1)


@contextmanager
def unwarned() -> Generator[None]:
    """For measurements, which go beyond what a model is good for to see what happens."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EchelonWarning)
        yield


@contextmanager
def in_one_line() -> Generator[None]:
    """For a command line: warnings of ours without the line of code that gave them."""
    usual = warnings.showwarning

    def say(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, EchelonWarning):
            print(f"echelon: warning: {message}", file=sys.stderr)
        else:
            usual(message, category, *place, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("default", EchelonWarning)
        warnings.showwarning = say
        yield
