"""How levels search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from echelon.types import EchelonError

Precision: TypeAlias = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class OptimizerConfig:
    """A search over action sequences."""

    kind: Literal["cem", "icem", "mppi", "evolution", "gradient", "refine"] = "cem"
    """evolution varies each elite by itself; refine is cem, then gradient steps from its elites"""
    candidates: int = 64
    """K, a round; of gradient, the sequences that descend side by side"""
    iterations: int = 2
    """rounds; of gradient, steps"""
    elites: int = 8
    """cheapest candidates, which the next round is fitted to (cem, icem, refine) or varies (evolution),
    gradient steps start from (refine), and whose agreement is asked for"""
    correlation: float = 0.9
    """of the sampled noise from one step of the horizon to the next, 0 is white; of icem, of bank
    entries alone"""
    noise: float = 1.0
    """standard deviation of the first round, in deviations of the level's action prior"""
    warm_noise: float = 0.5
    """the same, where the search starts from the last plan; and of an elite's first variations
    (evolution)"""
    temperature: float = 0.1
    """of the weights (mppi), in deviations of the candidates' costs"""
    beta: float = 2.0
    """colour of the noise (icem): its power falls as frequency ** -beta, 0 is white"""
    kept: float = 0.3
    """share of the elites that compete in the next round too (icem)"""
    decay: float = 1.0
    """candidates of a round over those of the next (icem), down to twice the elites"""
    steps: int = 5
    """gradient steps after the rounds (refine)"""
    learning_rate: float = 0.1
    """length of an early gradient step, in deviations of the prior (gradient, refine)"""
    agreement: float = 0.0
    """stop early where the elites of every environment differ by less than that many deviations of
    the prior, or, in mppi, the mean moved by less; 0 never does"""
    proposal: Literal["gaussian", "covariance", "bank", "recall"] = "gaussian"
    """how the first round samples where there is no last plan: each dimension of an action by
    itself, all by their covariance in the data, or entries of the level's bank of actions; or, with a
    last plan too, what was done in the data in states like this one and led near to the goal, in
    episodes that the model must have kept (its `recall`)"""
    residual: float = 0.1
    """standard deviation of what is added to entries of the bank, or to what is recalled, in
    deviations of the prior"""

    def __post_init__(self) -> None:
        if self.candidates < 1 or self.iterations < 1 or self.steps < 1:
            raise EchelonError("candidates and iterations must be at least 1, and so must steps")
        if not 1 <= self.elites <= self.candidates:
            raise EchelonError(
                f"elites: {self.elites} must be between 1 and candidates ({self.candidates})"
            )
        if not 0 <= self.correlation < 1:
            raise EchelonError("correlation: must be at least 0 and below 1")
        if min(self.noise, self.warm_noise, self.beta, self.agreement, self.residual) < 0:
            raise EchelonError(
                "noise, warm_noise, beta, agreement and residual must not be negative"
            )
        if self.temperature <= 0 or self.learning_rate <= 0:
            raise EchelonError("temperature and learning_rate must be above 0")
        if not 0 <= self.kept <= 1:
            raise EchelonError(f"kept: {self.kept} is a share of the elites, between 0 and 1")
        if self.decay < 1:
            raise EchelonError(f"decay: {self.decay} would make rounds grow; use at least 1")
        if self.agreement and self.elites < 2 and self.kind != "mppi":
            raise EchelonError("agreement: one elite always agrees with itself; use at least 2")


@dataclass(frozen=True)
class PlannerConfig:
    """How one level plans."""

    horizon: int
    """H, in steps of this level"""
    replan: int
    """environment steps that a plan of this level is kept"""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    minimum: float = 0.7
    """share of the smallest distance along the plan in its cost"""
    last: float = 0.0
    """share of the distance at the plan's end; what is left is the mean's"""
    cost: Literal["level", "latent", "learned", "graph", "upper"] = "level"
    """the distance that the search descends: what the level's own configuration says, that of its
    latents, its learned one, its landmark graph, or that of the latents of the level above"""
    support: float = 0.0
    """weight of how far actions lie outside what the data holds, in the cost; 0 leaves it out"""
    doubt: float = 0.0
    """weight of how far the level's predictors disagree along a plan, in the cost; needs an ensemble"""
    hand_down: Literal["nearest", "lift", "either"] = "nearest"
    """what the level below is judged by: the known state of its own that is nearest to the subgoal; the
    subgoal itself, by this level's cost, to which its states are lifted; or either that nearest state
    or the goal, where it comes nearer to that by itself than this level's plan would"""
    options: int = 1
    """best plans whose first subgoals are tried on the level below before one is taken; 1 tries none"""
    reach: float = 0.5
    """of a subgoal's distance, how much may be left after the level below has planned for it; one that
    leaves more is refused, and the next option taken"""
    reached: float = 0.0
    """of a subgoal's distance, how little may be left for the next one's turn to come early; 0 waits
    for its time to be up"""
    watchdog: float | None = None
    """of a subgoal's distance, how much more may be left than time allows, before the world counts
    as having departed from the plan; None does not look"""
    trust: int = 0
    """plans in a row that the watchdog may give up; after them the goal itself is handed down, for as
    long as a plan is kept, and then one plan is tried again. 0 never stops planning here"""
    enter: float = 0.0
    """steps of this level within which a goal counts as near: it is handed down, and nothing is
    searched here; 0 always searches"""
    precision: Precision = "float32"
    """of the products in this level's predictor, which then has a copy of its weights; states and costs
    stay float32. bfloat16 is for hardware that multiplies it: a GPU, a CPU with AMX or AVX512-BF16;
    on one that does not, plans took more than five times as long"""
    compile: bool = False
    """evaluate candidates by compiled code, on a GPU by CUDA graphs, where the horizon is at most 32
    steps and there is a compiler. On a CPU a plan takes about a fifth less time, and the first ones
    half a minute more for each level; a search by gradients is as it was"""

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise EchelonError(f"horizon: {self.horizon} plans nothing; use at least 1")
        if self.replan < 1:
            raise EchelonError(f"replan: {self.replan} is not a number of steps; use at least 1")
        if min(self.minimum, self.last) < 0 or self.minimum + self.last > 1:
            raise EchelonError("minimum and last: shares, from 0 to 1 together")
        if not 1 <= self.options <= self.optimizer.candidates:
            raise EchelonError(
                f"options: {self.options} must be between 1 and candidates "
                f"({self.optimizer.candidates})"
            )
        if self.options > 1 and self.hand_down == "either":
            raise EchelonError(
                "options: a level below that may make for the goal instead need not reach a subgoal; "
                "use 1, or another hand_down"
            )
        watchdog = self.watchdog or 0
        if min(self.support, self.doubt, self.reach, self.reached, self.enter, watchdog) < 0:
            raise EchelonError(
                "support, doubt, reach, reached, enter and watchdog: must not be below 0"
            )
        if self.trust < 0 or (self.trust and self.watchdog is None):
            raise EchelonError("trust: a number of plans that the watchdog gave up; set watchdog")

    @property
    def watched(self) -> bool:
        """Whether anybody looks how a plan is followed before its time is up."""
        return self.reached > 0 or self.watchdog is not None


def faster(
    levels: Sequence[PlannerConfig], precision: Precision | None = None, compile: bool = False
) -> tuple[PlannerConfig, ...]:
    """The same planners in a precision, where one is given, and compiled, where that is asked for."""
    return tuple(
        replace(level, precision=precision or level.precision, compile=compile or level.compile)
        for level in levels
    )
