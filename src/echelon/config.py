"""Every option of Echelon, one frozen dataclass per component.

The command line is generated from these classes, checkpoints and run folders store them as JSON,
and reading them back refuses unknown fields. A check that needs only the options lives here.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from echelon.types import EchelonError


@dataclass(frozen=True)
class LossConfig:
    """Weights of one level's terms; a weight of 0 leaves the term out."""

    prediction: float = 1.0
    """predicted states against the EMA target's states, along the rollout"""
    teacher_forced: float = 0.0
    """the same one step ahead from each true state of the window"""
    norm: Literal["l2", "l1"] = "l2"
    """of the prediction's error: mean square or mean absolute value"""
    variance: float = 1.0
    """hinge that keeps each latent's standard deviation above 1 (VICReg)"""
    correlation: float = 0.0005
    """decorrelates latents (VICReg); larger values raise the rank and bend the latent space"""
    log_determinant: float = 0.0
    """entropy of the latents; in place of the two above, it lets slow latents grow large"""
    sigreg: float = 0.0
    """distance of the latents' distribution to a standard Gaussian (SIGReg)"""
    smoothness: float = 6.0
    """squared change of the latent from one step of this level to the next"""
    inverse_dynamics: float = 0.5
    """the action must be readable from two consecutive states"""


@dataclass(frozen=True)
class EncoderConfig:
    """Level 0's eyes: frames to latents."""

    kind: Literal["patches", "conv", "vit"] = "patches"
    """patches and one readout; a map of the image (conv); a transformer over tubelets (vit)"""
    frames: int = 1
    """consecutive frames that one latent is made of (vit): 1 an image, more a clip"""
    patch: int = 8
    """height and width of a patch, in pixels (vit)"""
    depth: int = 2
    """blocks (vit)"""
    heads: int = 4
    """of attention (vit)"""
    grid: int = 8
    """height and width of the map; the latent's size is a multiple of its cells (conv)"""

    def __post_init__(self) -> None:
        if min(self.frames, self.patch, self.depth, self.heads, self.grid) < 1:
            raise EchelonError("encoder: frames, patch, depth, heads and grid are at least 1")
        if self.frames > 1 and self.kind != "vit":
            raise EchelonError(
                f"encoder.frames: '{self.kind}' sees one frame at a time; set encoder.kind to vit"
            )


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
    shape_latent: bool = False
    """let those terms shape the latent too, where it is trained"""
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
    latent: Literal["own", "shared"] = "own"
    """a latent space of its own, by a learned lift, or that of the level below"""
    stride: int = 1
    """steps of the level below per step of this one; 1 at level 0"""
    action_dim: int | None = None
    """size of the macro-action; None passes the (stride 1) action through"""
    macro: Literal["mlp", "transformer", "concat"] = "mlp"
    """what encodes a segment of actions: an MLP, a transformer that takes any length, or nothing:
    the segment's actions side by side, which are then stride times those of the level below"""
    span: tuple[int, int] | None = None
    """least and most steps of the level below in one step here, drawn anew for every step of
    training (transformer); None trains on the stride alone"""
    predictor: Literal["mlp", "conv", "transformer"] = "mlp"
    width: int = 256
    """hidden units of the predictor (conv: channels)"""
    depth: int = 2
    """hidden layers of the predictor"""
    history: int = 3
    """own steps that the predictor looks back over, the present one included (transformer)"""
    heads: int = 4
    """of attention (transformer)"""
    lift_width: int = 64
    """hidden units of the lift (level 0: width of the encoder)"""
    difference_scale: float = 4.0
    """multiplies the latent's change since the last frame, so that it is of the latent's size"""
    rollout: int = 8
    """own steps that the predictor is trained to roll out"""
    macro_noise: float = 0.03
    """standard deviation of the noise on macro-actions in training"""
    loss: LossConfig = field(default_factory=LossConfig)
    distance: DistanceConfig = field(default_factory=DistanceConfig)

    def __post_init__(self) -> None:
        if self.stride < 1 or self.rollout < 1:
            raise EchelonError("stride and rollout must be at least 1")
        if min(self.latent_dim, self.width, self.history, self.heads) < 1:
            raise EchelonError("latent_dim, width, history and heads must be at least 1")
        if self.span is not None:
            low, high = self.span
            if self.macro != "transformer":
                raise EchelonError("span: only macro-actions of a transformer vary in length")
            if not 1 <= low <= self.stride <= high:
                raise EchelonError(
                    f"span: {low} to {high} must hold the stride ({self.stride}), which is planned with"
                )


@dataclass(frozen=True)
class MaskConfig:
    """One kind of multi-block mask: the union of its blocks is hidden, at every moment of the clip."""

    blocks: int = 8
    """blocks a clip; they may overlap"""
    area: float = 0.15
    """share of the frame that one block covers"""
    aspect: tuple[float, float] = (0.75, 1.5)
    """least and greatest height over width of a block"""
    visible: float = 0.1
    """share of the frame that must stay visible; a mask that leaves less is drawn again"""

    def __post_init__(self) -> None:
        if self.blocks < 1:
            raise EchelonError("masks.blocks: a mask needs at least one block")
        if not 0 < self.area < 1 or not 0 <= self.visible < 1:
            raise EchelonError("masks.area and masks.visible: shares of the frame, from 0 to 1")
        if not 0 < self.aspect[0] <= self.aspect[1]:
            raise EchelonError(
                "masks.aspect: the least height over width, above 0, then the greatest"
            )


@dataclass(frozen=True)
class MaskedConfig:
    """Masked video: what a clip hides, told from what it shows. Weights of 0 leave it out."""

    weight: float = 1.0
    """latents of the hidden tubelets, against those of the EMA encoder"""
    pixels: float = 0.0
    """pixels of the hidden tubelets, in deviations; with `weight`, the hybrid objective"""
    frames: int = 8
    """length of a clip; a multiple of the encoder's frames"""
    width: int = 48
    """of the predictor's tokens"""
    depth: int = 2
    """blocks of the predictor"""
    heads: int = 4
    """attention heads of the predictor"""
    masks: tuple[MaskConfig, ...] = (MaskConfig(), MaskConfig(blocks=2, area=0.7))
    """kinds of mask, each used on every clip; V-JEPA's short-range and long-range ones"""

    def __post_init__(self) -> None:
        if self.weight < 0 or self.pixels < 0:
            raise EchelonError("masked: weight and pixels must not be below 0")
        if self.frames < 1 or self.depth < 1:
            raise EchelonError("masked: frames and depth must be at least 1")
        if not self.masks:
            raise EchelonError("masked.masks: masked video needs at least one kind of mask")


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
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    proprio: str | None = None
    """column of the episodes that joins the images in level 0's state, such as joint velocities;
    goals are images alone"""
    image_size: int = 64
    """height and width of the observations, in pixels"""
    bank_size: int = 4096
    """known states and macro-actions kept in the checkpoint, such as to hand a subgoal down as the
    nearest of them"""

    def __post_init__(self) -> None:
        if not self.levels:
            raise EchelonError("levels: a hierarchy needs at least one level")
        if self.levels[0].stride != 1:
            raise EchelonError(
                "levels.0.stride: level 0 is the primitive one, its stride must be 1"
            )
        if self.levels[0].latent == "shared":
            raise EchelonError("levels.0.latent: there is no level below to share it with")
        maps = self.levels[0].latent_dim % self.encoder.grid**2 == 0
        if self.encoder.kind == "conv" and not maps:
            raise EchelonError(
                f"levels.0.latent_dim: {self.levels[0].latent_dim} is not a multiple of the map's "
                f"{self.encoder.grid} x {self.encoder.grid} cells"
            )
        for index, (below, level) in enumerate(pairwise(self.levels), start=1):
            if level.macro == "concat":
                if level.action_dim is not None:
                    raise EchelonError(
                        f"levels.{index}.action_dim: concatenated actions have the size they have; "
                        "leave it out"
                    )
            elif not level.action_dim:
                raise EchelonError(f"levels.{index}.action_dim: set the size of its macro-action")
            if level.latent == "shared" and level.latent_dim != below.latent_dim:
                raise EchelonError(
                    f"levels.{index}.latent_dim: {level.latent_dim}, but it shares the latent of the "
                    f"level below, of size {below.latent_dim}"
                )
        for index, level in enumerate(self.levels):
            if level.predictor == "conv" and not self.is_map(index):
                raise EchelonError(
                    f"levels.{index}.predictor: conv needs a latent that is a map; set encoder.kind to "
                    "conv, and latent to shared above level 0"
                )

    def is_map(self, index: int) -> bool:
        """Whether the latent of a level is a map of the image."""
        shared = all(level.latent == "shared" for level in self.levels[1 : index + 1])
        return self.encoder.kind == "conv" and shared

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
    gradient_below: bool = False
    """let the loss of a level reach the levels below it; otherwise each is shaped by its own alone"""
    masked: bool = False
    """train the encoder by masked video too, or alone where no levels are given; see train.masked"""
    learning_rate: float = 1e-3
    """peak, after a warm-up over the first 5 % and before a cosine decay to a twentieth"""

    def __post_init__(self) -> None:
        if not self.levels and not self.masked:
            raise EchelonError("stages: a stage trains some levels, or masked video, or both")
        if min(self.levels, default=0) < 0 or len(set(self.levels)) < len(self.levels):
            raise EchelonError(f"stages: {self.levels} are not the numbers of levels, from 0 up")
        if self.masked and not self.train_encoder:
            raise EchelonError("stages: masked video trains the encoder; set train_encoder")
        if self.steps < 1 or self.batch_size < 1:
            raise EchelonError("stages: steps and batch_size must be at least 1")


@dataclass(frozen=True)
class TrainConfig:
    """One training run: its stages, and what holds for all of them."""

    stages: tuple[StageConfig, ...] = (
        StageConfig(levels=(0,), steps=1500, batch_size=48, train_encoder=True),
        StageConfig(levels=(0, 1), steps=3000, batch_size=256, learning_rate=2e-3),
    )
    masked: MaskedConfig = field(default_factory=MaskedConfig)
    """of the stages that train by masked video"""
    seed: int = 0
    ema: float = 0.99
    """decay of the target encoder, a step; 0 is no copy at all, only a stopped gradient"""
    weight_decay: float = 1e-4
    gradient_clip: float = 1.0
    """largest norm of the gradient"""
    held_out: float = 0.05
    """share of the episodes kept out of training, for the validation figures"""
    checkpoint_seconds: float = 20.0
    """time between checkpoints to resume from"""
    log_every: int = 50
    """steps between lines of the log"""
    signals_every: int = 500
    """steps between looks at what tells of planning success, on held-out clips and a few trials"""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    accelerator: str = "auto"
    """cpu, cuda, mps, or what there is"""
    num_threads: int | None = None
    """CPU threads; None leaves PyTorch's choice"""

    def __post_init__(self) -> None:
        if self.log_every < 1 or self.signals_every < 1:
            raise EchelonError("log_every and signals_every: must be at least 1")
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
