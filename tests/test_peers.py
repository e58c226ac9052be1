"""The comparison with other planners: that all are asked the same, counted and judged alike."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from tiny import model_config

from echelon import checkpoint
from echelon.bench import peer_planners, peers
from echelon.bench.peer_planners import Costable, Entry, Ours, Size, Task, ours, plain_cem, stepwise
from echelon.bench.peers import Peers, as_good, counted, measure
from echelon.models.hierarchy import Hierarchy, Level
from echelon.planning.planner import rollout
from echelon.progress import Progress
from echelon.report import read_section
from echelon.types import EchelonError

ROOT = Path(__file__).parent.parent
SIZE = Size(environments=3, candidates=16, iterations=4, elites=4, horizon=5, goals="smooth")


@pytest.fixture
def level() -> Level:
    """Pushed about by its actions, so that they matter to the cost; they are 0.5 at rest."""
    torch.manual_seed(0)
    level = Hierarchy(model_config(1), 2).eval().levels[0]
    with torch.no_grad():
        level.predictor.linear.weight[:, -2:].normal_()
        level.before.normal_()
        level.after.copy_(level.before)
        level.prior_mean.fill_(0.5)
        level.prior_std.fill_(0.3)
    return level


@pytest.fixture
def task(level: Level) -> Task:
    with torch.no_grad():
        return Task.of(level, SIZE, 0)


def page_in(folder: Path) -> Path:
    page = folder / "page.md"
    page.write_text("Before\n<!-- results:peers -->\n<!-- /results:peers -->\nafter\n")
    return page


@torch.no_grad()
def test_costs_are_those_of_our_rollout_however_they_are_asked_for(task: Task) -> None:
    normal = torch.randn(3, 16, 5, 2)
    actions = task.actions(normal)
    assert (actions.amin() >= -1, actions.amax()) == (True, 1)
    expected = task.level.distance(
        rollout(task.level, task.state, actions), {"z": task.goal["z"][:, None, None]}
    ).mean(-1)
    assert torch.allclose(task.costs(task.state, task.goal, actions), expected, atol=1e-5)
    expanded = {k: x[:, None].expand(-1, 16, -1) for k, x in task.state.items()}
    expanded["goal"] = task.goal["z"][:, None].expand(-1, 16, -1)
    assert torch.allclose(Costable(task).get_cost(expanded, normal), expected, atol=1e-5)
    dynamics, cost = stepwise(task)
    flat = torch.cat([task.state[part] for part in task.level.parts], -1).repeat_interleave(16, 0)
    total = torch.zeros(48)
    for t in range(5):
        action = actions[:, :, t].flatten(0, 1)
        flat = dynamics(flat, action)
        total += cost(flat, action)
    assert torch.allclose(total.unflatten(0, (3, 16)), expected, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        partial(ours, Ours("cem")),
        partial(ours, Ours("mppi", correlation=0.0)),
        partial(ours, Ours("mppi", precision="bfloat16")),
        plain_cem,
    ],
)
def test_planners_find_their_way_within_bounds(task: Task, make: object) -> None:
    still = task.judge(task.level.prior.mean.expand(task.shape))
    plan = make(task, 0.1)
    actions = plan(0)
    assert actions.shape == (3, 5, 2)
    assert actions.abs().max() <= 1
    assert torch.equal(actions, plan(0))
    assert task.judge(actions) < 0.8 * still


def test_what_is_spent_is_counted(task: Task) -> None:
    def spent(make: Callable[[Task, float], peer_planners.Plan]) -> tuple[int, int]:
        return counted(task.level, peers.tuned(task, Entry("", "", make)))

    calls, flops = spent(plain_cem)
    assert calls == 3 * 16 * 4 * 5
    linear = [m for m in task.level.predictor.modules() if isinstance(m, torch.nn.Linear)]
    assert flops == 2 * calls * sum(m.weight.numel() for m in linear)
    # ours rolls out what it found once more
    for how in (Ours("cem"), Ours("cem", precision="bfloat16")):
        assert spent(partial(ours, how))[0] == calls + 3 * 5
    assert spent(partial(ours, Ours("cem", effort=0.5)))[0] == calls / 2 + 3 * 5


def test_the_temperature_is_the_best_tried(task: Task) -> None:
    def make(_: Task, temperature: float) -> peer_planners.Plan:
        return lambda seed: task.actions(torch.full(task.shape, temperature))

    costs = {t: task.judge(make(task, t)(0)) for t in (-2.0, 0.0, 2.0)}
    found = peers.tuned(task, Entry("", "plain", make, tuple(costs)))
    assert task.judge(found(0)) == min(costs.values()) < max(costs.values())


def test_ours_is_as_good_where_it_costs_no_more_than_one_percent() -> None:
    def row(
        planner: str, seconds: float, cost: float, library: str = "echelon"
    ) -> dict[str, object]:
        return {"planner": planner, "seconds": seconds, "cost": cost, "library": library}

    peer, better = row("", 4.0, 1.0, "other"), row("", 1.0, 0.9, "other")
    mine = [row("full", 4.0, 0.95), row("half", 2.0, 1.0099), row("tenth", 0.4, 1.02)]
    search = {"planners": [*mine, peer, better]}
    assert as_good(search, peer) == mine[1]
    assert as_good(search, better) is None


STANDS_IN = """
class CEMSolver:
    def __init__(self, model, batch_size=1, **options):
        self.model, self.batch, self.options = model, batch_size, options
    def configure(self, **given):
        assert given["action_space"] == (-1.0, 1.0, (3, 2)) and given["config"].horizon == 5
    def solve(self, info):
        print("noise on the terminal")
        import torch
        k = self.options["num_samples"]
        rows = {name: x[:, None].expand(-1, k, -1) for name, x in info.items()}
        assert self.model.get_cost(rows, torch.zeros(3, k, 5, 2)).shape == (3, k)
        return {"actions": torch.full((3, 5, 2), self.batch / 10)}
"""


def test_stable_worldmodel_is_asked_without_its_root(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    solver = tmp_path / "stable_worldmodel" / "solver"
    solver.mkdir(parents=True)
    (tmp_path / "stable_worldmodel" / "__init__.py").write_text("import no_such_video_reader")
    (solver / "__init__.py").write_text("from .cem import CEMSolver")
    (solver / "cem.py").write_text("def Box(*given): return given\n" + STANDS_IN)
    for name in [name for name in sys.modules if name.startswith("stable_worldmodel")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        whole, one = (
            peer_planners.stable_worldmodel("CEMSolver", whole, task, 1.0)(0)
            for whole in (True, False)
        )
    finally:
        for name in [name for name in sys.modules if name.startswith("stable_worldmodel")]:
            del sys.modules[name]
    # of deviation 0.3 around 0.5: a batch of 3, and of 1
    assert torch.allclose(whole, torch.full((3, 5, 2), 0.5 + 0.3 * 0.3))
    assert torch.allclose(one, torch.full((3, 5, 2), 0.5 + 0.3 * 0.1))
    assert capsys.readouterr().out == ""


def test_pytorch_mppi_refines_one_plan(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    class Batched:
        def __init__(self, dynamics, cost, size, sigma, count, **given) -> None:
            assert (size, count, given["lambda_"], given["horizon"]) == (8, 3, 0.2, 5)
            assert torch.allclose(sigma, torch.eye(2) * 0.09)
            self.step, self.cost, self.rows = dynamics, cost, 3 * given["num_samples"]

        def command(self, flat: torch.Tensor, shift_nominal_trajectory: bool) -> None:
            assert not shift_nominal_trajectory
            rows = flat.repeat_interleave(16, 0)
            action = torch.zeros(self.rows, 2)
            assert self.cost(self.step(rows, action), action).shape == (self.rows,)
            self.U = self.U + 0.2  # what it starts with is put there from outside

    fake = type(sys)("pytorch_mppi")
    fake.MPPI_Batched = Batched
    monkeypatch.setitem(sys.modules, "pytorch_mppi", fake)
    actions = peer_planners.pytorch_mppi(task, 0.2)(0)
    assert torch.equal(actions, torch.ones(3, 5, 2))  # 0.5 and four rounds, within bounds


def test_goals_are_known_or_can_be_reached(level: Level) -> None:
    known = Task.of(level, replace(SIZE, goals="known"), 0)
    assert all((row == level.after).all(-1).any() for row in known.goal["z"])
    smooth = Task.of(level, SIZE, 0)
    white = Task.of(level, replace(SIZE, goals="white"), 0)
    assert torch.equal(smooth.state["z"], white.state["z"])
    gone = [(task.goal["z"] - task.state["z"]).norm() for task in (smooth, white)]
    assert gone[0] > gone[1] > 0  # actions that agree with one another lead further


def missing() -> None:
    raise ImportError


def test_the_command_writes_record_and_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, page = tmp_path / "model.safetensors", page_in(tmp_path)
    checkpoint.save_model(path, Hierarchy(model_config(), 2), {})
    needed = {name: (missing, how) for name, (_, how) in peer_planners.NEEDED.items()}
    monkeypatch.setattr(peer_planners, "NEEDED", needed)
    asked = Peers(
        path,
        3,
        (16, 8),
        (4, 1),
        (4, 2),
        (5, 2),
        ("known", "white"),
        2,
        0,
        tmp_path / "runs",
        tmp_path / "peers.json",
        page,
    )
    asked()
    assert not list(asked.runs.iterdir())  # all is in the record
    err = capsys.readouterr().err
    assert "stable-worldmodel is left out" in err
    assert "pip install pytorch-mppi" in err
    found = json.loads(asked.out.read_text())
    assert set(found["libraries"]) == {"echelon", "plain"}
    assert [search["horizon"] for search in found["searches"]] == [5, 2]
    for search in found["searches"]:
        for row in search["planners"]:
            assert row["spread"][0] <= row["seconds"] <= row["spread"][1]
            assert 0 < row["share_of_peak"] < 1.5
    assert read_section(page, "peers") == peers.table(asked.out) != ""
    assert "| plain | batched CEM |" in page.read_text()


def test_a_stopped_run_goes_on_and_times_anew_what_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.save_model(path, Hierarchy(model_config(), 2), {})
    parts = {"candidates": (16, 8), "iterations": (4, 1), "elites": (4, 2), "horizon": (5, 2)}
    asked = Peers(
        path,
        3,
        **parts,
        goals=("known", "white"),
        repeats=1,
        runs=tmp_path / "runs",
        out=tmp_path / "peers.json",
        page=page_in(tmp_path),
    )
    timed: list[int] = []

    def whole(task: Task, *_: object) -> dict[str, object]:
        timed.append(task.size.horizon)
        return {"horizon": task.size.horizon}

    def stopped(task: Task, *_: object) -> dict[str, object]:
        if task.size.horizon == 2:
            raise KeyboardInterrupt
        return whole(task)

    monkeypatch.setattr(peers, "table", lambda out: "")
    asked.runs.mkdir()
    (asked.runs / "other.txt").touch()  # somebody else's stays
    for changed, expected in ((False, [5, 2]), (True, [5, 5, 2])):
        timed.clear()
        monkeypatch.setattr(peers, "measure", stopped)
        with pytest.raises(KeyboardInterrupt):
            asked()
        if changed:  # the model is another one
            checkpoint.save_model(path, Hierarchy(model_config(), 2), {})
        monkeypatch.setattr(peers, "measure", whole)
        asked()
        assert timed == expected
        assert [path.name for path in asked.runs.iterdir()] == ["other.txt"]


def test_times_are_taken_in_turns(task: Task) -> None:
    order: list[str] = []

    def make(name: str) -> peer_planners.Plan:
        def plan(seed: int) -> torch.Tensor:
            order.append(name)
            return torch.zeros(task.shape)

        return plan

    entries = [
        Entry(name, "plain", lambda task, temperature, name=name: make(name)) for name in "abc"
    ]
    found = measure(task, entries, 3, Progress(quiet=True))
    chosen, spent = "aabbcc", "abc"
    assert "".join(order) == chosen + spent + "abc" + "bca" + "cab"
    assert [row["planner"] for row in found["planners"]] == ["a", "b", "c"]
    assert len({row["cost"] for row in found["planners"]}) == 1


def test_mistakes_are_told_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(EchelonError, match="as many values"):
        Peers(candidates=(64,))
    with pytest.raises(EchelonError, match="at least 1"):
        Peers(repeats=0)
    with pytest.raises(EchelonError, match="elites: 2 or more"):
        Peers(elites=(1, 8, 8, 30))
    with pytest.raises(EchelonError, match="cannot be read"):
        Peers(page=tmp_path / "absent.md")()
    config = model_config(1)
    remembers = replace(config, levels=(replace(config.levels[0], predictor="transformer"),))
    path = tmp_path / "model.safetensors"
    checkpoint.save_model(path, Hierarchy(remembers, 2), {})
    with pytest.raises(EchelonError, match="mlp or conv"):
        peers.level_of(Peers(path))
