"""Landmark graphs of a model: fitted, kept, given to one that is trained, and planned with."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import frame, model_config, train_config, write_episodes
from torch import Tensor

from echelon import checkpoint, statistics
from echelon.agent import Agent
from echelon.atlas import Atlas
from echelon.config import LandmarkConfig, OptimizerConfig, PlannerConfig
from echelon.data.episodes import Episodes
from echelon.diagnostics import sign_agreement
from echelon.envs import layouts
from echelon.graph import Landmarks, fit_landmarks, shortest_paths
from echelon.models.hierarchy import Hierarchy
from echelon.models.landmarks import LandmarkGraph
from echelon.progress import Progress
from echelon.statistics import add_landmarks
from echelon.trainer import Trainer
from echelon.types import EchelonError

DOCUMENTATION = Path(__file__).parent.parent / "docs" / "architecture.md"
SMALL = LandmarkConfig(count=12, spare=2, frames=200, gaps=(2, 8))


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Episodes:
    return Episodes.open(write_episodes(tmp_path_factory.mktemp("data") / "dots.h5"))


@pytest.fixture(scope="module")
def fitted_model(episodes: Episodes) -> Hierarchy:
    """Of random weights, with what it takes from its data."""
    torch.manual_seed(0)
    model = Hierarchy(model_config(3), 1)
    ids = np.arange(len(episodes.lengths))
    statistics.fit_inputs(model, episodes, ids)
    statistics.fit_search(model.eval(), episodes, ids, seed=0)
    return model


@pytest.fixture
def model(fitted_model: Hierarchy) -> Hierarchy:
    return copy.deepcopy(fitted_model)


def added(model: Hierarchy, episodes: Episodes, *levels: int, **options: Any) -> list[Landmarks]:
    """Landmarks of some levels, from all episodes."""
    seed, configs = options.pop("seed", 0), {i: replace(SMALL, **options) for i in levels}
    ids = np.arange(len(episodes.lengths))
    found = add_landmarks(model, episodes, ids, configs, seed)
    assert tuple(found) == levels
    return list(found.values())


def graph_of(model: Hierarchy, level: int) -> LandmarkGraph:
    graph = model.levels[level].graph
    assert graph is not None
    return graph


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(v, right[k]) for k, v in left.items())


def test_a_trained_model_is_given_landmarks(model: Hierarchy, episodes: Episodes) -> None:
    before = copy.deepcopy(model)
    for found, level in zip(added(model, episodes, 0, 2), (0, 2), strict=True):
        graph = graph_of(model, level)
        assert graph.duration == (1, 4, 8)[level]
        assert graph.used.sum() == len(found.rows) <= 12
        assert model.config.levels[level].landmarks == model.levels[level].config.landmarks == SMALL
        least = found.steps[found.steps > 0].min()
        assert least >= (2 + 1) / graph.duration
    kept = {k: v for k, v in model.state_dict().items() if ".graph." not in k}
    assert kept.keys() == before.state_dict().keys()
    assert all(torch.equal(v, before.state_dict()[k]) for k, v in kept.items())
    # A level's landmarks are latents of its own, and another's are left alone.
    z = statistics.encode(model, episodes, np.arange(len(episodes.pixels)))
    for upper in model.levels[1:]:
        z = upper.place({"z": z})["z"]
    used = graph_of(model, 2).landmarks[graph_of(model, 2).used]
    assert torch.cdist(used, z).amin(-1).max() < 1e-5
    low, high = (copy.deepcopy(graph_of(model, level)) for level in (0, 2))
    added(model, episodes, 0, seed=1)
    assert same(graph_of(model, 2), high)
    assert not same(graph_of(model, 0), low)
    add_landmarks(model, episodes, np.arange(3), {0: LandmarkConfig()})
    assert model.levels[0].graph is None
    assert model.levels[2].graph is not None


def test_one_seed_makes_one_graph(model: Hierarchy, episodes: Episodes) -> None:
    again, other = copy.deepcopy(model), copy.deepcopy(model)
    for some, seed in ((model, 3), (again, 3), (other, 4)):
        torch.manual_seed(seed)  # which has no say in it
        added(some, episodes, 1, seed=seed)
    assert same(model, again)
    assert not same(model, other)


def test_frames_are_of_whole_episodes(model: Hierarchy, episodes: Episodes) -> None:
    """31 a piece: 2 episodes hold 40 frames, and all 12 fewer than a million."""
    for frames, most in ((40, 62), (10**6, 372)):
        (found,) = added(model, episodes, 0, frames=frames, count=1000)
        assert found.rows.max() < most
        assert len(found.rows) > most / 3


def test_a_checkpoint_keeps_it_to_the_bit(
    model: Hierarchy, episodes: Episodes, tmp_path: Path
) -> None:
    added(model, episodes, 0, 1)
    graph_of(model, 0).grow(torch.zeros(4), torch.full((4,), 9.0), 3)
    checkpoint.save_model(tmp_path / "a.safetensors", model, {})
    loaded = checkpoint.load_model(tmp_path / "a.safetensors")
    assert same(loaded, model)
    assert loaded.config == model.config
    z, goal = {"z": torch.randn(5, 4)}, {"z": torch.randn(5, 4)}
    found = [some.levels[0].measure("graph")(z, goal) for some in (model, loaded)]
    assert torch.equal(*found)
    # A model that is trained on keeps its own, empty until it is fitted to what it becomes.
    torch.manual_seed(5)
    config = replace(model.config, levels=model.config.levels[:2])
    more = Hierarchy(replace(config, levels=(*config.levels, model_config(3).levels[2])), 1)
    plain = Hierarchy(model_config(3), 1)
    for some in (more, plain):
        checkpoint.fill_lower(some, tmp_path / "a.safetensors")
        assert same(some.levels[0].lift, model.levels[0].lift)
    assert not graph_of(more, 0).fitted
    assert plain.levels[0].graph is None


@pytest.mark.parametrize("level", [0, 1])
def test_edges_of_the_model(level: int, model: Hierarchy, episodes: Episodes) -> None:
    """A model that believes every way to lead to one place is told so, of each landmark."""
    again = copy.deepcopy(model)
    (plain,) = added(model, episodes, level, gaps=(6, 8))
    target = plain.points[3]
    calls: list[Tensor] = []

    def teleport(state: Any, action: Tensor) -> Any:
        calls.append(action)
        return {"z": target.expand(len(action), -1), "dz": state["dz"]}

    again.levels[level].predict = teleport
    (found,) = added(again, episodes, level, gaps=(6, 8), model_edges=True)
    duration = (1, 4)[level]
    steps = 6 if level == 0 else 2  # as many as take 6 environment steps at least
    assert len(calls) == steps
    assert len(calls[0]) == 64 * len(plain.rows)
    assert torch.equal(found.points, plain.points)
    assert torch.equal(found.speed, plain.speed)
    edges = plain.steps.clone()
    edges[:, 3] = edges[:, 3].clamp_max(steps + 1 / duration).index_fill(0, torch.tensor(3), 0)
    assert torch.equal(found.steps, shortest_paths(edges))
    assert not torch.equal(found.steps, plain.steps)


def test_nothing_is_joined_where_predictions_end_nowhere(
    model: Hierarchy, episodes: Episodes
) -> None:
    again = copy.deepcopy(model)
    (plain,) = added(model, episodes, 0)
    again.levels[0].predict = lambda state, _: {"z": state["z"] + 99, "dz": state["dz"]}
    (found,) = added(again, episodes, 0, model_edges=True)
    assert torch.equal(found.steps, plain.steps)


def test_the_documentation_says_how(
    model: Hierarchy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    write_episodes(Path("mine.h5"))
    path = tmp_path / "checkpoint.safetensors"
    checkpoint.save_model(path, model, {"meta": {"task": "dot"}})
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENTATION.read_text(), re.DOTALL)
    exec(compile(code, "architecture.md", "exec"), {"path": path})
    assert "of the pairs have no path" in capsys.readouterr().out
    assert graph_of(checkpoint.load_model(path), 0).fitted
    assert checkpoint.describe(path)["about"] == {"meta": {"task": "dot"}}


def test_sign_agreement_of_a_maze_whose_latent_is_the_place(model: Hierarchy) -> None:
    """Walks from junction to junction, shown as their places: the graph can be descended."""
    rng, layout, speed = np.random.default_rng(0), layouts.generate(4, seed=0), 0.2
    cells = layouts.free_cells(layout)
    walks: list[np.ndarray] = []
    for _ in range(40):
        at, walked = cells[rng.integers(len(cells))], []
        lengths = layouts.distances(layout, tuple(cells[rng.integers(len(cells))]))
        while lengths[tuple(at)] > 0:
            steps = at + np.array([[0, 1], [1, 0], [0, -1], [-1, 0]])
            after = next(s for s in steps if lengths[tuple(s)] == lengths[tuple(at)] - 1)
            walked += [at + speed * i * (after - at) for i in range(round(1 / speed))]
            at = after
        walks.append(np.array([*walked, at]) + 0.5 + rng.normal(0, 0.05, (len(walked) + 1, 2)))
    config = LandmarkConfig(count=80)
    z = torch.from_numpy(np.concatenate(walks)).float()
    fitted = fit_landmarks(z, torch.tensor([len(walk) for walk in walks]), config, rng)
    level = model.levels[0]
    level.graph = LandmarkGraph(2, config)
    level.graph.fill(fitted.points, fitted.steps, fitted.speed, fitted.reach)
    atlas = Atlas(layout, cells + 0.5, (torch.from_numpy(cells + 0.5).float(),))
    graph, latent = (sign_agreement(model, 0, atlas, kind) for kind in ("graph", "latent"))
    assert sign_agreement(model, 0, atlas) == latent
    assert graph is not None
    assert latent is not None
    assert graph > 0.95
    assert latent < 0.8


# --- planning ------------------------------------------------------------------------------------


FEW = OptimizerConfig(candidates=6, iterations=2, elites=2)
GRAPH = PlannerConfig(horizon=3, replan=3, optimizer=FEW, cost="graph")
OWN = replace(GRAPH, cost="level")


@pytest.mark.parametrize(
    "configs",
    [
        (GRAPH,),
        (GRAPH, OWN),
        (OWN, GRAPH),
        (GRAPH, replace(GRAPH, options=2, enter=1.0)),
        (OWN, replace(GRAPH, hand_down="lift")),
        (replace(GRAPH, optimizer=replace(FEW, kind="gradient")), OWN, GRAPH),
    ],
    ids=["flat", "below", "above", "both", "lift", "three"],
)
def test_plans(configs: tuple[PlannerConfig, ...], model: Hierarchy, episodes: Episodes) -> None:
    added(model, episodes, 0, 1, 2, model_edges=True)
    actions: list[Any] = []
    for _ in range(2):
        agent = Agent.of(model, configs, seed=1)
        agent.reset(goal=np.stack([frame(0.9), frame(0.1)]))
        for x in (0.2, 0.3, 0.4, 0.5):
            actions.append(agent.act(np.stack([frame(x)] * 2)))
    assert np.array_equal(actions[:4], actions[4:])
    assert np.isfinite(actions).all()
    assert (np.abs(actions) <= 1).all()
    plan = agent.plan
    assert plan is not None
    assert len(plan.levels) == len(configs)
    assert (plan.total.macs > 0).all()
    for level, config, one in zip(model.levels, configs, plan.levels, strict=False):
        assert one.cost.isfinite().all()
        if config.cost == "graph" and one is plan and not one.direct.any():
            goal = {"z": one.goals[-1]["z"][:, None]}
            d = level.measure("graph")(one.states, goal)
            assert torch.allclose(one.cost, 0.7 * d.amin(-1) + 0.3 * d.mean(-1))


def test_the_search_descends_the_graph(model: Hierarchy, episodes: Episodes) -> None:
    """Its plans are nearer by the graph than those that descend the latents."""
    added(model, episodes, 0)
    measure, end = model.levels[0].measure("graph"), []
    goals, starts = (np.stack([frame(x) for x in xs]) for xs in ((0.9, 0.5, 0.1), (0.1, 0.9, 0.6)))
    for cost in ("graph", "latent"):
        search = replace(FEW, candidates=64)
        agent = Agent.of(model, [PlannerConfig(3, 3, search, minimum=1.0, cost=cost)])
        agent.reset(goals)
        agent.act(starts)
        assert agent.plan is not None
        goal = {"z": agent.plan.goals[0]["z"][:, None]}
        end.append(measure(agent.plan.states, goal).amin(-1).sum())
    assert end[0] < end[1]


# --- mistakes ------------------------------------------------------------------------------------


def test_what_is_not_there_is_told(model: Hierarchy, episodes: Episodes) -> None:
    some = np.arange(3)
    empty = Hierarchy(
        replace(model.config, levels=(replace(model_config(1).levels[0], landmarks=SMALL),)), 1
    )
    lifted = replace(GRAPH, cost="upper", hand_down="lift")
    for mistake, message in (
        (
            lambda: Agent.of(model, [GRAPH]),
            "levels.0: has no landmark graph; set levels.0.landmarks",
        ),
        (lambda: Agent.of(model, [OWN, GRAPH]), "levels.1: has no landmark graph"),
        (lambda: Agent.of(empty, [GRAPH]), "levels.0: its landmark graph is empty; fit it with"),
        (
            lambda: add_landmarks(model, episodes, some, {0: SMALL, 3: SMALL}),
            "no level 3; .* has 3",
        ),
        (lambda: add_landmarks(model, episodes, some, {-1: SMALL}), "no level -1"),
        (lambda: Agent.of(model, [OWN, lifted]), "hand_down: 'lift' judges by .* not 'upper'"),
    ):
        with pytest.raises(EchelonError, match=message) as caught:
            mistake()
        assert "\n" not in str(caught.value)
    assert all(level.graph is None for level in model.levels)


def test_training_fits_them_and_may_start_from_another(episodes: Episodes, tmp_path: Path) -> None:
    config = model_config(1)
    level = replace(config.levels[0], landmarks=SMALL)
    config, train = replace(config, levels=(level,)), train_config(1, steps=2)
    first = Trainer(episodes, config, train, tmp_path / "first")
    model = first.run(Progress(quiet=True))
    assert graph_of(model, 0).fitted
    assert same(checkpoint.load_model(first.checkpoint), model)
    rest = replace(train, start_from=str(first.checkpoint))
    level = replace(level, landmarks=replace(SMALL, count=5, spare=0))
    config = replace(config, levels=(level,))
    again = Trainer(episodes, config, rest, tmp_path / "again").run(Progress(quiet=True))
    assert graph_of(again, 0).landmarks.shape == (5, 4)
    assert graph_of(again, 0).fitted
