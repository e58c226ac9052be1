"""The types that cross the seams of Echelon.

Two worlds meet here. A *world model* is differentiable and knows nothing of search; a *search*
sees only ``objective(actions) -> cost`` and knows nothing of networks. One function,
:func:`echelon.planning.planner.rollout`, touches both.

Shapes, everywhere in the project:

====  =============================================
B     batch, or environments planned for at once
K     candidates of a search
T, H  time: steps of a window, steps of a horizon
D     size of a latent
A     size of an action (at whatever level)
====  =============================================

A step is always a step *of its own level*; a ``stride`` counts steps of the level below; a
``duration`` counts environment steps (the product of the strides).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

State: TypeAlias = Any
"""Any tree (tensor, dict, tuple or list) of tensors that share their leading batch dimensions. A
model's history, pose or context lives inside it; nothing but the model looks there."""

Objective: TypeAlias = Callable[[Tensor], Tensor]
"""``actions [B, K, H, A] -> cost [B, K]``; all that a search sees of a model."""


class EchelonError(Exception):
    """A user's mistake, told in one line that says how to mend it. The command line exits with 2."""


def tree_map(function: Callable[..., Any], *trees: State) -> Any:
    """Apply `function` to the tensors that stand at the same place of every tree."""
    first = trees[0]
    if isinstance(first, Mapping):
        return {key: tree_map(function, *(tree[key] for tree in trees)) for key in first}
    if isinstance(first, (tuple, list)):
        return type(first)(tree_map(function, *branch) for branch in zip(*trees, strict=True))
    return function(*trees)


def tree_stack(trees: Sequence[State], dim: int) -> State:
    """Stack equal trees along a new dimension."""
    return tree_map(lambda *leaves: torch.stack(leaves, dim), *trees)


@dataclass(frozen=True)
class Window:
    """A stretch of experience as one level sees it: ``states[:, t]`` then ``actions[:, t]``."""

    states: State
    """[B, T + 1, ...] observations (below level 0) or the states of a level"""
    actions: Tensor
    """[B, T, A]"""


@dataclass(frozen=True)
class ActionPrior:
    """What a level's actions look like in the data: where a search samples, and where it stops."""

    mean: Tensor
    """[A]"""
    std: Tensor
    """[A]"""
    low: Tensor
    """[A] hard lower bound of a search"""
    high: Tensor
    """[A] hard upper bound of a search"""

    def to(self, device: torch.device) -> ActionPrior:
        return ActionPrior(*(getattr(self, f).to(device) for f in self.__dataclass_fields__))


@dataclass(frozen=True)
class Spent:
    """What planning took, for one environment."""

    calls: int = 0
    """predictor calls: transitions of one state by one step, at any level"""
    macs: int = 0
    """multiply-accumulates of encoders, lifts and predictors"""

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.calls + other.calls, self.macs + other.macs)


@dataclass(frozen=True)
class Plan:
    """What one level intends, and beneath it how the level below means to begin."""

    actions: Tensor
    """[B, H, A] in the actions of this level"""
    states: State
    """[B, H, ...] predicted after each action; the first one is the subgoal handed down"""
    cost: Tensor
    """[B] of the plan, as this level's cost measures it"""
    goals: tuple[State, ...]
    """[B, ...] what this level was asked to reach, as levels 0 to this one see it"""
    time: int
    """environment step at which it was made"""
    spent: Spent
    """to make it and those below it, in the call that returned it; nothing where it was kept"""
    below: Plan | None = None
    """the plan of the level below towards this plan's subgoal"""

    @property
    def lowest(self) -> Plan:
        """The plan of level 0, whose actions are executed."""
        return self if self.below is None else self.below.lowest

    def select(self, index: Tensor) -> Plan:
        """The plans of the environments `index` [B'] alone."""
        actions, states, cost, goals = tree_map(
            lambda x: x[index], (self.actions, self.states, self.cost, self.goals)
        )
        below = None if self.below is None else self.below.select(index)
        return Plan(actions, states, cost, goals, self.time, self.spent, below)


class WorldModel(Protocol):
    """All that a model must offer to be planned with; somebody's own joins by these two methods."""

    def encode(self, observation: Any) -> State:
        """``observation [B, ...] -> state [B, ...]``"""
        ...

    def predict(self, state: State, action: Tensor) -> State:
        """``state [B, ...], action [B, A] -> state [B, ...]`` one step later."""
        ...


class LevelModel(Protocol):
    """What a planner asks of one level."""

    stride: int
    """steps of the level below that one step here takes"""

    @property
    def prior(self) -> ActionPrior: ...

    def predict(self, state: State, action: Tensor) -> State:
        """One step of this level; see :meth:`WorldModel.predict`."""
        ...

    def lower(self, state: State) -> State:
        """``state here [B, ...] -> state of the level below [B, ...]`` that stands for it."""
        ...

    def distance(self, state: State, goal: State) -> Tensor:
        """``state [...], goal [...] -> [...]`` how far a goal is; leading dimensions broadcast."""
        ...


class Cost(Protocol):
    """How far from the goal a predicted trajectory stays."""

    def __call__(self, states: State, goal: State) -> Tensor:
        """``states [B, K, H, ...], goal [B, ...] -> cost [B, K]``; lower is nearer."""
        ...


class Optimizer(Protocol):
    """A derivative-free or gradient search over action sequences; it never sees a model."""

    @property
    def candidates(self) -> int:
        """K, that a round evaluates for each environment"""
        ...

    @property
    def iterations(self) -> int:
        """rounds, each one call of the objective"""
        ...

    def minimize(
        self,
        objective: Objective,
        start: Tensor,
        warm: Tensor,
        prior: ActionPrior,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Search for the cheapest actions.

        start: [B, H, A] where to begin, shifted from the last plan or the prior's mean.
        warm: [B] bool, which of them come from a last plan.
        Returns the best actions [B, H, A], inside the prior's bounds, and their cost [B].
        """
        ...
