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
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol, TypeAlias

import torch
from torch import Tensor

State: TypeAlias = Any
"""Any tree (tensor, dict, tuple or list) of tensors that share their leading batch dimensions. A
model's history, pose or context lives inside it; nothing but the model looks there."""

AROUND = ("scene", "floor")
"""parts of a state that stay as they are for a whole episode, where a model has them"""

Objective: TypeAlias = Callable[[Tensor], Tensor]
"""``actions [B, K, H, A] -> cost [B, K]``; all that a search sees of a model."""


DistanceKind: TypeAlias = Literal["level", "latent", "learned", "graph"]
"""How a level can measure: as configured, by its latents, by what it learned, by its landmarks."""


class EchelonError(Exception):
    """A user's mistake, told in one line that says how to mend it. The command line exits with 2."""


class EchelonWarning(UserWarning):
    """What is asked for goes beyond what a model is known to be good for; it is done all the same."""


def tree_map(function: Callable[..., Any], *trees: State) -> Any:
    """Apply `function` to the tensors that stand at the same place of every tree."""
    first = trees[0]
    if isinstance(first, Mapping):
        return {key: tree_map(function, *(tree[key] for tree in trees)) for key in first}
    if isinstance(first, (tuple, list)):
        return type(first)(tree_map(function, *branch) for branch in zip(*trees, strict=True))
    return function(*trees)


def tree_stack(trees: Sequence[State], dim: int) -> State:
    """Stack equal trees along a new dimension; a tensor that is the same in all is not copied."""

    def stack(*leaves: Tensor) -> Tensor:
        if all(leaf is leaves[0] for leaf in leaves):
            shape = leaves[0].shape
            return leaves[0].unsqueeze(dim).expand(*shape[:dim], len(leaves), *shape[dim:])
        return torch.stack(leaves, dim)

    return tree_map(stack, *trees)


def tree_leading(state: State, dims: int = 1) -> tuple[int, ...]:
    """Sizes of the first `dims` dimensions, which all leaves share."""
    sizes: list[tuple[int, ...]] = []
    tree_map(lambda x: sizes.append(tuple(x.shape[:dims])), state)
    return sizes[0]


def tree_rows(tree: State, index: Tensor) -> State:
    """The rows `index` of every tensor."""
    return tree_map(lambda x: x[index], tree)


def tree_at(tree: State, index: Tensor) -> State:
    """``[B, N, ...] -> [B, ...]``: of each row the entry that `index` [B] says, or the last."""

    def entry(x: Tensor) -> Tensor:
        return x[torch.arange(len(x), device=x.device), index.clamp_max(x.shape[1] - 1)]

    return tree_map(entry, tree)


@dataclass(frozen=True)
class Window:
    """A stretch of experience as one level sees it: ``states[:, t]`` then ``actions[:, t]``."""

    states: State
    """[B, T + 1, ...] observations (below level 0) or the states of a level, and [B, 1, ...] of parts
    that are the same in the whole window
    """
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
    covariance: Tensor | None = None
    """[A, A] of the data's actions, where it is known"""
    bank: Tensor | None = None
    """[N, A] some of the data's actions, where they are kept"""
    recalled: Tensor | None = None
    """[B, K, H, A] what was once done in such states and led to such goals, where a search asks"""

    def to(self, device: torch.device) -> ActionPrior:
        always = (part.to(device) for part in (self.mean, self.std, self.low, self.high))
        known = (self.covariance, self.bank, self.recalled)
        return ActionPrior(*always, *(None if part is None else part.to(device) for part in known))


@dataclass(frozen=True)
class Spent:
    """What planning took."""

    calls: Tensor
    """[B] predictor calls for each environment: transitions of one state by one step, at any level"""
    macs: Tensor
    """[B] multiply-accumulates of encoders, lifts, predictors and costs"""
    seconds: float = 0.0
    """wall time, of all environments together"""

    @staticmethod
    def nothing(batch: int, device: torch.device) -> Spent:
        zero = torch.zeros(batch, dtype=torch.int64, device=device)
        return Spent(zero, zero)

    def __add__(self, other: Spent) -> Spent:
        seconds = self.seconds + other.seconds
        return Spent(self.calls + other.calls, self.macs + other.macs, seconds)


@dataclass(frozen=True)
class Plan:
    """What one level intends, and beneath it how the level below means to begin."""

    actions: Tensor
    """[B, H, A] in the actions of this level"""
    states: State
    """[B, H, ...] predicted after each action; one at a time is the subgoal of the level below"""
    cost: Tensor
    """[B] of the plan, as this level's cost measures it"""
    goals: tuple[State, ...]
    """[B, ...] what this level was asked to reach, as levels 0 to this one see it"""
    made: Tensor
    """[B] environment step of the search"""
    aim: Tensor
    """[B] which predicted state is pursued (0 the first); H or more where all have been"""
    since: Tensor
    """[B] environment step from which on it is pursued"""
    gap: Tensor
    """[B] how far it was then, by this level's distance"""
    direct: Tensor
    """[B] bool, whether the goal itself is handed down, being near, or plans not being trusted"""
    lost: Tensor
    """[B] plans in a row, before this one, that the watchdog gave up"""
    spent: Spent
    """by this level alone, in the call that returned it; nothing where the plan was kept"""
    below: Plan | None = None
    """the plan of the level below towards this plan's subgoal"""

    @property
    def lowest(self) -> Plan:
        """The plan of level 0, whose actions are executed."""
        return self if self.below is None else self.below.lowest

    @property
    def levels(self) -> tuple[Plan, ...]:
        """Level 0's plan first, this one last."""
        return (*(self.below.levels if self.below is not None else ()), self)

    @property
    def total(self) -> Spent:
        """What this level and those below it spent."""
        return self.spent if self.below is None else self.spent + self.below.total

    def select(self, index: Tensor) -> Plan:
        """The plans of the environments `index` [B'] alone."""
        return self._with(
            tree_map(lambda x: x[index], self._rows()),
            None if self.below is None else self.below.select(index),
            self.spent.seconds,
        )

    def put(self, index: Tensor, other: Plan) -> Plan:
        """These plans, but for the environments `index` [B'] those of `other`."""
        rows = tree_map(lambda x, y: x.index_copy(0, index, y), self._rows(), other._rows())
        below = None
        if self.below is not None and other.below is not None:
            below = self.below.put(index, other.below)
        return self._with(rows, below, self.spent.seconds + other.spent.seconds)

    def at_rest(self) -> Plan:
        """The same plans, with nothing spent."""
        spent = Spent.nothing(len(self.made), self.made.device)
        return replace(self, spent=spent, below=self.below and self.below.at_rest())

    def _rows(self) -> dict[str, Any]:
        """All that has a row an environment, but the plan below."""
        spent = {"calls": self.spent.calls, "macs": self.spent.macs}
        known = {f.name: getattr(self, f.name) for f in fields(self)}
        return known | {"spent": spent, "below": ()}

    @staticmethod
    def _with(rows: dict[str, Any], below: Plan | None, seconds: float) -> Plan:
        spent = Spent(**rows["spent"], seconds=seconds)
        parts: dict[str, Any] = rows | {"spent": spent, "below": below}
        return Plan(**parts)


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
        """``state [..., parts], action [..., A] -> state [..., parts]`` one step of this level later.
        Leading dimensions may be expanded: of all candidates of a search it is the same scene.
        """
        ...

    @property
    def encode_action(self) -> Callable[[Tensor], Tensor]:
        """``segment [..., stride, A below] -> action [..., A]``"""
        ...

    def recall(self, state: State, goals: Sequence[State], count: int, horizon: int) -> Tensor:
        """Level 0: ``state [B, ...], goals [B, ...] each -> actions [B, goals, count, horizon, A]``
        that were once done in such a state and led near each of them, fewer where few are known; an
        EchelonError where none are, or shorter ones.
        """
        ...

    @property
    def neighbours(self) -> tuple[State, State]:
        """``[N, ...], [N, ...]`` known states, and where the same episode was one step later."""
        ...

    def lower(self, state: State) -> State:
        """``state here [B, ...] -> state of the level below [B, ...]`` that stands for it."""
        ...

    def place(self, state: State) -> State:
        """``state of the level below [...] -> state here [...]``, without how it moves."""
        ...

    def aim(self, kind: DistanceKind, state: State, here: State) -> State:
        """What of a state ``[B, ...]``, seen or predicted, a goal is, to be measured by a kind of
        distance from `here` ``[B, ...]``.
        """
        ...

    def measure(self, kind: DistanceKind) -> Callable[[State, State], Tensor]:
        """A distance ``state [...], goal [...] -> [...]``, leading dimensions broadcast: this level's
        usual one ("level"), or one of a kind that it must have.
        """
        ...


class Cost(Protocol):
    """How far from the goal a predicted trajectory stays."""

    @property
    def distance(self) -> Callable[[State, State], Tensor]:
        """``state [...], goal [...] -> [...]`` of a single state; leading dimensions broadcast."""
        ...

    def __call__(self, states: State, goal: State) -> Tensor:
        """``states [B, K, H, ...], goal [B, ...] -> cost [B, K]``; lower is nearer."""
        ...


def never() -> bool:
    """A search that is never told to stop."""
    return False


class Optimizer(Protocol):
    """A derivative-free or gradient search over action sequences; it never sees a model."""

    @property
    def evaluations(self) -> int:
        """Candidates that a full search evaluates for each environment, all rounds together. One
        that is differentiated counts three times: a backward pass costs about two forward ones.
        """
        ...

    def scaled(self, effort: float) -> Optimizer:
        """The same search with about `effort` times the evaluations, and never more; 0 gives the
        least that works. Candidates go first (elites in proportion), then rounds.
        """
        ...

    def minimize(
        self,
        objective: Objective,
        start: Tensor,
        warm: Tensor,
        prior: ActionPrior,
        generator: torch.Generator,
        keep: int = 1,
        stop: Callable[[], bool] = never,
    ) -> tuple[Tensor, Tensor]:
        """Search for the cheapest actions.

        start: [B, H, A] where to begin, shifted from the last plan or the prior's mean. It is the
            first candidate, so what is returned never costs more.
        warm: [B] bool, which of them come from a last plan.
        keep: how many sequences to return, at most as many as a first round evaluates.
        stop: asked between rounds, for a deadline; the first round always runs.
        Returns the `keep` cheapest different sequences [B, keep, H, A], inside the prior's bounds,
        cheapest first, and their costs [B, keep]. Where a search saw fewer, the dearest repeats.

        Costs that are not finite count as infinite; where no other was seen, an EchelonError.
        """
        ...
