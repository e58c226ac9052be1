"""Faster planning: reduced precision, compiled code, and a search that never waits for the device."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from matplotlib.image import imsave
from tiny import frame, model_config
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode

import echelon
from echelon import checkpoint
from echelon.agent import Agent
from echelon.cli import main
from echelon.config import (
    EncoderConfig,
    LevelConfig,
    ModelConfig,
    OptimizerConfig,
    PlannerConfig,
    Precision,
    TrainConfig,
    faster,
    to_dict,
)
from echelon.envs import layouts
from echelon.envs.mazes import MazeTask
from echelon.models.hierarchy import Hierarchy
from echelon.models.precision import Reduced, in_precision
from echelon.planning import compiled
from echelon.planning.compiled import LONGEST, Compiled, filled
from echelon.planning.planner import Planner, build, rollout
from echelon.planning.reach import Search
from echelon.records import load as load_records
from echelon.types import State

Kind = Literal["cem", "icem", "mppi", "gradient", "refine"]
KINDS: tuple[Kind, ...] = ("cem", "icem", "mppi", "gradient", "refine")
SEARCH = OptimizerConfig(candidates=8, iterations=2, elites=2)
CONFIGS = (PlannerConfig(6, 2, SEARCH, support=0.1), PlannerConfig(3, 4, SEARCH))
GOALS = np.stack([frame(x) for x in (0.9, 0.5, 0.1)])


def make_model(**fine: Any) -> Hierarchy:
    """Two levels whose predictors do something from the start."""
    torch.manual_seed(0)
    config = model_config(2)
    levels: tuple[LevelConfig, ...] = (replace(config.levels[0], **fine), *config.levels[1:])
    if levels[0].predictor == "conv":
        config = replace(config, levels=levels, encoder=EncoderConfig(kind="conv", grid=2))
    model = Hierarchy(replace(config, levels=levels), 1).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    for level in model.levels:
        level.action_bank.normal_()
    for level in model.levels[1:]:
        level.bank.normal_()
        level.bank_below.normal_()
    return model


def images(step: int, count: int = 3) -> np.ndarray:
    return np.stack([frame((0.1 * step + 0.3 * i) % 1) for i in range(count)])


def drive(agent: Agent, steps: int = 5) -> np.ndarray:
    agent.reset(GOALS)
    return np.stack([agent.act(images(t)) for t in range(steps)])


# ---------------------------------------------------------------------------- precision


@pytest.mark.parametrize(
    "fine",
    [
        {},
        {"predictor": "transformer", "heads": 2, "history": 3},
        {"predictor": "conv", "latent_dim": 8},
    ],
)
def test_a_rollout_in_reduced_precision_is_nearly_that_of_float32(fine: dict[str, Any]) -> None:
    level = make_model(**fine).levels[0]
    size = level.config.latent_dim
    state = {"z": torch.randn(3, size), "dz": torch.randn(3, size)}
    actions = torch.rand(3, 5, 6, 1) * 2 - 1
    reduced = in_precision(level, "bfloat16")
    with torch.no_grad():
        exact, near = rollout(level, state, actions), rollout(reduced, state, actions)
    assert {part: x.dtype for part, x in near.items()} == dict.fromkeys(near, torch.float32)
    error = (near["z"] - exact["z"]).square().mean().sqrt()
    moved = (exact["z"] - state["z"][:, None, None]).square().mean().sqrt()
    assert 0 < error < 0.02 * moved  # eight bits of every change are kept


def test_a_small_step_of_a_large_latent_is_not_rounded_away() -> None:
    level = make_model().levels[0]
    with torch.no_grad():
        for parameter in level.predictor.parameters():
            parameter.zero_()
        level.predictor.linear.bias.fill_(2**-12)
    state = {"z": torch.full((1, 4), 100.0), "dz": torch.zeros(1, 4)}
    reduced = in_precision(level, "bfloat16")
    with torch.no_grad():
        moved = rollout(reduced, state, torch.zeros(1, 1, 8, 1))["z"][0, 0, -1] - state["z"][0]
    assert moved.tolist() == pytest.approx([8 * 2**-12] * 4, rel=0.01)


def test_planning_in_reduced_precision_leaves_the_model_alone() -> None:
    model = make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    agent = Agent.of(model, faster(CONFIGS, "bfloat16"))
    plain = Agent.of(model, CONFIGS)
    actions = drive(agent)
    assert (np.abs(actions) <= 1).all()
    assert not np.array_equal(actions, drive(plain))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
        assert value.dtype == before[name].dtype
    assert agent.spent.macs.tolist() == plain.spent.macs.tolist()


@pytest.mark.parametrize("index", [0, 1])
def test_a_plan_costs_nearly_the_same_in_reduced_precision(index: int) -> None:
    model = make_model()
    costs: list[Tensor] = []
    size = model.levels[index].config.latent_dim
    state, goal = ({"z": torch.randn(4, size), "dz": torch.zeros(4, size)} for _ in range(2))
    actions = torch.rand(4, 16, 6, model.levels[index].action_dim) * 2 - 1
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    for precision in precisions:
        level = in_precision(model.levels[index], precision)
        planner = build([level], [PlannerConfig(6, 2, SEARCH)])
        with torch.no_grad():
            costs.append(planner.evaluate(state, goal, actions))
    exact, near = costs
    assert near.dtype == torch.float32
    assert not torch.equal(near, exact)
    assert torch.allclose(near, exact, rtol=0.01)
    # A search goes by what sets candidates apart.
    assert (near - exact).std(1).mean() < 0.05 * exact.std(1).mean()


def test_reduced_copies_follow_what_is_refitted() -> None:
    level = make_model().levels[1]
    reduced = in_precision(level, "bfloat16")
    state = {"z": torch.randn(2, 3), "dz": torch.zeros(2, 3)}
    action = torch.ones(2, 2)
    before = reduced.predict(state, action)["z"]
    level.action_mean.fill_(5.0)
    assert not torch.equal(reduced.predict(state, action)["z"], before)
    assert reduced.prior.bank is level.action_bank
    assert reduced.stride == level.stride
    assert in_precision(level, "float32") is level


# ---------------------------------------------------------------------------- compiled code


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """`torch.compile` without its code generator, which takes a minute; with what it was asked for."""
    real, asked = torch.compile, list[dict[str, Any]]()

    def compile(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        asked.append(options)
        return real(function, **options, backend="eager")

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setenv("CXX", sys.executable)  # anything that is there
    return asked


def test_compiled_planning_plans_the_same(traced: list[dict[str, Any]]) -> None:
    model = make_model()
    agent, plain = Agent.of(model, faster(CONFIGS, compile=True)), Agent.of(model, CONFIGS)
    assert np.allclose(drive(agent), drive(plain), atol=1e-5)
    assert torch.equal(agent.spent.macs, plain.spent.macs)
    assert traced == [{"dynamic": True, "mode": None}] * 2  # each level once


def test_a_size_that_changes_is_not_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    counter, real = CompileCounter(), torch.compile
    monkeypatch.setenv("CXX", sys.executable)
    monkeypatch.setattr(
        torch, "compile", lambda f, dynamic, mode: real(f, dynamic=dynamic, backend=counter)
    )
    planner = build(make_model().levels, [CONFIGS[0]])
    for agents in (1, 2):
        fast = Compiled(planner.evaluate)
        for batch, candidates in ((9, 8), (5, 3), (2, 16), (7, 8)):
            state, goal = ({"z": torch.randn(batch, 4), "dz": torch.zeros(batch, 4)} for _ in "ab")
            actions = torch.rand(batch, candidates, 6, 1)
            with torch.no_grad():
                expected = planner.evaluate(state, goal, actions)
                assert torch.allclose(fast(state, goal, actions), expected, atol=1e-6)
        assert counter.frame_count == agents  # whole, and once


def test_horizons_too_long_to_compile_stay_as_they_are() -> None:
    for horizon, is_compiled in ((LONGEST, True), (LONGEST + 1, False)):
        config = PlannerConfig(horizon, 2, SEARCH, compile=True)
        planner = build(make_model().levels, [config])
        assert (planner.compiled is not None) == is_compiled
    assert build(make_model().levels, [CONFIGS[0]]).compiled is None


@pytest.mark.parametrize("fails", ["unseen", "at once", "late"])
def test_without_a_compiler_planning_goes_on(
    fails: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[int] = []

    def absent(*_: Any, **__: Any) -> Any:
        tried.append(1)
        raise RuntimeError("InvalidCxxCompiler")

    late = fails == "late"
    monkeypatch.setattr(torch, "compile", (lambda *_, **__: absent) if late else absent)
    monkeypatch.setenv("CXX", "no-such-compiler" if fails == "unseen" else sys.executable)
    compiled.tell.cache_clear()
    model = make_model()
    with caplog.at_level(logging.DEBUG, "echelon"):
        actions = drive(Agent.of(model, faster(CONFIGS, compile=True)))
    assert np.array_equal(actions, drive(Agent.of(model, CONFIGS)))
    assert len(tried) == (0 if fails == "unseen" else 2)  # each level, once
    assert len(caplog.records) == 1
    assert "without compiled code" in caplog.text


def test_an_error_of_the_function_s_own_comes_through(traced: list[dict[str, Any]]) -> None:
    def wrong(x: Tensor) -> Tensor:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        Compiled(wrong)(torch.ones(2))


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8), (9, 16)])
def test_rows_are_filled_up_to_a_power_of_two(count: int, expected: int) -> None:
    x = torch.arange(2.0 * count).reshape(count, 2)
    more = filled(x)
    assert torch.equal(more[:count], x)
    assert torch.equal(more[count:], x[:1].expand(expected - count, 2))


# ---------------------------------------------------------------------------- the loop


class Watch(TorchDispatchMode):
    """Notes in order each rollout and each number that is copied to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            self.events.append("copy")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("proposal", ["gaussian", "covariance", "bank"])
def test_a_search_copies_nothing_to_the_host_between_its_rounds(
    kind: Kind,
    proposal: Literal["gaussian", "covariance", "bank"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    optimizer = OptimizerConfig(kind, 8, 3, 2, steps=2, proposal=proposal)
    planner = build(make_model().levels, [PlannerConfig(4, 2, optimizer, support=1.0)])
    states = ({"z": torch.randn(3, 4), "dz": torch.zeros(3, 4)},)
    goals = ({"z": torch.randn(3, 4)},)
    watch, real = Watch(), Planner.roll_out

    def noting(self: Planner, state: State, actions: Tensor) -> State:
        watch.events.append("rollout")
        return real(self, state, actions)

    def refused(*_: Any, **__: Any) -> Any:
        watch.events.append("copy")
        raise AssertionError

    search = Search(0, torch.Generator().manual_seed(0))
    with torch.no_grad():
        old = planner.find(states, goals, None, search, 1)  # which also counts what that takes
        monkeypatch.setattr(Planner, "roll_out", noting)
        for name in ("cpu", "numpy", "tolist", "__array__"):
            monkeypatch.setattr(Tensor, name, refused)
        with watch:
            planner.find(states, goals, old, search, 1)
    rounds = {"cem": 3, "icem": 3, "mppi": 4, "gradient": 4, "refine": 6}[kind]
    # One look at the end, whether any cost was finite; then what was found is rolled out.
    assert watch.events == ["rollout"] * rounds + ["copy", "rollout"]
    with Watch() as other:
        assert torch.ones(1).item() == 1
        assert bool(torch.ones(1))
    assert other.events == ["copy"] * 2


# ---------------------------------------------------------------------------- where it is asked for


@pytest.fixture(scope="module")
def maze(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as of a training in a maze, though its weights are random."""
    path = tmp_path_factory.mktemp("maze") / "maze.safetensors"
    torch.manual_seed(0)
    model = Hierarchy(ModelConfig(model_config(2).levels, image_size=32, bank_size=16), 2)
    about = {
        "data": {"name": "none", "transitions": 10, "sha256": "0" * 64},
        "meta": MazeTask().meta([layouts.generate(3, seed=0)]),
        "train": to_dict(TrainConfig()),
    }
    checkpoint.save_model(path, model, about)
    return path


def test_an_agent_is_loaded_with_both(maze: Path, traced: list[dict[str, Any]]) -> None:
    plain = echelon.load(maze)
    fast = echelon.load(maze, precision="bfloat16", compile=True)
    assert not isinstance(plain.planner.level, Reduced)
    planner: Planner | None = fast.planner
    while planner is not None:
        assert isinstance(planner.level, Reduced)
        assert planner.compiled is not None
        planner = planner.below
    image = np.zeros((32, 32, 3), np.uint8)
    fast.reset(image + 9)
    assert np.isfinite(fast.act(image)).all()
    assert len(traced) == 2


def test_the_command_line_takes_both(
    maze: Path, tmp_path: Path, traced: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    both = ["--precision", "bfloat16", "--compile"]
    settings = tmp_path / "mine.json"
    own = PlannerConfig(4, 2, SEARCH)
    settings.write_text(json.dumps([to_dict(own)]))
    arguments = [
        "evaluate",
        str(maze),
        "--trials",
        "1",
        "--budget",
        "2",
        "--planner",
        str(settings),
    ]
    for more, expected in ((both, faster([own], "bfloat16", True)), ([], (own,))):
        out = tmp_path / f"out-{len(more)}"
        assert main([*arguments, "--out", str(out), *more]) == 0
        for record in load_records(out / "records.json"):
            assert record.planner == {"levels": [to_dict(level) for level in expected]}
    assert len(traced) == 1
    for name in ("now", "goal"):
        imsave(tmp_path / f"{name}.png", np.full((32, 32, 3), len(name), np.uint8))
    asked = ["plan", str(maze), "--planner", str(settings)]
    asked += ["--observation", str(tmp_path / "now.png"), "--goal", str(tmp_path / "goal.png")]
    found: list[Any] = []
    for more in ([], both):
        capsys.readouterr()
        assert main([*asked, *more]) == 0
        found.append(json.loads(capsys.readouterr().out)["levels"][0])
    assert len(traced) == 2
    assert found[0]["cost"] != found[1]["cost"]
    assert found[0]["cost"] == pytest.approx(found[1]["cost"], rel=0.01)
