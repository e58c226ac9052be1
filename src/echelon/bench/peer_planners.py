"""Other planners, and ours, behind one call: ``plan(seed) -> actions [B, H, A]``.

All are handed the same model, starts and goals; each unrolls the model step by step, as anyone would
write it, but ours, which plans as it always does. Nothing here is timed or judged.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType, SimpleNamespace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from echelon.config import OptimizerConfig, PlannerConfig, Precision
from echelon.models.hierarchy import LatentState, Level
from echelon.models.precision import in_precision
from echelon.planning.costs import DistanceCost
from echelon.planning.noise import correlated
from echelon.planning.planner import build, rollout

Plan: TypeAlias = Callable[[int], Tensor]
"""of a seed: actions [B, H, A] inside the prior's bounds"""


Goals: TypeAlias = Literal["known", "smooth", "white"]
"""any state that the level knows; or where the model itself gets in a horizon, under actions that are
like one another from step to step, as our search draws them, or not, as the others do"""


@dataclass(frozen=True)
class Size:
    """How much every planner searches, and what for."""

    environments: int
    candidates: int
    iterations: int
    elites: int
    horizon: int
    goals: Goals = "known"


@dataclass(frozen=True)
class Task:
    """What every planner is asked: from `state` to `goal`, by one level of one model."""

    level: Level
    size: Size
    state: LatentState
    """[B, ...]"""
    goal: LatentState
    """[B, ...]"""

    @staticmethod
    def of(level: Level, size: Size, seed: int) -> Task:
        """Starts are states that the level knows, moving as they did."""
        prior, (before, after) = level.prior, level.neighbours
        device = prior.mean.device
        rng = torch.Generator(device).manual_seed(seed)
        count = size.environments
        row = torch.randint(len(before["z"]), (count,), generator=rng, device=device)
        z = after["z"][row]
        parts = {"z": z, "dz": level.config.difference_scale * (z - before["z"][row])}
        sizes = dict(zip(level.parts, level.sizes, strict=True))
        state = {part: parts.get(part, z.new_zeros(count, sizes[part])) for part in sizes}
        if size.goals == "known":
            other = torch.randint(len(before["z"]), (count,), generator=rng, device=device)
            return Task(level, size, state, {"z": after["z"][other]})
        smooth = 0.9 if size.goals == "smooth" else 0.0
        noise = correlated(count, 1, size.horizon, len(prior.mean), smooth, rng)
        actions = (prior.mean + prior.std * noise).clamp(prior.low, prior.high)
        with torch.no_grad():
            reached = rollout(level, state, actions)
        return Task(level, size, state, {"z": reached["z"][:, 0, -1]})

    @property
    def cost(self) -> DistanceCost:
        """Mean distance to the goal along the plan: a sum over steps, which all can descend."""
        return DistanceCost(self.level.distance, minimum=0.0)

    @property
    def shape(self) -> tuple[int, int, int]:
        """``[B, H, A]`` of a plan."""
        return self.size.environments, self.size.horizon, len(self.level.prior.mean)

    def actions(self, normal: Tensor) -> Tensor:
        """``[..., A]`` of standard deviation one, as actions of the level."""
        prior = self.level.prior
        return (prior.mean + prior.std * normal).clamp(prior.low, prior.high)

    def costs(self, state: LatentState, goal: LatentState, actions: Tensor) -> Tensor:
        """``[B, ...], [B, ...], [B, K, H, A] -> [B, K]``, all rows side by side."""
        count, horizon = actions.shape[1:3]
        state = {part: x.repeat_interleave(count, 0) for part, x in state.items()}
        places: list[Tensor] = []
        for t in range(horizon):
            state = self.level.predict(state, actions[:, :, t].flatten(0, 1))
            places.append(state["z"])
        return self.cost({"z": torch.stack(places, 1).unflatten(0, (-1, count))}, goal)

    def judge(self, actions: Tensor) -> float:
        """Mean cost of plans ``[B, H, A]``, for all planners alike."""
        with torch.no_grad():
            states = rollout(self.level, self.state, actions[:, None])
            return self.cost(states, self.goal).mean().item()


@dataclass(frozen=True)
class Ours:
    """The planner of `echelon.load`, flat, with what is not its default."""

    kind: Literal["cem", "mppi"]
    effort: float = 1.0
    correlation: float = OptimizerConfig.correlation
    precision: Precision = "float32"

    @property
    def name(self) -> str:
        """Such as ``MPPI, white noise, bfloat16``."""
        parts = [self.kind.upper(), f"effort {self.effort:g}" if self.effort < 1 else ""]
        parts += ["" if self.correlation else "white noise"]
        parts += ["" if self.precision == "float32" else self.precision]
        return ", ".join(part for part in parts if part)

    @property
    def entry(self) -> Entry:
        temperatures = OURS if self.kind == "mppi" else (1.0,)
        return Entry(self.name, "echelon", partial(ours, self), temperatures)


def ours(how: Ours, task: Task, temperature: float) -> Plan:
    """Plans of one of our planners."""
    size, effort = task.size, how.effort
    search = OptimizerConfig(
        how.kind,
        size.candidates,
        size.iterations,
        size.elites,
        how.correlation,
        temperature=temperature,
    )
    config = PlannerConfig(size.horizon, size.horizon, search, minimum=0.0)
    planner = build([in_precision(task.level, how.precision)], [config], [task.cost])

    @torch.no_grad()
    def plan(seed: int) -> Tensor:
        rng = torch.Generator(task.level.prior.mean.device).manual_seed(seed)
        return planner.plan((task.state,), (task.goal,), 0, rng, effort=effort).actions

    return plan


def plain_cem(task: Task, _: float) -> Plan:
    """The textbook's cross-entropy method for all environments at once."""
    environments, horizon, size = task.shape

    @torch.no_grad()
    def plan(seed: int) -> Tensor:
        like = task.level.prior.mean
        rng = torch.Generator(like.device).manual_seed(seed)
        mean, std = like.new_zeros(task.shape), like.new_ones(task.shape)
        shape = (environments, task.size.candidates, horizon, size)
        for _ in range(task.size.iterations):
            noise = torch.randn(shape, generator=rng, device=like.device)
            plans = mean[:, None] + std[:, None] * noise
            plans[:, 0] = mean
            costs = task.costs(task.state, task.goal, task.actions(plans))
            chosen = costs.topk(task.size.elites, largest=False).indices
            elites = plans.take_along_dim(chosen[:, :, None, None], 1)
            mean, std = elites.mean(1), elites.std(1)
        return task.actions(mean)

    return plan


def stable_worldmodel_solvers() -> ModuleType:
    """Its solvers alone: the package's root reads videos too, and planning does without."""
    name = "stable_worldmodel"
    if name not in sys.modules:
        spec = find_spec(name)
        if spec is None:
            raise ImportError(f"{name} is not installed")
        sys.modules[name] = module_from_spec(spec)
    return import_module(f"{name}.solver")


@dataclass(frozen=True)
class Costable:
    """What stable-worldmodel asks of a model."""

    task: Task

    def get_cost(self, info: Mapping[str, Tensor], candidates: Tensor) -> Tensor:
        """``{part: [B, K, ...]}, [B, K, H, A] of deviation one -> [B, K]``"""
        state = {part: info[part][:, 0] for part in self.task.state}
        return self.task.costs(state, {"z": info["goal"][:, 0]}, self.task.actions(candidates))


def stable_worldmodel(
    solver: Literal["CEMSolver", "MPPISolver"], whole: bool, task: Task, temperature: float
) -> Plan:
    """whole: all environments side by side, and not one after the other as it does unless told."""
    solvers, (environments, _, size) = stable_worldmodel_solvers(), task.shape
    device = task.level.prior.mean.device
    options: dict[str, Any] = {"temperature": temperature} if solver == "MPPISolver" else {}
    if whole:
        options["batch_size"] = environments
    space = solvers.cem.Box(-1.0, 1.0, (environments, size))
    config = SimpleNamespace(horizon=task.size.horizon, action_block=1)
    info = task.state | {"goal": task.goal["z"]}

    def plan(seed: int) -> Tensor:
        search = getattr(solvers, solver)(
            Costable(task),
            num_samples=task.size.candidates,
            n_steps=task.size.iterations,
            topk=task.size.elites,
            device=device,
            seed=seed,
            **options,
        )
        search.configure(action_space=space, n_envs=environments, config=config)
        with redirect_stdout(io.StringIO()):  # it prints how long it took
            return task.actions(search.solve(info)["actions"].to(device))

    return plan


def pytorch_mppi(task: Task, temperature: float) -> Plan:
    """Its search for many environments at once, refining one plan."""
    mppi, prior = import_module("pytorch_mppi"), task.level.prior
    flat = torch.cat([task.state[part] for part in task.level.parts], -1)

    @torch.no_grad()
    def plan(seed: int) -> Tensor:
        torch.manual_seed(seed)  # it draws from the global generator
        dynamics, cost = stepwise(task)
        search = mppi.MPPI_Batched(
            dynamics,
            cost,
            flat.shape[-1],
            torch.diag(prior.std.square()),
            len(flat),
            num_samples=task.size.candidates,
            horizon=task.size.horizon,
            device=flat.device,
            lambda_=temperature,
            u_min=prior.low,
            u_max=prior.high,
        )
        search.U = prior.mean.expand(task.shape).clone()
        for _ in range(task.size.iterations):
            search.command(flat, shift_nominal_trajectory=False)
        return search.U.clamp(prior.low, prior.high)

    return plan


def stepwise(task: Task) -> tuple[Callable[[Tensor, Tensor], Tensor], ...]:
    """The model as ``flat states [B x K, S], actions [B x K, A] -> flat states``, and the share of a
    plan's cost that each such state has.
    """
    level = task.level
    goal = {"z": task.goal["z"].repeat_interleave(task.size.candidates, 0)}

    def unpack(x: Tensor) -> LatentState:
        return dict(zip(level.parts, x.split(level.sizes, -1), strict=True))

    def dynamics(x: Tensor, action: Tensor) -> Tensor:
        after = level.predict(unpack(x), action)
        return torch.cat([after[part] for part in level.parts], -1)

    def cost(x: Tensor, _: Tensor) -> Tensor:
        return level.distance(unpack(x), goal) / task.size.horizon

    return dynamics, cost


@dataclass(frozen=True)
class Entry:
    """A planner to be timed."""

    name: str
    package: str
    """as the package registry knows it; ours is "echelon", and what needs none is "plain" """
    make: Callable[[Task, float], Plan]
    temperatures: tuple[float, ...] = (1.0,)
    """of which the one with the cheapest plan is timed"""


EFFORTS = (0.4, 0.2, 0.1)
"""shares of the evaluations that ours is tried with too"""
OURS, THEIRS = (0.01, 0.03, 0.1), (0.0005, 0.002, 0.01, 0.5)
"""temperatures: ours are in deviations of the costs, theirs in costs, 0.5 being a default"""

SWM, MPPI = "stable-worldmodel", "pytorch-mppi"
ENTRIES = (
    Ours("cem").entry,
    Ours("mppi").entry,
    *(Ours("mppi", effort).entry for effort in EFFORTS),
    Ours("mppi", correlation=0.0).entry,
    Ours("cem", precision="bfloat16").entry,
    Ours("mppi", precision="bfloat16").entry,
    Ours("mppi", correlation=0.0, precision="bfloat16").entry,
    Entry("batched CEM", "plain", plain_cem),
    Entry("CEM", SWM, partial(stable_worldmodel, "CEMSolver", True)),
    Entry("CEM, one by one", SWM, partial(stable_worldmodel, "CEMSolver", False)),
    Entry("MPPI", SWM, partial(stable_worldmodel, "MPPISolver", True), THEIRS),
    Entry("MPPI, one by one", SWM, partial(stable_worldmodel, "MPPISolver", False), THEIRS),
    Entry("MPPI_Batched", MPPI, pytorch_mppi, THEIRS),
)

NEEDED: Mapping[str, tuple[Callable[[], ModuleType], str]] = {
    SWM: (
        stable_worldmodel_solvers,
        "pip install --no-deps stable-worldmodel==0.1.1 && pip install loguru gymnasium",
    ),
    MPPI: (partial(import_module, "pytorch_mppi"), "pip install pytorch-mppi"),
}
"""What a library is loaded with, and how it is installed."""


def present() -> tuple[list[Entry], dict[str, str]]:
    """The planners that can be run here, and how to install the libraries of the others."""
    absent: dict[str, str] = {}
    for library, (load, how) in NEEDED.items():
        try:
            load()
        except ImportError:
            absent[library] = how
    return [entry for entry in ENTRIES if entry.package not in absent], absent
