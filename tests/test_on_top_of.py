"""Upper levels on a flat model that shares no code with ours: it stays as it is, and does its steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import IMAGE_SIZE, frame, model_config, write_episodes
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import echelon
from echelon import checkpoint
from echelon.agent import Agent
from echelon.config import OptimizerConfig, PlannerConfig, StageConfig, TrainConfig, faster
from echelon.data.episodes import Episodes
from echelon.models.foreign import ForeignModel
from echelon.models.hierarchy import Hierarchy
from echelon.models.precision import Reduced
from echelon.objective import Objective
from echelon.planning.planner import rollout
from echelon.progress import Progress
from echelon.types import EchelonError

SEARCH = OptimizerConfig(candidates=8, iterations=2, elites=2)
CONFIGS = (PlannerConfig(6, 2, SEARCH), PlannerConfig(3, 4, SEARCH))
UPPER = model_config(2).levels[1:]
FRAMES = 2


class Other(nn.Module):
    """LeWM's kind: frames to vectors, and a predictor conditioned on the action by AdaLN, which
    remembers the vector before. Its state is a tuple, of unequal shapes.
    """

    def __init__(self, size: int = 6) -> None:
        super().__init__()
        self.see = nn.Sequential(
            nn.Conv2d(3, 4, 4, stride=4), nn.GELU(), nn.Flatten(), nn.Linear(64, size)
        )
        self.steady = nn.BatchNorm1d(size)  # its statistics move where it is not in evaluation mode
        self.norm = nn.LayerNorm(2 * size, elementwise_affine=False)
        self.modulate = nn.Linear(1, 4 * size)
        self.step = nn.Linear(2 * size, size)

    def encode(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        flat = observation.flatten(0, 1).movedim(-1, 1) / 255
        z = self.steady(self.see(flat)).unflatten(0, observation.shape[:2])
        return z[:, -1], z[:, :-1]

    def predict(self, state: tuple[Tensor, Tensor], action: Tensor) -> tuple[Tensor, Tensor]:
        now, past = state
        shift, scale = self.modulate(action).chunk(2, -1)
        x = self.norm(torch.cat([now, past[:, -1]], -1)) * (1 + scale) + shift
        return now + 0.3 * self.step(x).tanh(), torch.cat([past[:, 1:], now[:, None]], 1)


def train_config(steps: int = 12, levels: tuple[int, ...] = (1,), **changes: Any) -> TrainConfig:
    stage = StageConfig(levels=levels, steps=steps, batch_size=8, **changes)
    options = {"held_out": 0.2, "checkpoint_seconds": 0.0, "log_every": 4, "accelerator": "cpu"}
    return TrainConfig(stages=(stage,), **options)


def other(size: int = 6) -> Other:
    torch.manual_seed(7)
    return Other(size)


def put(model: Any, episodes: Any, out: Path, **changes: Any) -> Hierarchy:
    options = {"levels": UPPER, "train": train_config(), "frames": FRAMES, "bank_size": 64}
    return echelon.on_top_of(model, episodes, out=out, **(options | changes))


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a: nn.Module, b: dict[str, Tensor]) -> bool:
    now = a.state_dict()
    return now.keys() == b.keys() and all(torch.equal(now[k], b[k]) for k in b)


def clips(batch: int, length: int) -> Tensor:
    rows = [[frame((0.1 * t + 0.3 * b) % 1) for t in range(length)] for b in range(batch)]
    return torch.from_numpy(np.array(rows))


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Episodes:
    return Episodes.open(write_episodes(tmp_path_factory.mktemp("data") / "dot.h5"))


@pytest.fixture(scope="module")
def finished(episodes: Episodes, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """The model, its weights before, the hierarchy on top of it, and its run folder."""
    out = tmp_path_factory.mktemp("on-top") / "run"
    model = other()
    before = weights(model)
    return model, before, put(model, episodes, out), out


def test_the_model_below_stays_as_it_is(finished: tuple[Any, ...]) -> None:
    model, before, hierarchy, _ = finished
    assert same(model, before)
    assert not model.training
    untrained = weights(Hierarchy(hierarchy.config, 1, foreign=ForeignModel(model, None, FRAMES)))
    moved = [k for k, v in weights(hierarchy).items() if not torch.equal(v, untrained[k])]
    assert any("_levels.1.predictor" in name for name in moved)
    assert any("_levels.1.encode_action" in name for name in moved)
    assert any("_levels.1.lift" in name for name in moved)


def test_its_weights_are_nobodys(finished: tuple[Any, ...]) -> None:
    model, _, hierarchy, out = finished
    known = {id(p) for p in model.parameters()}
    assert not known & {id(p) for p in hierarchy.parameters()}
    targets = Objective(hierarchy, 0.9).targets
    assert targets[0].encoder.foreign is hierarchy.levels[0].lift.encoder.foreign
    _, tensors = checkpoint.read_tensors(out / "checkpoint.safetensors", "model")
    assert not any("see" in k or "modulate" in k for k in tensors)
    below = {k for k in tensors if k.startswith("_levels.0.") and "prior" not in k}
    own = {"action_mean", "action_std", "action_bank", "before", "after"}
    own |= {"lift.encoder.mean", "lift.encoder.scale"}
    assert below == {f"_levels.0.{name}" for name in own}


def test_features_are_centred_and_keep_their_distances(
    finished: tuple[Any, ...], episodes: Episodes
) -> None:
    model, _, hierarchy, _ = finished
    seen = torch.from_numpy(episodes.pixels[:40])[None]
    ours = hierarchy.levels[0].lift(seen)  # [1, 38, ...]
    theirs = torch.stack([model.encode(seen[:, t : t + 2])[0] for t in range(39)], 1)
    z, before = theirs[:, 1:], theirs[:, :-1]
    scale = hierarchy.levels[0].lift.encoder.scale
    apart, own = torch.pdist(ours["z"][0]), torch.pdist(z[0])
    assert torch.allclose(apart, scale * own, atol=1e-3)
    assert torch.allclose(ours["dz"], 4.0 * scale * (z - before), atol=1e-5)
    everything = training_latents(hierarchy, episodes)
    assert everything.mean(0).abs().max() < 1e-4
    assert everything.std(correction=0) == pytest.approx(1, abs=1e-3)


def training_latents(hierarchy: Hierarchy, episodes: Episodes) -> Tensor:
    """Of all frames trained on; an episode's first frame stands for the one before it."""
    parts = []
    for index in episodes.split(0.2, 0)[0]:
        first, length = episodes.offsets[index], episodes.lengths[index]
        rows = np.concatenate([[first], np.arange(first, first + length)])
        parts.append(hierarchy.levels[0].lift.encoder(torch.from_numpy(episodes.pixels[rows])))
    return torch.cat(parts)


def test_flat_planning_is_the_models_own_steps(finished: tuple[Any, ...]) -> None:
    model, _, hierarchy, _ = finished
    seen, actions = clips(3, FRAMES + 1), torch.rand(3, 5, 4, 1) * 2 - 1
    predicted = rollout(hierarchy.levels[0], hierarchy.encode(seen), actions)
    encoder = hierarchy.levels[0].lift.encoder
    for k in range(5):
        state = model.encode(seen[:, 1:])
        before = (state[0] - encoder.mean) * encoder.scale
        for t in range(4):
            state = model.predict(state, actions[:, k, t])
            z = (state[0] - encoder.mean) * encoder.scale
            assert torch.allclose(predicted["z"][:, k, t], z, atol=1e-6)
            assert torch.allclose(predicted["dz"][:, k, t], 4 * (z - before), atol=1e-5)
            assert torch.allclose(predicted["foreign"][1][:, k, t], state[1], atol=1e-6)
            before = z


@pytest.mark.filterwarnings("ignore:planner:echelon.EchelonWarning")
def test_plans_with_one_and_two_levels(finished: tuple[Any, ...]) -> None:
    _, _, hierarchy, _ = finished
    for levels in (1, 2):
        agent = Agent.of(hierarchy, CONFIGS[:levels])
        agent.reset(np.stack([frame(0.9), frame(0.5), frame(0.1)]))
        actions = np.stack([agent.act(images) for images in clips(5, 3).numpy()])
        assert actions.shape == (5, 3, 1)
        assert np.abs(actions).max() <= 1
        assert actions.std() > 0
        assert len(agent.explain()["levels"]) == levels
        agent.keep(np.array([2]))
        assert agent.act(frame(0.4)[None]).shape == (1, 1)


@pytest.mark.filterwarnings("ignore:planner:echelon.EchelonWarning")
def test_the_model_is_not_planned_with_in_another_precision(finished: tuple[Any, ...]) -> None:
    _, _, hierarchy, _ = finished
    planner = Agent.of(hierarchy, faster(CONFIGS[:2], "bfloat16")).planner
    assert isinstance(planner.level, Reduced)
    assert planner.below is not None
    assert planner.below.level is hierarchy.levels[0]


@pytest.mark.filterwarnings("ignore:planner:echelon.EchelonWarning")
def test_what_the_model_spends_is_counted(finished: tuple[Any, ...]) -> None:
    model, _, hierarchy, _ = finished
    agent = Agent.of(hierarchy, CONFIGS[:1])
    agent.reset(frame(0.9))
    agent.act(frame(0.1))
    seen = clips(1, FRAMES + 1)
    with torch.no_grad(), FlopCounterMode(display=False) as encoding:
        state = model.encode(seen[:, :2])
        model.encode(seen[:, 1:])
    with torch.no_grad(), FlopCounterMode(display=False) as step:
        model.predict(state, torch.zeros(1, 1))
    calls = int(agent.spent.calls)
    assert calls == (2 * 8 + 1) * 6
    lifted = 2 * (4 * 8 + 8 * 8 + 8 * 3)  # the upper level is not asked for, nor is it for nothing
    own = (encoding.get_total_flops() + calls * step.get_total_flops()) // 2
    assert own <= int(agent.spent.macs) <= own + 2 * lifted


def test_running_again_resumes(
    finished: tuple[Any, ...], episodes: Episodes, tmp_path: Path
) -> None:
    class Stop(Progress):
        def task(self, name: str, total: int, start: int = 0) -> Any:
            self.left = 5

            class Bar:
                def __enter__(bar) -> Callable[[float | None], None]:
                    def advance(loss: float | None = None) -> None:
                        self.left -= 1
                        if not self.left:
                            raise KeyboardInterrupt

                    return advance

                def __exit__(bar, *_: object) -> None: ...

            return Bar()

    with pytest.raises(KeyboardInterrupt):
        put(other(), episodes, tmp_path, progress=Stop(quiet=True))
    assert (tmp_path / "training.safetensors").exists()
    resumed = put(other(), episodes, tmp_path)
    _, _, hierarchy, out = finished
    assert same(resumed, weights(hierarchy))
    files = [folder / "checkpoint.safetensors" for folder in (out, tmp_path)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_checkpoint_wants_its_model(finished: tuple[Any, ...], episodes: Episodes) -> None:
    model, _, hierarchy, out = finished
    path = out / "checkpoint.safetensors"
    for loaded in (
        echelon.load_on_top_of(path, model, frames=FRAMES),
        put(model, episodes, out),  # finished: nothing is trained
    ):
        assert same(loaded, weights(hierarchy))
        state, again = (h.encode(clips(2, 3)) for h in (hierarchy, loaded))
        assert torch.equal(state["z"], again["z"])
    with pytest.raises(EchelonError, match=r"load_on_top_of\(path, model\)"):
        echelon.load(path)
    with pytest.raises(EchelonError, match="6 features, but this one has 5"):
        echelon.load_on_top_of(path, other(5), frames=FRAMES)
    with pytest.raises(EchelonError, match="clips of 2 frames, not 3"):
        echelon.load_on_top_of(path, model, frames=3)
    torch.manual_seed(8)
    with pytest.raises(EchelonError, match="other weights"):
        echelon.load_on_top_of(path, Other(), frames=FRAMES)
    with pytest.raises(EchelonError, match="sha256"):
        put(Other(), episodes, out)


def test_a_model_without_modules_and_its_own_features(episodes: Episodes, tmp_path: Path) -> None:
    class Column:
        """Where the bright column is, exactly; a state in a dict, features elsewhere."""

        def encode(self, observation: Tensor) -> dict[str, Tensor]:
            light = observation[:, -1, 0, :, 0].double()
            x = (light * torch.arange(IMAGE_SIZE)).sum(-1) / light.sum(-1).clamp_min(1)
            return {"age": torch.zeros(len(x)), "x": x / (IMAGE_SIZE - 1)}

        def predict(self, state: dict[str, Tensor], action: Tensor) -> dict[str, Tensor]:
            x = (state["x"] + 0.1 * action[:, 0]).clamp(0, 1)
            return {"age": state["age"] + 1, "x": x}

    def place(state: dict[str, Tensor]) -> Tensor:
        return state["x"][:, None].expand(-1, 2)

    hierarchy = put(Column(), episodes, tmp_path, features=place, frames=1)
    assert hierarchy.config.levels[0].latent_dim == 2
    agent = Agent.of(hierarchy, CONFIGS[:1])
    x, goal = 0.3, 0.7
    agent.reset(frame(goal))
    for _ in range(16):
        x += 0.1 * float(agent.act(frame(x))[0])
    assert abs(x - goal) < 0.1


# ------------------------------------------------------------------------------------- mistakes


class Wrong(Other):
    """Goes wrong in the way it is told."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        if how == "actions":
            self.modulate = nn.Linear(3, 24)

    def encode(self, observation: Tensor) -> Any:
        now, past = super().encode(observation)
        if self.how == "number":
            return 3.0
        if self.how == "row":
            return now[0]
        if self.how == "nan":
            return now / 0, past
        return now, past

    def predict(self, state: Any, action: Tensor) -> Any:
        now, past = super().predict(state, action)
        return (now[:, :4], past) if self.how == "size" else (now, past)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("actions", r"predict cannot take actions \[2, 1\] of these episodes"),
        ("number", "encode must give a tensor, or a dict"),
        ("row", "with a row for each of 2 observations"),
        ("nan", "encode gives features that are not finite"),
        ("size", "6 features after encode, but 4 after predict"),
    ],
)
def test_models_that_cannot_stand_below(
    how: str, said: str, episodes: Episodes, tmp_path: Path
) -> None:
    with pytest.raises(EchelonError, match=said) as caught:
        put(Wrong(how), episodes, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_what_is_refused(episodes: Episodes, tmp_path: Path) -> None:
    def refused(said: str, model: Any = None, **changes: Any) -> None:
        with pytest.raises(EchelonError, match=said):
            put(model or other(), episodes, tmp_path / "run", **changes)

    refused("Linear has no method encode", nn.Linear(1, 1))
    refused("give at least one level", levels=())
    refused("level 0 is a model that stays as it is", train=train_config(levels=(0, 1)))
    refused("level 0 is a model that stays as it is", train=train_config(train_encoder=True))
    refused(r"features after encode are \[2\], not", features=lambda state: state[0][:, 0])
    refused("features after encode are str", features=lambda state: "z")
    refused("frames, that an observation is made of", frames=0)
    late = dataclasses.replace(episodes, pixels=episodes.pixels.copy())
    late.pixels[200:] = 0

    def dark(state: Any) -> Tensor:
        return torch.where(state[1][:, -1:, 0] == black, torch.nan, state[0])

    model = other()
    black = ForeignModel(model).encode(torch.zeros(1, 2, 16, 16, 3))[1][0, -1, 0]
    with pytest.raises(EchelonError, match="encode gives features that are not finite"):
        put(model, late, tmp_path / "late", features=dark)
