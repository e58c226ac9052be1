"""The recursion: a hierarchy is a list of levels, and every level is the same thing.

A level sees the level below through two maps, `lift` for its states and `encode_action` for
segments of its actions, and predicts its own steps. Level 0 is no exception: what lies below it are
the environment's images and actions. Nothing here says how many levels there are, and nothing knows
of losses or of search.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from echelon.config import LandmarkConfig, LevelConfig, ModelConfig
from echelon.models.distances import head_for, root_mean_square
from echelon.models.foreign import ForeignEncoder, ForeignModel
from echelon.models.landmarks import LandmarkGraph, usable
from echelon.models.parts import encoder_of, macro_encoder_of, predictor_of
from echelon.models.paths import PathDistance
from echelon.models.predictors import WithMemory, mlp
from echelon.models.recall import Recall
from echelon.models.scene import Scene
from echelon.types import AROUND, ActionPrior, DistanceKind, EchelonError, tree_map

LatentState: TypeAlias = dict[str, Any]
"""``z [..., D]``, where things are, and ``dz [..., D]``, its scaled change since the frame before:
how they move. Goals are judged by ``z`` alone, so that one image is enough to say one. At level 0
there may be ``p [..., P]``, proprioception; ``scene [..., C, F, F]``, a map of what is around, and
``floor [..., F, F]``, of where things can be; and where a predictor keeps something, that: ``past``,
``doubt``; on somebody's own model, its state, any tree: ``foreign``. All but that are tensors."""

Observation: TypeAlias = Tensor | Mapping[str, Tensor]
"""Frames [..., T, H, W, 3] uint8; or a mapping of `pixels` (or of `latents` [..., T, D], where they
are known already, with the `first` frame [..., H, W, 3]) and `proprio` [..., T, P]."""


NEIGHBOURS = 256
"""known pairs of states one step apart that a level keeps"""


class ImageLift(nn.Module):
    """Level 0: what the environment shows to states."""

    proprio_mean: Tensor
    proprio_std: Tensor

    def __init__(
        self, model: ModelConfig, proprio_dim: int, foreign: ForeignModel | None = None
    ) -> None:
        super().__init__()
        self.encoder = encoder_of(model, foreign)
        self.scale = model.levels[0].difference_scale
        self.proprio_dim = proprio_dim
        keypoints = model.encoder.kind == "keypoints"
        self.scene = Scene(model.encoder.channels) if keypoints else None
        if proprio_dim:
            self.register_buffer("proprio_mean", torch.zeros(proprio_dim))
            self.register_buffer("proprio_std", torch.ones(proprio_dim))

    @property
    def context(self) -> int:
        """Frames that one state is made of."""
        return 1 + self.encoder.frames

    def forward(self, observation: Observation) -> LatentState:
        """``T + context - 1 frames (or T + 1 latents) -> states [..., T, D]``, and ``[..., 1, ...]`` of
        what is the same in a whole window.
        """
        seen = observation if isinstance(observation, Mapping) else {"pixels": observation}
        state = self.changing(seen)
        leading = state["z"].ndim - 1
        return state | {
            part: whole.unsqueeze(leading - 1) for part, whole in self._around(seen).items()
        }

    def changing(self, seen: Mapping[str, Tensor]) -> LatentState:
        """The states without what is the same in a whole window."""
        latents = seen["latents"] if "latents" in seen else self.encoder(seen["pixels"])
        now, before = latents[..., 1:, :], latents[..., :-1, :]
        state: LatentState = {"z": now, "dz": self.scale * (now - before)}
        if self.proprio_dim:
            state["p"] = now.new_zeros(*now.shape[:-1], self.proprio_dim)
            if "proprio" in seen:
                last = seen["proprio"][..., -now.shape[-2] :, :]
                state["p"] = (last - self.proprio_mean) / self.proprio_std
        return state

    def _around(self, seen: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What does not change in a window ``[..., ...]``, by its first frame."""
        first = seen["pixels"][..., 0, :, :, :] if "pixels" in seen else seen.get("first")
        if self.scene is None or first is None:
            return {}
        return dict(zip(AROUND, self.scene(first), strict=True))


class ForeignLift(ImageLift):
    """Level 0 on somebody's own model: its state stays beside what is read from it."""

    encoder: ForeignEncoder

    def forward(self, observation: Observation) -> LatentState:
        """As level 0 elsewhere. Latents that are known already come without the model's state."""
        pixels = observation if isinstance(observation, Tensor) else observation.get("pixels")
        if pixels is None:
            return super().forward(observation)
        states, leading = self.encoder.states(pixels), pixels.ndim - 3
        state = super().forward({"latents": self.encoder.features(states, leading)})
        state["foreign"] = tree_map(
            lambda x: x.narrow(leading - 1, 1, x.shape[leading - 1] - 1), states
        )
        return state


class LatentLift(nn.Module):
    """Level 1 and up: states of the level below to states here, in a latent space of their own."""

    def __init__(self, config: LevelConfig, below: LevelConfig) -> None:
        super().__init__()
        self.network = mlp(below.latent_dim, config.lift_width, 2, config.latent_dim)
        self.scale = config.difference_scale
        self.scale_below = below.difference_scale

    def forward(self, state: LatentState) -> LatentState:
        """``state below [..., D_below] -> state [..., D]``"""
        z = self.network(state["z"])
        before = self.network(state["z"] - state["dz"] / self.scale_below)
        return {"z": z, "dz": self.scale * (z - before)}

    def place(self, state: LatentState) -> LatentState:
        """Where a state is, without how it moves: half the work."""
        return {"z": self.network(state["z"])}


class SharedLift(nn.Module):
    """Level 1 and up: the latent of the level below as it is."""

    def forward(self, state: LatentState) -> LatentState:
        """``state below [..., D] -> state [..., D]``"""
        return {part: state[part] for part in ("z", "dz", "p", *AROUND) if part in state}

    def place(self, state: LatentState) -> LatentState:
        """Where a state is."""
        return {"z": state["z"]}


class Level(nn.Module):
    """One timescale: a predictor of its own steps, and its two maps from the level below."""

    action_mean: Tensor
    action_std: Tensor
    prior_mean: Tensor
    prior_std: Tensor
    prior_low: Tensor
    prior_high: Tensor
    prior_covariance: Tensor
    action_bank: Tensor
    before: Tensor
    after: Tensor
    bank: Tensor
    bank_below: Tensor

    def __init__(
        self,
        index: int,
        model: ModelConfig,
        action_below: int,
        proprio_dim: int = 0,
        foreign: ForeignModel | None = None,
    ) -> None:
        super().__init__()
        self.index, self.config = index, (config := model.levels[index])
        self.duration = model.durations[index]
        self.stride = config.stride
        self.parts: tuple[str, ...] = ("z", "dz")
        self.sizes = [config.latent_dim, config.latent_dim]
        if index == 0:
            kind = ImageLift if foreign is None else ForeignLift
            self.lift: nn.Module = kind(model, proprio_dim, foreign)
        elif config.latent == "own":
            self.lift = LatentLift(config, model.levels[index - 1])
        else:
            self.lift = SharedLift()
        if proprio_dim:
            self.parts, self.sizes = ("z", "dz", "p"), [*self.sizes, proprio_dim]
        self.cells = model.encoder.grid**2 if model.is_map(index) else 1
        self.encode_action, self.action_dim = macro_encoder_of(config, action_below)
        self.predictor = predictor_of(config, sum(self.sizes), self.action_dim, model)
        self.inverse: nn.Module = mlp(4 * config.latent_dim, 64, 1, self.action_dim)
        self.metric = head_for(config.distance, config.latent_dim)
        paths = config.distance.kind == "paths"
        self.paths = PathDistance(config.distance) if paths else None
        for name, value in (("action_mean", 0.0), ("action_std", 1.0), ("prior_mean", 0.0)):
            self.register_buffer(name, torch.full((self.action_dim,), value))
        for name, value in (("prior_std", 1.0), ("prior_low", -1.0), ("prior_high", 1.0)):
            self.register_buffer(name, torch.full((self.action_dim,), value))
        self.register_buffer("prior_covariance", torch.eye(self.action_dim))
        self.register_buffer("action_bank", torch.zeros(model.bank_size, self.action_dim))
        self.known: Recall | None = None
        if index == 0 and model.recall:
            things = model.encoder.things if model.faces else 0
            size = config.latent_dim
            self.known = Recall(model.recall, size, self.action_dim, things, proprio_dim)
        for name in ("before", "after"):
            self.register_buffer(name, torch.zeros(NEIGHBOURS, config.latent_dim))
        if index and config.latent == "own":
            below = model.levels[index - 1].latent_dim
            self.register_buffer("bank", torch.zeros(model.bank_size, config.latent_dim))
            self.register_buffer("bank_below", torch.zeros(model.bank_size, below))
        self.graph: LandmarkGraph | None = None
        self.set_landmarks(config.landmarks)

    def predict(self, state: LatentState, action: Tensor) -> LatentState:
        """``state [..., D], action [..., A] -> state [..., D]`` one step of this level later."""
        action = (action - self.action_mean) / self.action_std
        x = torch.cat([state[part] for part in self.parts], -1)
        remembered: LatentState = {}
        if isinstance(self.predictor, WithMemory):
            part = self.predictor.part
            x, remembered[part] = self.predictor(x, action, state.get(part))
        else:
            x = self.predictor(x, action)
        return dict(zip(self.parts, x.split(self.sizes, -1), strict=True)) | remembered

    def lower(self, state: LatentState) -> LatentState:
        """The place in the level below that stands for a state here.

        Where the latent is shared, that state; else the known one that lies nearest: a predicted
        subgoal may lie off the data, and what the level below is asked for never does.
        """
        if isinstance(self.lift, SharedLift):
            return {"z": state["z"]}
        z = state["z"]
        away = self.bank.square().sum(-1) - 2 * z @ self.bank.T  # and what is the same for all
        return {"z": self.bank_below[away.argmin(-1)]}

    def place(self, state: LatentState) -> LatentState:
        """``state below [..., D_below] -> z here [..., D]``: where it is, and not how it moves."""
        assert isinstance(self.lift, LatentLift | SharedLift)
        return self.lift.place(state)

    def recall(
        self, state: LatentState, goals: Sequence[LatentState], count: int, horizon: int
    ) -> Tensor:
        """``state [B, D], goals [B, D] each -> actions [B, goals, count, horizon, A]`` of level 0 that
        were done in such a state and led near each; see `Recall`. EchelonError where none are kept.
        """
        if self.known is None:
            raise EchelonError(
                "proposal: recall needs episodes that the model keeps; train with recall above 0"
            )
        return self.known(state, goals, count, horizon)

    @property
    def neighbours(self) -> tuple[LatentState, LatentState]:
        """``[N, D], [N, D]`` places seen in training, and where the same episode was a step later."""
        return {"z": self.before}, {"z": self.after}

    def distance(self, state: LatentState, goal: LatentState) -> Tensor:
        """``state [..., D], goal [..., D] -> [...]``, leading dimensions broadcast: time apart where
        this level has learned it, or the way there; else the root mean squared difference of latents.
        """
        if self.paths is not None:
            return self.paths(state["z"], goal["z"], goal.get("field"))
        if self.metric is not None:
            return self.metric(state["z"], goal["z"])
        return root_mean_square(state["z"], goal["z"])

    def measure(self, kind: DistanceKind) -> Callable[[LatentState, LatentState], Tensor]:
        """Another way to measure than :meth:`distance` (`level`), of the same shapes: the root mean
        squared difference of the latents, the learned time apart, or steps by the landmark graph.
        """
        if kind == "level":
            return self.distance
        if kind == "latent":
            return lambda state, goal: root_mean_square(state["z"], goal["z"])
        where = f"levels.{self.index}"
        if kind == "learned":
            if self.paths is not None:
                return self.distance
            if self.metric is None:
                raise EchelonError(
                    f"{where}: has not learned a distance; train it with {where}.distance.kind "
                    "quasimetric, expectile, contrastive or paths"
                )
            module: nn.Module = self.metric
        else:
            module = usable(self.graph, where)
        return lambda state, goal: module(state["z"], goal["z"])

    def aim(self, kind: DistanceKind, state: LatentState, here: LatentState) -> LatentState:
        """What of a state ``[B, ...]`` a goal is, to be measured by a kind of distance: its place, and
        the lengths of all ways there over the floor that is seen from `here`, where they count.
        """
        goal = {"z": state["z"]}
        if self.paths is not None and kind in ("level", "learned"):
            goal["field"] = self.paths.field(here["floor"], state["z"])
        return goal

    def set_landmarks(self, config: LandmarkConfig) -> None:
        """Have an empty landmark graph of this configuration, or none where it counts none."""
        self.config = replace(self.config, landmarks=config)
        self.graph = None
        if config.count:
            graph = LandmarkGraph(self.config.latent_dim, config, self.duration)
            self.graph = graph.to(self.action_mean.device)

    def channels(self, z: Tensor) -> Tensor:
        """``[..., D] -> [N, C]``: what regularisers see. A map gives one sample a cell."""
        if self.cells == 1:
            return z.flatten(0, -2)
        return z.unflatten(-1, (-1, self.cells)).transpose(-1, -2).flatten(0, -2)

    @property
    def prior(self) -> ActionPrior:
        """What this level's actions look like in the training data."""
        return ActionPrior(
            self.prior_mean,
            self.prior_std,
            self.prior_low,
            self.prior_high,
            self.prior_covariance,
            self.action_bank,
        )


class ForeignLevel(Level):
    """Level 0 on somebody's own model, which does its steps and is given actions as they are."""

    def __init__(self, model: ModelConfig, action_dim: int, foreign: ForeignModel) -> None:
        super().__init__(0, model, action_dim, foreign=foreign)
        self.predictor = self.inverse = nn.Identity()  # nothing here is trained

    def predict(self, state: LatentState, action: Tensor) -> LatentState:
        """``state [..., D], action [..., A] -> state [..., D]`` one step later, by the model's own."""
        assert isinstance(self.lift, ForeignLift)
        leading = action.shape[:-1]
        rows = tree_map(lambda x: x.flatten(0, len(leading) - 1), state["foreign"])
        after = self.lift.encoder.foreign.model.predict(rows, action.flatten(0, -2))
        z = self.lift.encoder.features(after).unflatten(0, leading)
        after = tree_map(lambda x: x.unflatten(0, leading), after)
        return {"z": z, "dz": self.lift.scale * (z - state["z"]), "foreign": after}


class Hierarchy(nn.Module):
    """Levels, the primitive one first. By itself it is the flat world model of its level 0."""

    def __init__(
        self,
        config: ModelConfig,
        action_dim: int,
        proprio_dim: int = 0,
        foreign: ForeignModel | None = None,
    ) -> None:
        """foreign: the model that level 0 stands for, where `config` says so."""
        super().__init__()
        self.config = config
        self.action_dim, self.proprio_dim = action_dim, proprio_dim
        self.good_for: tuple[int | None, ...] = ()
        """steps to which each level was measured to predict well, if it was; see `echelon.signals`"""
        levels: list[Level] = []
        if foreign is not None:
            levels.append(ForeignLevel(config, action_dim, foreign))
        for index in range(len(levels), len(config.levels)):
            action_below = levels[-1].action_dim if levels else action_dim
            senses = proprio_dim if foreign is None and config.shares(index) else 0
            levels.append(Level(index, config, action_below, senses))
        self._levels = nn.ModuleList(levels)

    @property
    def levels(self) -> Sequence[Level]:
        return [level for level in self._levels if isinstance(level, Level)]

    @property
    def context(self) -> int:
        """Frames of an observation: the last one, and those before it that a state needs."""
        return 1 + self.config.encoder.frames

    def encode(self, observation: Observation) -> LatentState:
        """``context`` frames ``[B, context, H, W, 3] uint8 -> state [B, D]``"""
        return tree_map(lambda x: x[:, 0], self.levels[0].lift(observation))

    def predict(self, state: LatentState, action: Tensor) -> LatentState:
        """One step of level 0."""
        return self.levels[0].predict(state, action)

    def lift(self, state: LatentState) -> list[LatentState]:
        """The same moment as each level sees it, level 0 first."""
        states = [state]
        for level in self.levels[1:]:
            states.append(level.lift(states[-1]))
        return states
