"""Driving an environment: encode, plan, act, and keep the plan until its clock runs out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from echelon.checkpoint import load_model
from echelon.config import PlannerConfig
from echelon.models.hierarchy import Hierarchy, Observation
from echelon.planning.ledger import macs_of
from echelon.planning.planner import Planner, build, tree_leading
from echelon.presets import planner_for
from echelon.types import Cost, EchelonError, Plan, Spent, State, tree_map


def load(
    path: Path | str,
    planner: Sequence[PlannerConfig] = (),
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> Agent:
    """An agent with the model of a checkpoint.

    planner: settings for the levels that plan, level 0 first; by default those the model is known
        to work with. One alone plans flat.
    """
    model = load_model(path, device)
    return Agent.of(model, planner or planner_for(model.config), seed)


@dataclass
class Agent:
    """Plans for a batch of environments at once, from images to actions.

    ``agent.reset(goal)`` then ``agent.act(observation)`` each step; with or without a leading batch
    dimension. Several environments share one clock.
    """

    model: Hierarchy
    planner: Planner
    seed: int = 0

    def __post_init__(self) -> None:
        self.device = next(self.model.parameters()).device
        self.model.eval()
        self._encoding: int | None = None
        self.goals: tuple[State, ...] = ()
        self.plan: Plan | None = None
        self.spent = Spent()

    @staticmethod
    def of(
        model: Hierarchy,
        configs: Sequence[PlannerConfig],
        seed: int = 0,
        costs: Sequence[Cost] = (),
    ) -> Agent:
        """An agent that plans at as many levels as there are `configs`, level 0 first."""
        if len(configs) > len(model.levels):
            raise EchelonError(
                f"planner: {len(configs)} levels to plan at, but the model has {len(model.levels)}"
            )
        return Agent(model, build(model.levels, configs, costs), seed)

    @torch.no_grad()
    def reset(self, goal: NDArray[np.uint8]) -> None:
        """Begin an episode towards a goal image ``[H, W, 3]``, or one a batch ``[B, H, W, 3]``."""
        self._batched = goal.ndim == 4
        frames = self._frames(goal)
        self.generator = torch.Generator(self.device).manual_seed(self.seed)
        seen = self._see({"pixels": self._clip(None, frames)})
        self.goals = tuple({"z": state["z"]} for state in seen)
        self.plan, self.spent = None, Spent()
        self.now = 0
        self._seen: Tensor | None = None

    @torch.no_grad()
    def act(
        self, observation: NDArray[np.uint8], proprio: NDArray[Any] | None = None
    ) -> NDArray[np.float32]:
        """The action ``[A]`` or actions ``[B, A]`` for the next step; `spent` says what it took.

        observation: ``[H, W, 3]``, or ``[B, H, W, 3]`` as many as there are goals.
        proprio: ``[P]`` or ``[B, P]``, where the model was trained with it.
        """
        if not self.goals:
            raise EchelonError("agent: has no goal yet; call reset(goal) before act(observation)")
        frames = self._frames(observation)
        if len(frames) != tree_leading(self.goals[0]):
            raise EchelonError(
                f"agent: {len(frames)} observations for {tree_leading(self.goals[0])} goals; give "
                "one each, or keep() the environments that go on"
            )
        self._seen = self._clip(self._seen, frames)
        self.spent = Spent()
        if self.plan is None or self._due(self.plan):
            observed = {"pixels": self._seen} | self._proprio(proprio, len(frames))
            states = self._see(observed)
            self.plan = self.planner.plan(states, self.goals, self.now, self.generator, self.plan)
            if self._encoding is None:
                self._encoding = macs_of(self._see, tree_map(lambda x: x[:1], observed))
            self.spent = self.plan.spent + Spent(0, self._encoding)
        lowest = self.plan.lowest
        action = lowest.actions[:, self.now - lowest.time].cpu().numpy()
        self.now += 1
        return action if self._batched else action[0]

    def keep(self, index: NDArray[np.int64]) -> None:
        """Go on with the environments `index` of the batch alone."""
        chosen = torch.as_tensor(index, device=self.device)
        self.goals = tuple({k: v[chosen] for k, v in goal.items()} for goal in self.goals)
        self.plan = self.plan.select(chosen) if self.plan is not None else None
        self._seen = self._seen[chosen] if self._seen is not None else None

    def explain(self) -> dict[str, Any]:
        """The plan in force for the first environment, as plain types, highest level first."""
        levels: list[dict[str, Any]] = []
        plan = self.plan
        while plan is not None:
            levels.append(
                {
                    "level": len(plan.goals) - 1,
                    "cost": plan.cost[0].item(),
                    "actions": plan.actions[0].tolist(),
                    "predicted": plan.states["z"][0].tolist(),
                    "goal": plan.goals[-1]["z"][0].tolist(),
                }
            )
            plan = plan.below
        spent = {"predictor_calls": self.spent.calls, "gflops": 2e-9 * self.spent.macs}
        return {"levels": levels, "spent": spent}

    def _due(self, plan: Plan) -> bool:
        planner: Planner | None = self.planner
        part: Plan | None = plan
        while planner is not None and part is not None:
            if self.now - part.time >= planner.replan:
                return True
            planner, part = planner.below, part.below
        return False

    def _see(self, observed: Observation) -> tuple[State, ...]:
        states = self.model.lift(self.model.encode(observed))
        return tuple(states[: self.planner.depth])

    def _clip(self, seen: Tensor | None, frames: Tensor) -> Tensor:
        """``[B, context, H, W, 3]``: the frames and those before; the first stands for what was not."""
        before = (
            frames[:, None].expand(-1, self.model.context, -1, -1, -1) if seen is None else seen
        )
        return torch.cat([before[:, 1:], frames[:, None]], 1)

    def _proprio(self, given: NDArray[Any] | None, batch: int) -> dict[str, Tensor]:
        size = self.model.proprio_dim
        if given is None and size == 0:
            return {}
        if given is None or given.reshape(batch, -1).shape[1] != size:
            found = "nothing" if given is None else f"shape {given.shape}"
            raise EchelonError(
                f"proprio: the model was trained with {size} values beside each image "
                f"('{self.model.config.proprio}'); act was given {found}"
            )
        values = torch.as_tensor(given.reshape(batch, 1, size), dtype=torch.float32)
        return {"proprio": values.to(self.device)}

    def _frames(self, images: NDArray[np.uint8]) -> Tensor:
        size = self.model.config.image_size
        batch = images if images.ndim == 4 else images[None]
        if batch.shape[1:] != (size, size, 3) or batch.dtype != np.uint8:
            raise EchelonError(
                f"image: got {batch.dtype} {tuple(images.shape)}, the model was trained on uint8 "
                f"({size}, {size}, 3); resize it"
            )
        return torch.from_numpy(np.ascontiguousarray(batch)).to(self.device)
