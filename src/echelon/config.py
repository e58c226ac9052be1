"""Every option of Echelon, one frozen dataclass per component.

The command line is generated from these classes, checkpoints and run folders store them as JSON,
and reading them back refuses unknown fields. A check that needs only the options lives here.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from echelon.types import EchelonError


@dataclass(frozen=True)
class LossConfig:
    """Weights of one level's terms; a weight of 0 leaves the term out."""

    prediction: float = 1.0
    """predicted states against the EMA target's states, along the rollout"""
    variance: float = 1.0
    """hinge that keeps each latent's standard deviation above 1 (VICReg)"""
    correlation: float = 0.0005
    """decorrelates latents (VICReg); larger values raise the rank and bend the latent space"""
    log_determinant: float = 0.0
    """entropy of the latents; in place of the two above, it lets slow latents grow large"""
    smoothness: float = 6.0
    """squared change of the latent from one step of this level to the next"""
    inverse_dynamics: float = 0.5
    """the action must be readable from two consecutive states"""


@dataclass(frozen=True)
class DistanceConfig:
    """How far apart in time two latents of a level are: what its search descends.

    All times are in steps of the level.
    """

    kind: Literal["latent", "quasimetric", "expectile", "contrastive"] = "latent"
    """latent: no head, the distance of the latents themselves; quasimetric: QRL, which stitches
    trajectories together; expectile: temporal differences towards short; contrastive: InfoNCE"""
    weight: float = 1.0
    """of the terms that train the head"""
    width: int = 128
    """hidden units of the head"""
    depth: int = 2
    """hidden layers of the head"""
    components: int = 16
    """sets of intervals (quasimetric, contrastive)"""
    component_size: int = 8
    """intervals in a set (quasimetric, contrastive)"""
    horizon: float = 64.0
    """about the longest time worth telling apart: random pairs are pushed no farther (quasimetric),
    targets are cut off here (expectile); an eighth of it is the unit of the head's output"""
    gaps: tuple[int, ...] = (1, 2, 5, 10, 20)
    """times apart at which pairs of one window are held together; those that do not fit into a
    window are left out (quasimetric)"""
    penalty: float = 30.0
    """on the squared relative excess over those times. What is left of the excess is about the mean
    distance, in eighths of the horizon, over twice this; a larger one learns slower (quasimetric)"""
    expectile: float = 0.1
    """below 0.5 towards the shortest time seen, 0.5 the mean (expectile)"""
    mean_gap: float = 10.0
    """mean time apart of the pairs told from random ones (contrastive)"""

    def __post_init__(self) -> None:
        if min(self.width, self.components, self.component_size) < 1 or self.depth < 0:
            raise EchelonError("distance: width, components and component_size must be at least 1")
        if not self.gaps or min(self.gaps) < 1:
            raise EchelonError(f"distance.gaps: {self.gaps} must be steps apart, at least 1 each")
        if min(self.horizon, self.penalty, self.mean_gap) <= 0 or self.weight < 0:
            raise EchelonError(
                "distance: horizon, penalty and mean_gap must be above 0, weight at least 0"
            )
        if not 0 < self.expectile < 1:
            raise EchelonError("distance.expectile: must lie between 0 and 1")


@dataclass(frozen=True)
class LevelConfig:
    """One timescale. Level 0 lifts images; every other level lifts the level below."""

    latent_dim: int = 16
    """size D of the latent"""
    stride: int = 1
    """steps of the level below per step of this one; 1 at level 0"""
    action_dim: int | None = None
    """size of the macro-action; None passes the (stride 1) action through"""
    width: int = 256
    """hidden units of the predictor"""
    depth: int = 2
    """hidden layers of the predictor"""
    lift_width: int = 64
    """hidden units of the lift (level 0: channels of a patch)"""
    difference_scale: float = 4.0
    """multiplies the latent's change since the last frame, so that it is of the latent's size"""
    rollout: int = 8
    """own steps that the predictor is trained to roll out"""
    macro_noise: float = 0.03
    """standard deviation of the noise on macro-actions in training"""
    loss: LossConfig = field(default_factory=LossConfig)


@dataclass(frozen=True)
class ModelConfig:
    """The hierarchy: a list of levels, the primitive one first."""

    levels: tuple[LevelConfig, ...] = (
        LevelConfig(),
        LevelConfig(
            stride=10,
            action_dim=8,
            width=192,
            lift_width=128,
            difference_scale=10.0,
            rollout=3,
            loss=LossConfig(
                variance=0.0,
                correlation=0.0,
                log_determinant=1.0,
                smoothness=10.0,
                inverse_dynamics=0.0,
            ),
        ),
    )
    image_size: int = 64
    """height and width of the observations, in pixels"""
    bank_size: int = 4096
    """known states kept in the checkpoint, to hand a subgoal down as the nearest of them"""

    def __post_init__(self) -> None:
        if not self.levels:
            raise EchelonError("levels: a hierarchy needs at least one level")
        if self.levels[0].stride != 1:
            raise EchelonError(
                "levels.0.stride: level 0 is the primitive one, its stride must be 1"
            )
        for index, level in enumerate(self.levels):
            if level.stride < 1 or level.rollout < 1:
                raise EchelonError(f"levels.{index}: stride and rollout must be at least 1")
            if level.latent_dim < 1 or level.width < 1:
                raise EchelonError(f"levels.{index}: latent_dim and width must be at least 1")
            if index and not level.action_dim:
                raise EchelonError(f"levels.{index}.action_dim: set the size of its macro-action")

    @property
    def durations(self) -> tuple[int, ...]:
        """Environment steps per step of each level."""
        out: list[int] = []
        for level in self.levels:
            out.append(level.stride * (out[-1] if out else 1))
        return tuple(out)


@dataclass(frozen=True)
class StageConfig:
    """A stretch of training that updates some levels and leaves the others frozen."""

    levels: tuple[int, ...]
    """the levels whose predictors, lifts and macro-action encoders are trained"""
    steps: int
    """optimizer steps"""
    batch_size: int
    """windows a step, over all processes"""
    train_encoder: bool = False
    """train the encoder from images; otherwise it is frozen and its latents are computed once"""
    learning_rate: float = 1e-3
    """peak, after a warm-up over the first 5 % and before a cosine decay to a twentieth"""

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) < 0 or len(set(self.levels)) < len(self.levels):
            raise EchelonError(f"stages: {self.levels} are not the numbers of levels, from 0 up")
        if self.steps < 1 or self.batch_size < 1:
            raise EchelonError("stages: steps and batch_size must be at least 1")


@dataclass(frozen=True)
class TrainConfig:
    """One training run: its stages, and what holds for all of them."""

    stages: tuple[StageConfig, ...] = (
        StageConfig(levels=(0,), steps=1500, batch_size=48, train_encoder=True),
        StageConfig(levels=(0, 1), steps=3000, batch_size=256, learning_rate=2e-3),
    )
    seed: int = 0
    ema: float = 0.99
    """decay of the target encoder, a step"""
    weight_decay: float = 1e-4
    gradient_clip: float = 1.0
    """largest norm of the gradient"""
    held_out: float = 0.05
    """share of the episodes kept out of training, for the validation figures"""
    checkpoint_seconds: float = 20.0
    """time between checkpoints to resume from"""
    log_every: int = 50
    """steps between lines of the log"""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    accelerator: str = "auto"
    """cpu, cuda, mps, or what there is"""
    num_threads: int | None = None
    """CPU threads; None leaves PyTorch's choice"""

    def __post_init__(self) -> None:
        if self.log_every < 1:
            raise EchelonError("log_every: must be at least 1")
        if not 0 <= self.ema <= 1 or not 0 <= self.held_out < 1:
            raise EchelonError("ema and held_out: shares, between 0 and 1")


@dataclass(frozen=True)
class OptimizerConfig:
    """A search over action sequences."""

    kind: Literal["cem", "mppi"] = "cem"
    candidates: int = 64
    """K, a round"""
    iterations: int = 2
    """rounds"""
    elites: int = 8
    """candidates that the next round is fitted to (cem)"""
    correlation: float = 0.9
    """of the sampled noise from one step of the horizon to the next; 0 is white noise"""
    noise: float = 1.0
    """standard deviation of the first round, in deviations of the level's action prior"""
    warm_noise: float = 0.5
    """the same, where the search starts from the last plan"""
    temperature: float = 0.1
    """of the weights (mppi), in deviations of the candidates' costs"""

    def __post_init__(self) -> None:
        if self.candidates < 1 or self.iterations < 1:
            raise EchelonError("candidates and iterations must be at least 1")
        if not 1 <= self.elites <= self.candidates:
            raise EchelonError(
                f"elites: {self.elites} must be between 1 and candidates ({self.candidates})"
            )
        if not 0 <= self.correlation < 1:
            raise EchelonError("correlation: must be at least 0 and below 1")


@dataclass(frozen=True)
class PlannerConfig:
    """How one level plans."""

    horizon: int
    """H, in steps of this level"""
    replan: int
    """environment steps that a plan of this level is kept"""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    minimum: float = 0.7
    """share of the smallest distance along the plan in its cost; the mean has the rest"""

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise EchelonError(f"horizon: {self.horizon} plans nothing; use at least 1")
        if self.replan < 1:
            raise EchelonError(f"replan: {self.replan} is not a number of steps; use at least 1")
        if not 0 <= self.minimum <= 1:
            raise EchelonError("minimum: a share, between 0 and 1")


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON types."""
    return json.loads(
        json.dumps(dataclasses.asdict(config))
    )  # tuples as the lists they come back as
