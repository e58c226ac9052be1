"""Every part of the objective trains by configuration, comes back from its checkpoint, and plans."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from tiny import frame, model_config, train_config, write_episodes

from echelon import agent, checkpoint
from echelon.cli import main
from echelon.config import (
    DistanceConfig,
    EncoderConfig,
    LevelConfig,
    LossConfig,
    MaskedConfig,
    ModelConfig,
    OptimizerConfig,
    PlannerConfig,
    StageConfig,
    TrainConfig,
    to_dict,
)
from echelon.data.episodes import Episodes
from echelon.progress import Progress
from echelon.trainer import Trainer

# Two steps of training teach nothing, and what a model is good for is said elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore::echelon.EchelonWarning")

FINE, ABOVE = model_config(2).levels
NEXT = replace(ABOVE, stride=2)
SHARED = replace(ABOVE, latent="shared", latent_dim=4)
VIT = EncoderConfig(kind="vit", patch=4, depth=1, heads=2)
CLIPS = replace(VIT, frames=2)
SEEING = replace(FINE, lift_width=16)
"""wide enough for a transformer"""
MAP = EncoderConfig(kind="conv", grid=2)
LOCAL = replace(FINE, latent_dim=8, predictor="conv", width=4)
PLACES = EncoderConfig(kind="keypoints", grid=4, channels=2)
PATHS = DistanceConfig(kind="paths", resolution=8)
LOOKING = replace(FINE, latent_dim=2, predictor="local", glimpse=3)
MASKED = MaskedConfig(frames=4, width=12, depth=1, heads=2)
JOINT = StageConfig((0, 1), 2, 8, train_encoder=True, gradient_below=True)
VISION = StageConfig((0,), 2, 8, train_encoder=True)
FINDING = StageConfig((), 2, 8, train_encoder=True)
PRETRAINING = StageConfig((), 2, 8, train_encoder=True, masked=True)
UPPER = StageConfig((1,), 2, 8)
NOTHING: dict[str, Any] = dict.fromkeys(
    ("variance", "correlation", "smoothness", "inverse_dynamics"), 0.0
)


@dataclass(frozen=True)
class Case:
    """A model, how it is trained, and terms that only its option has."""

    levels: tuple[LevelConfig, ...]
    terms: tuple[str, ...] = ()
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    stages: tuple[StageConfig, ...] = ()
    masked: MaskedConfig = MASKED
    ema: float = 0.99
    proprio: str | None = None
    precision: Literal["32-true", "bf16-mixed"] = "32-true"

    @property
    def model(self) -> ModelConfig:
        return ModelConfig(self.levels, self.encoder, self.proprio, image_size=16, bank_size=16)

    @property
    def train(self) -> TrainConfig:
        base = train_config(len(self.levels), steps=2)
        stages = self.stages or base.stages
        rarely = {"checkpoint_seconds": 1e6, "log_every": 100}
        own = {"ema": self.ema, "masked": self.masked, "precision": self.precision}
        return replace(base, stages=stages, **own, **rarely)


def shaped(*terms: str, **weights: Any) -> Case:
    """The loss of both levels, from prediction alone."""
    loss = LossConfig(**{**NOTHING, **weights})
    names = tuple(f"level{level}/{name}" for level in (0, 1) for name in terms)
    return Case((replace(FINE, loss=loss), replace(ABOVE, loss=loss)), names, stages=(JOINT,))


def measured(kind: Any, *terms: str, shape_latent: bool = False) -> Case:
    distance = DistanceConfig(
        kind=kind, shape_latent=shape_latent, width=8, components=2, component_size=2
    )
    names = tuple(f"level{level}/{name}" for level in (0, 1) for name in terms)
    return Case((replace(FINE, distance=distance), replace(ABOVE, distance=distance)), names)


CASES: dict[str, Case] = {
    "one level": Case((FINE,), ("level0/prediction",)),
    "two levels": Case((FINE, ABOVE), ("level1/prediction",)),
    "three levels": Case((FINE, ABOVE, NEXT), ("level2/prediction",)),
    "four levels": Case((FINE, NEXT, NEXT, NEXT), ("level3/prediction",)),
    "shared latents": Case((FINE, SHARED, replace(SHARED, stride=2))),
    "own above shared": Case((FINE, SHARED, NEXT), ("level2/variance",)),
    "joint": Case((FINE, ABOVE), stages=(JOINT,)),
    "joint, each shaped by its own": Case(
        (FINE, ABOVE), stages=(replace(JOINT, gradient_below=False),)
    ),
    "staged, frozen below": Case((FINE, ABOVE), stages=(VISION, UPPER)),
    "macro transformer": Case((FINE, replace(ABOVE, macro="transformer"), NEXT)),
    "macro transformer, spans": Case((FINE, replace(ABOVE, macro="transformer", span=(2, 6)))),
    "concatenated": Case((FINE, replace(ABOVE, macro="concat", action_dim=None))),
    "concatenated twice": Case((FINE, *[replace(NEXT, macro="concat", action_dim=None)] * 2)),
    "conv": Case(
        (LOCAL, replace(LOCAL, latent="shared", stride=4, action_dim=2, rollout=2)),
        ("level0/variance",),
        encoder=MAP,
    ),
    "conv, own latent above": Case((LOCAL, ABOVE), encoder=MAP, stages=(JOINT,)),
    "keypoints, local at both levels": Case(
        (
            LOOKING,
            replace(LOOKING, latent="shared", stride=4, action_dim=2, rollout=2, spacing=2.0),
        ),
        encoder=PLACES,
    ),
    "keypoints, shortest paths": Case(
        (
            replace(LOOKING, distance=PATHS),
            replace(LOOKING, distance=PATHS, latent="shared", stride=4, action_dim=2, rollout=2),
        ),
        ("level0/floor",),
        encoder=PLACES,
    ),
    "keypoints, own latent above": Case(
        (replace(LOOKING, latent_dim=4), ABOVE),
        ("encoder/changing", "encoder/shifting"),
        encoder=PLACES,
        stages=(FINDING, JOINT, UPPER),
    ),
    "vit, images": Case((SEEING, ABOVE), encoder=VIT),
    "vit, clips": Case((SEEING, ABOVE), encoder=CLIPS),
    "predictor transformer": Case(
        tuple(replace(x, predictor="transformer", history=2) for x in (FINE, ABOVE))
    ),
    "ensembles": Case(tuple(replace(x, ensemble=2) for x in (FINE, ABOVE))),
    "ensemble of maps": Case((replace(LOCAL, ensemble=2),), encoder=MAP),
    "proprioception": Case((FINE, ABOVE), proprio="state"),
    "proprioception and clips": Case((SEEING, SHARED), encoder=CLIPS, proprio="state"),
    "stop-gradient": Case((FINE, ABOVE), ema=0.0),
    "half precision": Case(
        (SEEING, replace(ABOVE, predictor="transformer", macro="transformer")),
        encoder=CLIPS,
        stages=(replace(JOINT, masked=True), UPPER),
        precision="bf16-mixed",
    ),
    "l1": Case(tuple(replace(x, loss=LossConfig(norm="l1")) for x in (FINE, ABOVE))),
    "teacher-forced": shaped("teacher_forced", prediction=0.0, teacher_forced=1.0, variance=1.0),
    "teacher-forced and rolled out": shaped("prediction", "teacher_forced", teacher_forced=1.0),
    "vicreg": shaped("variance", "correlation", variance=1.0, correlation=1.0),
    "sigreg": shaped("sigreg", sigreg=1.0),
    "log-determinant": shaped("log_determinant", "smoothness", log_determinant=1.0, smoothness=6.0),
    "inverse dynamics": shaped("inverse_dynamics", inverse_dynamics=1.0),
    "quasimetric": measured("quasimetric", "distance_apart", "distance_excess"),
    "expectile": measured("expectile", "distance_expectile"),
    "contrastive": measured("contrastive", "distance_contrastive"),
    "quasimetric that shapes the latent": replace(
        measured("quasimetric", "distance_apart", shape_latent=True), stages=(JOINT,)
    ),
    "masked, then action-conditioned": Case(
        (SEEING, ABOVE), ("masked",), encoder=CLIPS, stages=(PRETRAINING, VISION, UPPER)
    ),
    "masked beside the levels": Case(
        (SEEING, ABOVE), ("masked",), encoder=VIT, stages=(replace(JOINT, masked=True),)
    ),
    "hybrid": Case(
        (SEEING, ABOVE),
        ("masked", "pixels"),
        encoder=CLIPS,
        stages=(replace(JOINT, masked=True),),
        masked=replace(MASKED, pixels=1.0),
    ),
    "pixels alone": Case(
        (SEEING,),
        ("pixels",),
        encoder=VIT,
        stages=(PRETRAINING, VISION),
        masked=replace(MASKED, weight=0.0, pixels=1.0),
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_episodes(tmp_path_factory.mktemp("data") / "dots.h5", episodes=6)


def logged(out: Path) -> set[str]:
    """Names of all figures in a run's log."""
    lines = (out / "log.jsonl").read_text().splitlines()
    return {name for line in lines for name in json.loads(line)}


def assert_plans(path: Path) -> None:
    """The checkpoint's model, planned with at all its levels, acts within its bounds."""
    few = OptimizerConfig(candidates=6, iterations=1, elites=2)
    depth = len(checkpoint.load_model(path).levels)
    driver = agent.load(path, [PlannerConfig(horizon=3, replan=3, optimizer=few)] * depth)
    driver.reset(goal=frame(0.9))
    proprio = np.array([0.1]) if driver.model.proprio_dim else None
    action = driver.act(frame(0.1), proprio)
    prior = driver.model.levels[0].prior
    assert action.shape == (1,)
    assert np.isfinite(action).all()
    assert prior.low.item() <= action.item() <= prior.high.item()
    assert len(driver.explain()["levels"]) == depth


def assert_all_is_reached(trainer: Trainer, index: int) -> None:
    """A gradient comes to all that a stage is to train: several processes would wait for it."""
    stage, module = trainer.config.stages[index], trainer.objective
    trained = module.trained(stage)
    module.zero_grad()
    module.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)
    trainer._train_mode(stage)
    asked = stage.levels, stage.gradient_below, stage.masked
    terms = module(*trainer._batches(stage, index)[0](0), *asked)
    torch.stack(list(terms.values())).sum().backward()
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    assert [names[id(p)] for p in trained if p.grad is None] == []


@pytest.mark.parametrize("name", CASES)
def test_trains_loads_and_plans(name: str, data: Path, tmp_path: Path) -> None:
    case = CASES[name]
    trainer = Trainer(Episodes.open(data), case.model, case.train, tmp_path)
    trainer.run(Progress(quiet=True))
    assert set(case.terms) <= logged(tmp_path)
    assert all(value.isfinite().all() for value in trainer.objective.state_dict().values())
    loaded = checkpoint.load_model(trainer.checkpoint)
    assert loaded.config == case.model
    kept = trainer.model.state_dict()
    assert all(torch.equal(value, kept[key]) for key, value in loaded.state_dict().items())
    assert_plans(trainer.checkpoint)
    for index in range(len(case.train.stages)):
        assert_all_is_reached(trainer, index)


# ------------------------------------------------------------------------- the command line


def test_the_command_line_reaches_any_model_by_a_file(data: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.json"
    levels = (SEEING, replace(ABOVE, macro="transformer", span=(2, 6)), replace(NEXT, width=8))
    model.write_text(json.dumps(to_dict(Case(levels, encoder=CLIPS, proprio="state").model)))
    options = (
        "--train.stages.0.masked --train.stages.0.steps 2 --train.stages.0.batch-size 8 "
        "--train.stages.1.steps 2 --train.stages.1.batch-size 8 --train.ema 0 "
        "--train.stages.1.train-encoder --train.stages.1.gradient-below --train.masked.pixels 1 "
        "--train.masked.frames 4 --train.masked.width 12 --train.masked.heads 2 "
        "--train.accelerator cpu"
    )
    run = ["train", str(data), "--out", str(tmp_path / "run"), "--model-from", str(model)]
    assert main([*run, *options.split()]) == 0
    assert {"masked", "pixels", "level2/prediction"} <= logged(tmp_path / "run")
    assert_plans(tmp_path / "run" / "checkpoint.safetensors")


def test_the_command_line_reaches_any_stages_by_a_file(data: Path, tmp_path: Path) -> None:
    case = CASES["masked, then action-conditioned"]
    for name, config in (("model", case.model), ("train", case.train)):
        (tmp_path / f"{name}.json").write_text(json.dumps(to_dict(config)))
    files = ["--model-from", tmp_path / "model.json", "--train-from", tmp_path / "train.json"]
    run = [str(x) for x in ("train", data, "--out", tmp_path / "run", *files)]
    assert main(run) == 0
    written = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert written["train"] == to_dict(case.train)
    assert_plans(tmp_path / "run" / "checkpoint.safetensors")


def test_a_file_of_stages_is_the_whole_training(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "train.json"
    run = ["train", str(data), "--out", str(tmp_path / "run"), "--train-from", str(file)]
    for content, options, message in (
        ("{}", ["--train.seed", "3"], "train-from: a file says the whole training"),
        ('{"stages": [{"steps": 1}]}', [], "stages.0: missing field levels, batch_size"),
    ):
        file.write_text(content)
        assert main([*run, *options]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert not (tmp_path / "run").exists()
