"""A training run: its stages, and masked video."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from echelon.config.model import ModelConfig
from echelon.types import EchelonError


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
class StageConfig:
    """A stretch of training that updates some levels and leaves the others frozen."""

    levels: tuple[int, ...]
    """the levels whose predictors, lifts and macro-action encoders are trained; none where the encoder
    is trained by itself, by masked video or as keypoints are found"""
    steps: int
    """optimizer steps"""
    batch_size: int
    """windows a step, over all processes"""
    train_encoder: bool = False
    """train the encoder from images; otherwise it is frozen and its latents are computed once"""
    gradient_below: bool = False
    """let the loss of a level reach the levels below it; otherwise each is shaped by its own alone"""
    masked: bool = False
    """train the encoder by masked video too; see train.masked"""
    learning_rate: float = 1e-3
    """peak, after a warm-up over the first 5 % and before a cosine decay to a twentieth"""
    window: int = 0
    """environment steps of a window at most, which cuts rollouts short; 0 takes all of the longest"""

    def __post_init__(self) -> None:
        if not self.levels and not self.train_encoder:
            raise EchelonError("stages: a stage trains some levels, or the encoder, or both")
        if min(self.levels, default=0) < 0 or len(set(self.levels)) < len(self.levels):
            raise EchelonError(f"stages: {self.levels} are not the numbers of levels, from 0 up")
        if self.masked and not self.train_encoder:
            raise EchelonError("stages: masked video trains the encoder; set train_encoder")
        if self.steps < 1 or self.batch_size < 1 or self.window < 0:
            raise EchelonError("stages: steps and batch_size must be at least 1, window at least 0")


@dataclass(frozen=True)
class TrainConfig:
    """One training run: its stages, and what holds for all of them."""

    stages: tuple[StageConfig, ...] = (
        StageConfig(levels=(0,), steps=1500, batch_size=48, train_encoder=True),
        StageConfig(levels=(0, 1), steps=3000, batch_size=256, learning_rate=2e-3),
    )
    masked: MaskedConfig = field(default_factory=MaskedConfig)
    """of the stages that train by masked video"""
    start_from: str | None = None
    """checkpoint that the lower levels begin with, statistics and all, in place of chance; levels above
    them, and heads of distances that it does not have, begin anew"""
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
    signals_every: int = 1000
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

    def window(self, model: ModelConfig, stage: StageConfig) -> int:
        """Environment steps from the first state of a stage's windows to the last.

        As long as the longest rollout, or as the stage allows; where video is masked, the frames of a
        clip fit as well.
        """
        clip = self.masked.frames - 1 - model.encoder.frames if stage.masked else 0
        longest = model.window(stage.levels)
        return max(1, clip, min(longest, stage.window or longest))
