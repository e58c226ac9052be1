"""Somebody's own world model as the eyes and the dynamics of level 0: used, never trained.

Nothing here knows what the model is made of. It is called by its two methods, and its states are kept
as they are: any tree of tensors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from echelon.types import EchelonError, State, WorldModel, tree_map

CHUNK = 1024
"""clips encoded at once"""


class ForeignModel:
    """A world model and how to read its states.

    Not a module, so that its weights are nobody's parameters here: they are neither trained, nor
    copied with what refers to them, nor saved. A model that is a module is frozen: put into
    evaluation mode, its parameters requiring no gradient.
    """

    def __init__(
        self,
        model: WorldModel,
        features: Callable[[State], Tensor] | None = None,
        frames: int = 1,
    ) -> None:
        """features: ``state [B, ...] -> [B, ...]``, in which distance means something; by default a
            state that is a tensor itself, its `z`, or its first tensor.
        frames: that one observation of the model is made of: ``encode`` is given clips
            ``[B, frames, H, W, 3] uint8``.
        """
        for method in ("encode", "predict"):
            if not callable(getattr(model, method, None)):
                raise EchelonError(
                    f"on_top_of: {type(model).__name__} has no method {method}; a model needs "
                    "encode(observation) and predict(state, action)"
                )
        if frames < 1:
            raise EchelonError("on_top_of: frames, that an observation is made of, is at least 1")
        self.model, self.frames = model, frames
        self._features = features or first_tensor
        if isinstance(model, nn.Module):
            model.eval().requires_grad_(False)

    def __deepcopy__(self, memo: dict[int, Any]) -> ForeignModel:
        return self

    @property
    def identity(self) -> dict[str, str]:
        """Name of its class, and a checksum of its weights where it is a module."""
        digest = hashlib.sha256()
        if isinstance(self.model, nn.Module):
            for name, value in self.model.state_dict().items():
                whole = value.detach().cpu().contiguous().reshape(-1)
                digest.update(name.encode() + whole.view(torch.uint8).numpy().tobytes())
        return {"name": type(self.model).__name__, "sha256": digest.hexdigest()}

    @torch.no_grad()
    def encode(self, clips: Tensor) -> State:
        """``clips [B, frames, H, W, 3] uint8 -> state [B, ...]``"""
        parts = [self.model.encode(chunk) for chunk in clips.split(CHUNK)]
        return parts[0] if len(parts) == 1 else tree_map(lambda *x: torch.cat(x), *parts)

    def features(self, state: State) -> Tensor:
        """``state [B, ...] -> [B, D]``"""
        return self._features(state).flatten(1).float()

    def clips(self, size: int) -> Tensor:
        """Two black clips ``[2, frames, size, size, 3]`` to try the model on, where its weights lie."""
        clips = torch.zeros(2, self.frames, size, size, 3, dtype=torch.uint8)
        if isinstance(self.model, nn.Module):
            clips = clips.to(next(self.model.parameters(), clips).device)
        return clips

    def size(self, clips: Tensor) -> int:
        """Numbers D in the features of ``clips [B, frames, H, W, 3]``; an EchelonError where what
        the model gives is no tree of tensors with a row a clip.
        """
        state = self._tried("encode", lambda: self.encode(clips), clips.shape)
        return self._checked("encode", state, len(clips))

    def check(self, clips: Tensor, actions: Tensor) -> int:
        """As `size`, and that a step of ``actions [B, A]`` gives states and features of one kind."""
        size = self.size(clips)
        state = self.encode(clips)
        with torch.no_grad():
            after = self._tried(
                "predict", lambda: self.model.predict(state, actions), actions.shape
            )
        stepped = self._checked("predict", after, len(clips))
        if stepped != size:
            raise EchelonError(
                f"on_top_of: {size} features after encode, but {stepped} after predict; both must "
                "give the same kind of state"
            )
        for method, seen in (("encode", state), ("predict", after)):
            if not self.features(seen).isfinite().all():
                raise EchelonError(f"on_top_of: {method} gives features that are not finite")
        return size

    def _tried(self, method: str, call: Callable[[], State], shape: torch.Size) -> State:
        try:
            return call()
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            given = "clips" if method == "encode" else "actions"
            told = str(error).strip().partition("\n")[0]
            raise EchelonError(
                f"on_top_of: {method} cannot take {given} {[*shape]} of these episodes ({told}); wrap "
                "the model in one that can"
            ) from error

    def _checked(self, method: str, state: State, batch: int) -> int:
        leaves: list[Any] = []
        tree_map(leaves.append, state)
        if not all(isinstance(x, Tensor) and x.shape[:1] == (batch,) for x in leaves):
            raise EchelonError(
                f"on_top_of: {method} must give a tensor, or a dict, tuple or list of tensors, with "
                f"a row for each of {batch} observations"
            )
        features: Any = self._features(state)
        if not isinstance(features, Tensor) or features.ndim < 2 or len(features) != batch:
            found = [*features.shape] if isinstance(features, Tensor) else type(features).__name__
            raise EchelonError(
                f"on_top_of: features after {method} are {found}, not [{batch}, D]; give a function "
                "features(state) that returns a row of numbers for each state"
            )
        return features.flatten(1).shape[1]


def first_tensor(state: State) -> Tensor:
    """The state itself, what it calls `z`, or the first tensor in it."""
    if isinstance(state, dict):
        known = cast(dict[Any, State], state)
        return first_tensor(known["z"] if "z" in known else next(iter(known.values())))
    if isinstance(state, (tuple, list)):
        return first_tensor(cast(list[State], state)[0])
    return state


class ForeignEncoder(nn.Module):
    """Frames to the standardised features of a foreign model, and to its states.

    Features are centred, and divided by one number: their distances stay the model's own, but for
    the unit.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, foreign: ForeignModel, size: int) -> None:
        super().__init__()
        self.foreign, self.frames = foreign, foreign.frames
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(()))

    def states(self, frames: Tensor) -> State:
        """``[..., T + frames - 1, H, W, 3] uint8 -> states [..., T, ...]``"""
        clips = frames.unfold(-4, self.frames, 1).movedim(-1, -4)  # [..., T, frames, H, W, 3]
        leading = clips.shape[:-4]
        states = self.foreign.encode(clips.flatten(0, -5))
        return tree_map(lambda x: x.unflatten(0, leading), states)

    def features(self, states: State, leading: int = 1) -> Tensor:
        """``states [..., ...] -> [..., D]``, where `leading` dimensions are those of a batch."""
        flat = tree_map(lambda x: x.flatten(0, leading - 1), states) if leading > 1 else states
        shapes: list[torch.Size] = []
        tree_map(lambda x: shapes.append(x.shape[:leading]), states)
        features = (self.foreign.features(flat) - self.mean) * self.scale
        return features.unflatten(0, shapes[0])

    def forward(self, frames: Tensor) -> Tensor:
        """``[..., T + frames - 1, H, W, 3] uint8 -> latents [..., T, D]``; all must be finite."""
        latents = self.features(self.states(frames), frames.ndim - 3)
        if not latents.isfinite().all():
            raise EchelonError("on_top_of: encode gives features that are not finite")
        return latents

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ForeignEncoder:
        """Moved to a device with all the rest, although it is no part of the rest."""
        if isinstance(self.foreign.model, nn.Module):
            self.foreign.model._apply(fn)  # pyright: ignore[reportPrivateUsage]
        return super()._apply(fn, recurse)
