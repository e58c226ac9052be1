"""The training objective: one loss for every level, on the window of that level.

    L = || g(z[t], a[t]) - sg f_bar(o[t+1]) ||^2 + || g_hi(z[t], w[t]) - sg f_bar(o[t+K]) ||^2 + R(Z)

with a prediction term and regularisers R a level; see :class:`echelon.config.LossConfig`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from echelon import losses
from echelon.config import LossConfig
from echelon.data.windows import coarsen
from echelon.distributed import gather
from echelon.models.hierarchy import Hierarchy, ImageLift, Level
from echelon.types import State, Window, tree_map


class Objective(nn.Module):
    """The hierarchy in training, with the EMA copies of its lifts that give the targets.

    A module, so that what wraps modules for distributed training sees one forward call.
    """

    def __init__(self, hierarchy: Hierarchy, ema: float) -> None:
        super().__init__()
        self.hierarchy = hierarchy
        self.targets = nn.ModuleList(copy.deepcopy(level.lift) for level in hierarchy.levels)
        self.targets.requires_grad_(False)
        self.ema = ema

    def forward(
        self, inputs: Tensor, actions: Tensor, trained: tuple[int, ...]
    ) -> dict[str, Tensor]:
        """All terms of the levels in `trained`, named ``level0/prediction`` and so on, weighted.

        inputs: [B, T + 2, H, W, 3] uint8 frames, which train the encoder, or [B, T + 2, D] latents
            of the encoder, which leave it as it is.
        actions: [B, T, A], leaving each frame but the first and the last.
        """
        terms: dict[str, Tensor] = {}
        for index, (window, target) in enumerate(self.windows(inputs, actions, max(trained))):
            if index in trained:
                level = self.hierarchy.levels[index]
                found = level_terms(level, window, target, level.config.loss)
                terms |= {f"level{index}/{name}": value for name, value in found.items()}
        return terms

    def windows(
        self, inputs: Tensor, actions: Tensor, highest: int
    ) -> Iterator[tuple[Window, State]]:
        """For levels 0 to `highest`, the window of each and its states by the EMA lift.

        No gradient flows from one level into the level below.
        """
        first = self.hierarchy.levels[0].lift
        online, slow = first, self.targets[0]
        if inputs.ndim == 3:
            assert isinstance(first, ImageLift)
            online = slow = first.states
        window = Window(online(inputs), actions)
        with torch.no_grad():
            target = slow(inputs)
        yield window, target
        for level, slow in zip(
            self.hierarchy.levels[1 : highest + 1], list(self.targets)[1:], strict=False
        ):
            below = tree_map(Tensor.detach, (window.states, window.actions))
            with torch.no_grad():
                target = coarsen(Window(target, actions), level.stride, slow, _no_action).states
            window = coarsen(Window(*below), level.stride, level.lift, level.encode_action)
            actions = window.actions
            yield window, target

    @torch.no_grad()
    def update_targets(self) -> None:
        """``target <- ema * target + (1 - ema) * online``, buffers copied."""
        for target, level in zip(self.targets, self.hierarchy.levels, strict=True):
            for slow, fast in zip(target.parameters(), level.lift.parameters(), strict=True):
                slow.lerp_(fast, 1 - self.ema)
            for slow, fast in zip(target.buffers(), level.lift.buffers(), strict=True):
                slow.copy_(fast)


def _no_action(segments: Tensor) -> Tensor:
    return segments[..., 0, :]


def level_terms(
    level: Level, window: Window, target: State, weights: LossConfig
) -> dict[str, Tensor]:
    """The weighted terms of one level; the same for every level.

    window: of this level, states [B, T + 1, D], actions [B, T, A]
    target: [B, T + 1, D] the same states by the EMA lift
    """
    states, actions = window.states, window.actions
    steps = min(level.config.rollout, actions.shape[1])
    state = tree_map(lambda x: x[:, 0], states)
    terms: dict[str, Tensor] = {}
    error = torch.zeros((), device=actions.device)
    for t in range(steps):
        state = level.predict(state, actions[:, t])
        error = error + sum(
            losses.prediction(state[key], target[key][:, t + 1], weights.norm)
            for key in ("z", "dz")
        )
    terms["prediction"] = weights.prediction * error / steps
    z = states["z"]
    if not z.requires_grad:
        return terms
    # Statistics of the whole batch, and never in half precision: they are differences of like numbers.
    flat = gather(z.flatten(0, -2))
    flat = flat.to(torch.promote_types(flat.dtype, torch.float32))
    for name, term in (
        ("variance", losses.variance_hinge),
        ("correlation", losses.correlation),
        ("log_determinant", losses.log_determinant),
        ("sigreg", losses.sigreg),
    ):
        if weight := getattr(weights, name):
            with torch.autocast(flat.device.type, enabled=False):
                terms[name] = weight * term(flat)
    if weights.smoothness:
        terms["smoothness"] = weights.smoothness * losses.smoothness(z)
    if weights.inverse_dynamics:
        both = torch.cat([states[k][:, t : t + steps] for t in (0, 1) for k in ("z", "dz")], -1)
        seen = (actions[:, :steps] - level.action_mean) / level.action_std
        terms["inverse_dynamics"] = weights.inverse_dynamics * losses.prediction(
            level.inverse(both), seen
        )
    return terms
