"""A landmark graph as a distance: shortest paths over what was seen, that a search can descend."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from echelon.config import LandmarkConfig
from echelon.types import EchelonError

NEAR = 2.0
"""times `reach` within which a path may begin at other landmarks than the nearest: about how far
neighbours are apart; those farther away may lie behind a wall"""


class LandmarkGraph(nn.Module):
    """Steps from a latent to a goal, by way of landmarks. Buffers alone, so it is never trained.

    A path goes from the latent to one of the landmarks near it at the speed of the graph's own
    edges, from there by the shortest path to one of the goal's, and on to the goal. A latent and a
    goal that share one of these landmarks are also compared directly. What a latent lies farther
    beyond the reach of the landmarks, off the data, than the goal does is added several times over.

    The graph is directed: edges were seen from row to column, and there may be no way back. Only the
    way to a landmark is the same in both directions, so that between a latent and a goal that share
    one the distance is short, whatever was seen. From landmark to landmark no path takes longer than
    a detour. Where no path was seen, the distance is finite, longer than between any two landmarks
    that a path joins, and longer still the farther apart the latents are.

    Cost: D x L multiply-accumulates a latent, in one product with the landmarks; a goal is looked up
    once however many latents are measured to it.
    """

    landmarks: Tensor
    used: Tensor
    steps: Tensor
    speed: Tensor
    reach: Tensor
    longest: Tensor

    def __init__(self, latent_dim: int, config: LandmarkConfig, duration: int = 1) -> None:
        """duration: environment steps in a step of the level"""
        super().__init__()
        self.config, self.duration = config, duration
        slots = config.count + config.spare
        self.register_buffer("landmarks", torch.zeros(slots, latent_dim))
        self.register_buffer("used", torch.zeros(slots, dtype=torch.bool))
        self.register_buffer("steps", torch.full((slots, slots), torch.inf))
        self.register_buffer("speed", torch.ones(()))
        self.register_buffer("reach", torch.zeros(()))
        self.register_buffer("longest", torch.zeros(()))

    @property
    def fitted(self) -> bool:
        """Whether there is a landmark at all."""
        return bool(self.used.any())

    @torch.no_grad()
    def fill(self, points: Tensor, steps: Tensor, speed: Tensor, reach: Tensor) -> None:
        """Take over fitted landmarks ``[L, D]`` and paths ``[L, L]``; slots left over are spare.

        speed: latent distance a step; reach: latent distance from a landmark that data lie within.
        """
        count = len(points)
        self.landmarks.zero_()
        self.landmarks[:count] = points
        self.used.copy_(torch.arange(len(self.used), device=self.used.device) < count)
        self.steps.fill_(torch.inf).fill_diagonal_(0)
        self.steps[:count, :count] = steps
        self.speed.copy_(speed)
        self.reach.copy_(reach)
        self._measure_longest()

    def forward(self, z: Tensor, goal: Tensor) -> Tensor:
        """``z [..., D], goal [..., D] -> [...]`` steps, leading dimensions broadcast.

        Differentiable in both: the nearest landmarks are held fixed, the way to them is not.
        """
        near, away = self._near(z)
        near_goal, away_goal = self._near(goal)
        paths = self.steps[near[..., :, None], near_goal[..., None, :]]
        ways = away[..., :, None] + paths + away_goal[..., None, :]
        path = ways.amin((-2, -1))
        direct = torch.linalg.vector_norm(z - goal, dim=-1) / self.speed
        path = torch.where(path.isinf(), 2 * self.longest + direct, path)
        same = (near[..., :, None] == near_goal[..., None, :]) & ways.isfinite()
        shared = same.any(-1).any(-1)
        path = torch.where(shared, torch.minimum(path, direct), path)
        known = away_goal.amin(-1).clamp_min(self.reach / self.speed)
        return path + self.config.off_manifold * torch.relu(away.amin(-1) - known)

    @torch.no_grad()
    def grow(self, before: Tensor, now: Tensor, steps: float) -> bool:
        """Learn from one transition ``before [D] -> now [D]`` that took `steps`; True if that changed
        anything.

        A latent that lies farther than `reach` from every landmark takes a spare slot, as long as
        there is one, with an edge from the landmark nearest to `before`. Between known landmarks the
        transition is an edge, as it would be in fitting, and shortens every path that it can. Paths
        stay what Floyd and Warshall would find from all edges, for L x L additions.

        As in fitting, what took less or more than `gaps` is no edge: between neighbours it says more
        of where their borders lie than of time. Give frames that far apart. Only the way that was
        gone is learned: where ways can be gone back, call this with `before` and `now` exchanged too.
        """
        low, high = (gap / self.duration for gap in self.config.gaps)
        if not self.fitted or not low <= steps <= high:
            return False
        start, end = self._nearest(before), self._nearest(now)
        if torch.linalg.vector_norm(now - self.landmarks[end]) > self.reach:
            free = (~self.used).nonzero()
            if not len(free):
                return False
            end = int(free[0])
            self.landmarks[end] = now
            self.used[end] = True
        edge = steps + self.config.hop / self.duration
        if start == end or edge >= self.steps[start, end]:
            return False
        way = self.steps[:, start, None] + edge + self.steps[end]
        torch.minimum(self.steps, way, out=self.steps)
        self._measure_longest()
        return True

    def knows(self, z: Tensor) -> bool:
        """Whether ``z [D]`` lies within `reach` of a landmark."""
        return bool(torch.linalg.vector_norm(z - self.landmarks[self._nearest(z)]) <= self.reach)

    def _nearest(self, z: Tensor) -> int:
        """The landmark nearest to ``z [D]``."""
        apart = (z - self.landmarks).square().sum(-1).masked_fill(~self.used, torch.inf)
        return int(apart.argmin())

    def _near(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """``[..., D] -> [..., n], [..., n]``: the nearest landmarks, and steps to them; infinite to
        those too far to begin at.
        """
        half = (self.landmarks.square().sum(-1) / 2).masked_fill(~self.used, torch.inf)
        with torch.no_grad():
            count = min(self.config.nearest, len(half))
            index = (half - z @ self.landmarks.T).topk(count, largest=False).indices
        apart = torch.linalg.vector_norm(z[..., None, :] - self.landmarks[index], dim=-1)
        away = (apart / self.speed).masked_fill(~self.used[index], torch.inf)
        near = away.amin(-1, keepdim=True).clamp_min(NEAR * self.reach / self.speed)
        return index, away.masked_fill(away > near, torch.inf)

    def _measure_longest(self) -> None:
        self.longest.copy_(self.steps.masked_fill(self.steps.isinf(), 0).amax())


def usable(graph: LandmarkGraph | None, where: str) -> LandmarkGraph:
    """The graph, if it is there and fitted; `where` is its level, as options name it."""
    if graph is None:
        raise EchelonError(
            f"{where}: has no landmark graph; set {where}.landmarks.count in training, or add one with "
            "echelon.statistics.add_landmarks"
        )
    if not graph.fitted:
        raise EchelonError(
            f"{where}: its landmark graph is empty; fit it with echelon.statistics.add_landmarks"
        )
    return graph
