"""The training objective: one loss for every level, on the window of that level.

    L = || g(z[t], a[t]) - sg f_bar(o[t+1]) ||^2 + || g_hi(z[t], w[t]) - sg f_bar(o[t+K]) ||^2 + R(Z)

with a prediction term and regularisers R a level; see :class:`echelon.config.LossConfig`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from echelon import losses
from echelon.config import LossConfig, MaskedConfig, StageConfig
from echelon.data.windows import coarsen, spans
from echelon.distributed import gather
from echelon.models.hierarchy import Hierarchy, ImageLift, Level
from echelon.models.masked_video import MaskedVideo
from echelon.models.paths import floor_loss
from echelon.models.scene import HALF, KeypointEncoder, changes, shifted
from echelon.models.vit import TubeletEncoder
from echelon.temporal import distance_terms
from echelon.types import EchelonError, State, Window, tree_map


class Objective(nn.Module):
    """The hierarchy in training, with the EMA copies of its lifts that give the targets.

    A module, so that what wraps modules for distributed training sees one forward call.
    """

    def __init__(
        self, hierarchy: Hierarchy, ema: float, masked: MaskedConfig | None = None
    ) -> None:
        super().__init__()
        self.hierarchy = hierarchy
        self.targets = nn.ModuleList(copy.deepcopy(level.lift) for level in hierarchy.levels)
        self.targets.requires_grad_(False)
        self.ema = ema
        self.masked: MaskedVideo | None = None
        if masked is not None:
            self.masked = MaskedVideo(masked, tubelets(hierarchy.levels[0].lift))

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        actions: Tensor,
        levels: tuple[int, ...],
        gradient_below: bool = False,
        masked: bool = False,
    ) -> dict[str, Tensor]:
        """All terms of some levels, named ``level0/prediction`` and so on, weighted.

        inputs: `pixels` [B, T + context, H, W, 3] uint8 frames, which train the encoder, or `latents`
            [B, T + 2, D] of the encoder, which leave it as it is; and `proprio`, as long, if the
            model takes it.
        actions: [B, T, A], leaving each frame that has a state but the last.
        gradient_below, masked: see :class:`echelon.config.StageConfig`, which does not come whole: what
            wraps modules for other precisions refuses a frozen dataclass.
        """
        terms: dict[str, Tensor] = {}
        encoder = self._encoder
        if masked:
            terms |= self._masked_terms(inputs["pixels"])
        if isinstance(encoder, KeypointEncoder) and "pixels" in inputs:
            terms |= self._keypoint_terms(encoder, inputs["pixels"][:, 0])
        if not levels:
            return terms
        windows = self.windows(inputs, actions, max(levels), gradient_below)
        for index, (window, target) in enumerate(windows):
            if index in levels:
                level = self.hierarchy.levels[index]
                found = level_terms(level, window, target, level.config.loss)
                terms |= {f"level{index}/{name}": value for name, value in found.items()}
            if index == 0 and 0 in levels and self.hierarchy.config.knows_floor:
                terms["level0/floor"] = self._floor_term(window.states)
        return terms

    def _floor_term(self, states: State) -> Tensor:
        """Where keypoints can be in the first frames: by where the other window of a pair has them."""
        z = states["z"].detach()
        seen = z.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
        weights = [level.config.distance for level in self.hierarchy.levels]
        weight = max(config.weight for config in weights if config.kind == "paths")
        return weight * floor_loss(states["floor"][:, 0], z[:, 0], seen)

    def _keypoint_terms(self, encoder: KeypointEncoder, frames: Tensor) -> dict[str, Tensor]:
        """What finds keypoints, in frames ``[B, H, W, 3]`` of which two after each other are moments of
        one episode: they are where those differ, and go with an image that is shifted.
        """
        others = frames.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
        patch = frames.shape[1] // encoder.grid
        by = torch.randint(-patch, patch + 1, (len(frames), 2), device=frames.device)
        (here, attention), there = encoder.look(frames), encoder(shifted(frames, by))
        moved = (2 * HALF / frames.shape[1] * by).repeat(1, encoder.points)
        weights = self.hierarchy.config.encoder
        found = losses.on_what_changes(attention, changes(frames, others, encoder.grid))
        return {
            "encoder/changing": weights.changing * found,
            "encoder/shifting": weights.shifting * (there - here - moved).square().mean(),
        }

    @property
    def _encoder(self) -> nn.Module | None:
        lift = self.hierarchy.levels[0].lift
        return lift.encoder if isinstance(lift, ImageLift) else None

    @property
    def paired(self) -> bool:
        """Whether windows are taken in pairs of one episode."""
        return isinstance(self._encoder, KeypointEncoder)

    def _masked_terms(self, pixels: Tensor) -> dict[str, Tensor]:
        """Masked video on the first frames of each window."""
        assert self.masked is not None
        clips = pixels[:, : self.masked.config.frames]
        generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        encoder, target = tubelets(self.hierarchy.levels[0].lift), tubelets(self.targets[0])
        return self.masked(encoder, target, clips, generator)

    def windows(
        self,
        inputs: Mapping[str, Tensor],
        actions: Tensor,
        highest: int,
        gradient_below: bool = False,
    ) -> Iterator[tuple[Window, State]]:
        """For levels 0 to `highest`, the window of each and its states by the EMA lift.

        gradient_below: let gradient flow from a level into the level below it.
        """
        levels = self.hierarchy.levels
        window = Window(levels[0].lift(inputs), actions)
        with torch.no_grad():
            first = self.targets[0]
            assert isinstance(first, ImageLift)
            target = first.changing(inputs)
        yield window, target
        for index, level in enumerate(levels[1 : highest + 1], start=1):
            cut = self._boundaries(level, actions.shape[1])
            with torch.no_grad():
                slow = self.targets[index]
                target = coarsen(
                    Window(target, actions), level.stride, slow, _no_action, cut
                ).states
            if not gradient_below:
                window = Window(*tree_map(Tensor.detach, (window.states, window.actions)))
            window = coarsen(window, level.stride, level.lift, level.encode_action, cut)
            actions = window.actions
            yield window, target

    def _boundaries(self, level: Level, steps: int) -> list[int] | None:
        """Where one step of a level ends and the next begins, drawn anew in training."""
        if level.config.span is None or not level.training:
            return None
        rng = np.random.default_rng(int(torch.randint(2**31, ())))
        return spans(steps, steps // level.stride, *level.config.span, rng)

    def trained(self, stage: StageConfig) -> list[nn.Parameter]:
        """What a stage updates. A frozen encoder leaves level 0 its predictor, and what is around."""
        found: list[nn.Parameter] = []
        if stage.masked and self.masked is not None:
            found += self.masked.parameters()
            if 0 not in stage.levels:  # masked video does without the readout
                video = tubelets(self.hierarchy.levels[0].lift)
                for part in (video.embed, video.blocks, video.norm):
                    found += part.parameters()
        encoder = self._encoder
        if isinstance(encoder, KeypointEncoder) and stage.train_encoder and 0 not in stage.levels:
            found += encoder.parameters()
        for index in stage.levels:
            level = self.hierarchy.levels[index]
            if level.metric is not None:
                found += level.metric.parameters()
            lifted = index > 0 or stage.train_encoder
            found += [*level.predictor.parameters(), *level.encode_action.parameters()]
            if lifted:
                found += level.lift.parameters()
            elif isinstance(level.lift, ImageLift) and level.lift.scene is not None:
                found += level.lift.scene.parameters()
            own = level.config.latent == "own"
            if lifted and own and level.config.loss.inverse_dynamics:
                found += level.inverse.parameters()
        return found

    def reset_targets(self) -> None:
        """Make the targets what the lifts are now."""
        for target, level in zip(self.targets, self.hierarchy.levels, strict=True):
            target.load_state_dict(level.lift.state_dict())

    @torch.no_grad()
    def update_targets(self) -> None:
        """``target <- ema * target + (1 - ema) * online``, buffers copied."""
        for target, level in zip(self.targets, self.hierarchy.levels, strict=True):
            for slow, fast in zip(target.parameters(), level.lift.parameters(), strict=True):
                slow.lerp_(fast, 1 - self.ema)
            for slow, fast in zip(target.buffers(), level.lift.buffers(), strict=True):
                slow.copy_(fast)


def tubelets(lift: nn.Module) -> TubeletEncoder:
    """The encoder of level 0, where masked video can train it."""
    if not (isinstance(lift, ImageLift) and isinstance(lift.encoder, TubeletEncoder)):
        raise EchelonError(
            "stages: masked video hides tubelets, which this encoder does not have; set encoder.kind "
            "to vit"
        )
    return lift.encoder


def _no_action(segments: Tensor, lengths: Tensor | None = None) -> Tensor:
    return segments[..., 0, :]


def level_terms(
    level: Level, window: Window, target: State, weights: LossConfig
) -> dict[str, Tensor]:
    """The weighted terms of one level; the same for every level.

    window: of this level, states [B, T + 1, D], actions [B, T, A]
    target: [B, T + 1, D] the same states by the EMA lift
    """
    actions = window.actions
    steps = min(level.config.rollout, actions.shape[1])
    terms: dict[str, Tensor] = {}
    if weights.prediction:
        terms["prediction"] = weights.prediction * _error(level, window, target, steps)
    if weights.teacher_forced:
        forced = _error(level, window, target, steps, teacher_forced=True)
        terms["teacher_forced"] = weights.teacher_forced * forced
    z, learned = window.states["z"], level.config.distance
    if level.metric is not None:
        seen = z if learned.shape_latent else z.detach()
        terms |= distance_terms(level.metric, seen, learned)
    if not z.requires_grad or level.config.latent == "shared":
        return terms
    # Statistics of the whole batch, and never in half precision: they are differences of like numbers.
    flat = gather(level.channels(z))
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
        both = torch.cat(
            [window.states[k][:, t : t + steps] for t in (0, 1) for k in ("z", "dz")], -1
        )
        seen = (actions[:, :steps] - level.action_mean) / level.action_std
        terms["inverse_dynamics"] = weights.inverse_dynamics * losses.prediction(
            level.inverse(both), seen
        )
    return terms


def _error(
    level: Level, window: Window, target: State, steps: int, teacher_forced: bool = False
) -> Tensor:
    """Mean error of `steps` predictions, each from the one before or from the true state."""
    state = tree_map(lambda x: x[:, 0], window.states)
    error = torch.zeros((), device=window.actions.device)
    for t in range(steps):
        state = level.predict(state, window.actions[:, t])
        error = error + sum(
            losses.prediction(state[part], target[part][:, t + 1], level.config.loss.norm)
            for part in level.parts
        )
        if teacher_forced:  # what the predictor remembers goes on
            state = state | {part: window.states[part][:, t + 1] for part in level.parts}
    return error / steps
