"""What a hierarchy is made of, and the terms that shape it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

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
class DistanceConfig:
    """How far apart in time two latents of a level are: what its search descends.

    All times are in steps of the level.
    """

    kind: Literal["latent", "quasimetric", "expectile", "contrastive", "paths"] = "latent"
    """latent: no head, the distance of the latents themselves; quasimetric: QRL, which stitches
    trajectories together; expectile: temporal differences towards short; contrastive: InfoNCE; paths:
    the shortest way of a keypoint over the places of its image, in latent units"""
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
    resolution: int = 48
    """places on a side of the image (paths)"""
    clearance: int = 1
    """places to keep away from what is never seen (paths)"""
    rare: float = 0.02
    """share of the places that were seen which may count as never seen (paths)"""

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
        if self.resolution < 2 or self.clearance < 0 or not 0 <= self.rare < 1:
            raise EchelonError(
                "distance: resolution is at least 2, clearance at least 0, and rare a share below 1"
            )


@dataclass(frozen=True)
class LandmarkConfig:
    """A graph of known latents, whose shortest paths a level's search can descend.

    It needs no training: it is fitted to the level as it stands. Gaps and hops are counted in
    environment steps, so that they mean the same at every level.
    """

    count: int = 0
    """landmarks; 0 is no graph, and 100 to 600 are enough for a maze"""
    spare: int = 0
    """slots that are left for latents met later, where the world departs from the data"""
    frames: int = 20_000
    """of whole episodes, drawn at random, that the graph is made from"""
    iterations: int = 3
    """of k-means, from farthest points; the means are then snapped to real frames"""
    gaps: tuple[int, int] = (4, 20)
    """least and most environment steps of a transition that counts as an edge. In less a border
    between two landmarks is crossed, and no distance covered"""
    hop: float = 1.0
    """environment steps added to every edge, against paths of many short ones"""
    nearest: int = 5
    """landmarks that a latent may begin its path at, at most, of those near it; fewer make the
    distance jump where borders between them are"""
    off_manifold: float = 3.0
    """weight of how far a latent lies beyond the reach of the landmarks, in steps; 0 leaves it out"""
    model_edges: bool = False
    """also join landmarks that one predicted step leads between. The model may tunnel through
    walls, and so may the graph then"""

    def __post_init__(self) -> None:
        if min(self.count, self.spare, self.iterations) < 0 or min(self.frames, self.nearest) < 1:
            raise EchelonError(
                "landmarks: count, spare and iterations are at least 0, frames and nearest at least 1"
            )
        if not 1 <= self.gaps[0] <= self.gaps[1]:
            raise EchelonError(
                f"landmarks.gaps: {self.gaps} must be the least and the most steps, from 1 up"
            )
        if min(self.hop, self.off_manifold) < 0:
            raise EchelonError("landmarks: hop and off_manifold are at least 0")


@dataclass(frozen=True)
class EncoderConfig:
    """Level 0's eyes: frames to latents."""

    kind: Literal["patches", "conv", "keypoints", "things", "vit", "foreign"] = "patches"
    """patches and one readout; a map of the image (conv); places in the image, and a map of what is
    around them (keypoints); where parts of the image are that have a colour of their own and move, and
    which way they face (things); a transformer over tubelets (vit); somebody's own model (foreign),
    which echelon.on_top_of is given"""
    frames: int = 1
    """consecutive frames that one latent is made of (vit, foreign): 1 an image, more a clip"""
    patch: int = 8
    """height and width of a patch, in pixels (vit)"""
    depth: int = 2
    """blocks (vit)"""
    heads: int = 4
    """of attention (vit)"""
    grid: int = 8
    """height and width of the map (conv, keypoints), whose cells divide the latent (conv)"""
    channels: int = 8
    """of the scene (keypoints)"""
    changing: float = 1.0
    """weight: keypoints are where two moments of an episode differ (keypoints)"""
    apart: int = 0
    """steps between those two at most, 0 for any: fewer single out what always moves (keypoints)"""
    shifting: float = 15.0
    """weight: keypoints of a shifted image are shifted as far (keypoints)"""
    things: int = 2
    """how many, those that move most; the latent has two numbers for each, and two more for each of
    those that face somewhere (things)"""
    colours: int = 4
    """of the images, of things and all else, at most 4; of more, some count as one (things)"""
    views: int = 1
    """equally high, that an image shows one above the other, each with all things (things)"""

    def __post_init__(self) -> None:
        if not 1 <= self.things < self.colours <= 4:
            raise EchelonError("encoder: things are at least 1, fewer than colours, at most 4")
        if min(self.changing, self.shifting, self.apart) < 0:
            raise EchelonError("encoder: changing, shifting and apart are at least 0")
        sizes = (self.frames, self.patch, self.depth, self.heads, self.grid, self.channels)
        if min(*sizes, self.views) < 1:
            raise EchelonError("encoder: all numbers of parts, and sizes, are at least 1")
        if self.frames > 1 and self.kind not in ("vit", "foreign"):
            raise EchelonError(
                f"encoder.frames: '{self.kind}' sees one frame at a time; set encoder.kind to vit"
            )


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
    predictor: Literal["mlp", "conv", "local", "relative", "pairs", "transformer"] = "mlp"
    """of the whole latent at once; of a map (conv); of what is around keypoints (local); of things, as
    seen from the last of them, which faces somewhere (relative), or by where they are beside each
    other (pairs); of the last steps (transformer)"""
    width: int = 256
    """hidden units of the predictor (conv: channels)"""
    depth: int = 2
    """hidden layers of the predictor"""
    ensemble: int = 1
    """predictors side by side, each trained on a share of the windows; what they disagree about can
    cost a plan (the planner's `doubt`)"""
    history: int = 3
    """own steps that the predictor looks back over, the present one included (transformer)"""
    heads: int = 4
    """of attention (transformer)"""
    glimpse: int = 5
    """samples of the scene around a keypoint, on a side of a square (local)"""
    spacing: float = 1.0
    """between those samples, in pixels of the image (local)"""
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
    landmarks: LandmarkConfig = field(default_factory=LandmarkConfig)

    def __post_init__(self) -> None:
        counts = "stride rollout latent_dim width ensemble history heads glimpse"
        for name in counts.split():
            if (value := getattr(self, name)) < 1:
                raise EchelonError(f"{name}: {value} must be at least 1")
        if self.spacing <= 0:
            raise EchelonError(f"spacing: {self.spacing} must be above 0")
        if self.ensemble > 1 and self.predictor in ("transformer", "local"):
            raise EchelonError(
                f"ensemble: a {self.predictor} predictor keeps something of its own from step to step; "
                "use mlp or conv"
            )
        if self.span is not None:
            low, high = self.span
            if self.macro != "transformer":
                raise EchelonError("span: only macro-actions of a transformer vary in length")
            if not 1 <= low <= self.stride <= high:
                raise EchelonError(
                    f"span: {low} to {high} must hold the stride ({self.stride}), which is planned with"
                )


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
    """column of the episodes that joins the images in the state of level 0, and of those that share its
    latent, such as joint velocities; goals are images alone"""
    image_size: int = 64
    """height and width of the observations, in pixels"""
    bank_size: int = 4096
    """known states and macro-actions kept in the checkpoint, such as to hand a subgoal down as the
    nearest of them"""
    recall: int = 0
    """frames of whole episodes kept in the checkpoint with what was done at each, for a planner's
    `proposal`; 0 keeps none"""

    def __post_init__(self) -> None:
        if self.recall < 0:
            raise EchelonError(f"recall: {self.recall} must be at least 0")
        if not self.levels:
            raise EchelonError("levels: a hierarchy needs at least one level")
        if self.levels[0].stride != 1:
            raise EchelonError("levels.0.stride: that is the primitive one, its stride must be 1")
        if self.encoder.kind in ("foreign", "keypoints") and any(
            level.landmarks.model_edges for level in self.levels
        ):
            raise EchelonError(
                f"landmarks.model_edges: with encoder.kind {self.encoder.kind} nothing can be "
                "predicted from latents alone; leave it out"
            )
        if self.levels[0].latent == "shared":
            raise EchelonError("levels.0.latent: there is no level below to share it with")
        if self.encoder.kind == "conv" and self.levels[0].latent_dim % self.encoder.grid**2:
            raise EchelonError(
                f"levels.0.latent_dim: {self.levels[0].latent_dim} is not a multiple of the map's "
                f"{self.encoder.grid} x {self.encoder.grid} cells"
            )
        if self.encoder.kind == "keypoints" and self.levels[0].latent_dim % 2:
            raise EchelonError(
                f"levels.0.latent_dim: {self.levels[0].latent_dim} is odd; a keypoint has two numbers"
            )
        points, things = self.levels[0].latent_dim / 2 / self.encoder.views, self.encoder.things
        if self.encoder.kind == "things" and points not in range(things, 2 * things + 1):
            raise EchelonError(
                f"levels.0.latent_dim: {self.levels[0].latent_dim}, but in each view {things} things "
                f"have {2 * things} numbers, and two more for each that faces somewhere"
            )
        if self.image_size % self.encoder.views:
            raise EchelonError("encoder.views: they must divide the image's height")
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
            if level.predictor == "local" and not self.has_scene(index):
                raise EchelonError(
                    f"levels.{index}.predictor: local needs a scene to look at; set encoder.kind to "
                    "keypoints, and latent to shared above level 0"
                )
            seen = {"relative": self.faces, "pairs": self.encoder.kind == "things"}
            if level.predictor in seen and not (seen[level.predictor] and self.shares(index)):
                raise EchelonError(
                    f"levels.{index}.predictor: {level.predictor} needs a thing to look from; set "
                    "encoder.kind to things, latent to shared above level 0, and for relative "
                    "levels.0.latent_dim to more than two numbers a thing"
                )
            one = self.has_scene(index) and level.latent_dim == 2
            if level.distance.kind == "paths" and not one:
                raise EchelonError(
                    f"levels.{index}.distance.kind: paths are those of one keypoint; set encoder.kind "
                    "to keypoints, levels.0.latent_dim to 2, and latent to shared above level 0"
                )

    def is_map(self, index: int) -> bool:
        """Whether the latent of a level is a map of the image."""
        return self.encoder.kind == "conv" and self.shares(index)

    def has_scene(self, index: int) -> bool:
        """Whether states of a level carry a map of what is around its latent."""
        return self.encoder.kind == "keypoints" and self.shares(index)

    @property
    def faces(self) -> bool:
        """Whether latents are of things, in one view, of which the last one faces somewhere."""
        points = self.levels[0].latent_dim // 2 if self.encoder.views == 1 else 0
        return self.encoder.kind == "things" and points > self.encoder.things

    @property
    def knows_floor(self) -> bool:
        """Whether it is learned where in an image a keypoint is ever seen."""
        return any(level.distance.kind == "paths" for level in self.levels)

    def shares(self, index: int) -> bool:
        """Whether the latent of a level is level 0's."""
        return all(level.latent == "shared" for level in self.levels[1 : index + 1])

    def window(self, levels: Sequence[int]) -> int:
        """Environment steps that a training window of some levels spans: their longest rollout."""
        return max((self.levels[i].rollout * self.durations[i] for i in levels), default=0)

    @property
    def durations(self) -> tuple[int, ...]:
        """Environment steps per step of each level."""
        out: list[int] = []
        for level in self.levels:
            out.append(level.stride * (out[-1] if out else 1))
        return tuple(out)
