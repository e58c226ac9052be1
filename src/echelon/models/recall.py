"""What was done where things were as they are now, and came near to where they are to be.

Retrieval as in episodic control (arXiv 1606.04460), of actions rather than of values: a search begins
with what is found, and its model decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from echelon.models.things import turned, viewpoint
from echelon.types import EchelonError

State: TypeAlias = Mapping[str, Tensor]
View: TypeAlias = tuple[Tensor, Tensor]
"""where it is looked from ``[..., 2]``, and in which direction ``[..., 2]``"""

POOL = 1024
"""moments most like the present one, of which it is looked at where they led"""
BEGAN = 0.3
"""weight of how a sequence began, beside how near it came to the goal"""
MOTION = 0.5
"""weight of how things move as it begins, beside where they are"""
SENSED = 0.5
"""weight of proprioception as it begins, where states hold it, beside where things are"""
ROWS = 4
"""states at a time, whose sequences a processor's caches hold"""
BLOCK = 32
"""moments of which only the least counts at first, where the least of many are chosen"""


class Recall(nn.Module):
    """Frames of whole episodes, and what was done at each.

    Of all sequences in them it finds those that began like the present state and came nearest to the
    goal. Where a latent is of things of which the last faces somewhere, all is looked at from that one,
    turned as it faces, and actions are turned with it: what was done in one place and one direction is
    known for all. Which way an action goes on the image is fitted, by how the other things change.
    """

    places: Tensor
    began: Tensor
    done: Tensor
    left: Tensor
    plane: Tensor
    back: Tensor

    def __init__(
        self, frames: int, latent_dim: int, action_dim: int, things: int = 0, proprio_dim: int = 0
    ) -> None:
        """things: of the latent, where the last one faces somewhere; else 0."""
        super().__init__()
        self.things, self.senses = things, proprio_dim > 0
        self.register_buffer("places", torch.zeros(frames, latent_dim))
        self.register_buffer("began", torch.zeros(frames, 2 * latent_dim + proprio_dim))
        self.register_buffer("done", torch.zeros(frames, action_dim))
        self.register_buffer("left", torch.full((frames,), -1))
        self.register_buffer("plane", torch.zeros(action_dim, 2))
        self.register_buffer("back", torch.zeros(2, action_dim))

    @torch.no_grad()
    def fit(self, state: State, actions: Tensor, left: Tensor) -> None:
        """Keep ``state [N, D]`` of frames, in the order of their episodes, ``actions [N, A]`` done at
        each, and how many of them are ``left [N]`` in its episode. N is at most what there is room for.
        """
        count = len(left)
        self.places[:count], self.done[:count] = state["z"], actions
        self.began[:count] = self._begun(state)
        self.left.fill_(-1)
        self.left[:count] = left
        if self.things:
            others = state["z"].unflatten(-1, (-1, 2))[:, : self.things - 1].mean(1)
            (on,) = (left > 0).nonzero(as_tuple=True)
            given = torch.cat([actions[on], torch.ones_like(others[on, :1])], 1)
            self.plane.copy_(torch.linalg.lstsq(given, others[on + 1] - others[on]).solution[:-1])
            self.back.copy_(torch.linalg.pinv(self.plane))

    def forward(self, state: State, goals: Sequence[State], count: int, horizon: int) -> Tensor:
        """``state [B, D], goals [B, D] each -> actions [B, goals, count, horizon, A]``, for each goal
        the best first, fewer where few are kept. EchelonError where no episode is so long.
        """
        longest = max(int(self.left.max()), 0)
        if horizon > longest:
            raise EchelonError(
                f"proposal: {horizon} steps cannot be recalled, in no episode that is kept are there "
                f"more than {longest}; use a shorter horizon"
            )
        now, pool = self._begun(state), min(POOL, len(self.left))
        least = torch.where(self.left < horizon, torch.inf, self.began.square().sum(-1))
        found: list[Tensor] = []
        for rows in torch.arange(len(now), device=now.device).split(ROWS):
            # Squared, but for what is the same for all.
            away = torch.addmm(least, now[rows], self.began.T, alpha=-2)
            away, moments = least_of(away, pool)
            z, each = state["z"][rows], list[Tensor]()
            for goal in goals:
                near = self._came_near(moments, z, goal["z"][rows], horizon)
                best = (BEGAN * away + near).topk(min(count, pool), largest=False)
                index = torch.where(best.values.isfinite(), best.indices, best.indices[:, :1])
                each.append(self._actions(moments.gather(1, index), z, horizon))
            found.append(torch.stack(each, 1))
        return torch.cat(found)

    def _came_near(self, moments: Tensor, z: Tensor, goal: Tensor, horizon: int) -> Tensor:
        """``moments [B, P], z [B, D], goal [B, D] -> [B, P]``: squared, at the nearest."""
        # What is turned keeps its length: it is the goal that is brought to each moment.
        wanted = self._placed(
            self._seen(goal, self._view(z))[:, None], self._view(self.places[moments])
        )
        frames, size = self.places.shape
        after = self.places.as_strided((frames - horizon, horizon, size), (size, size, 1), size)
        led = after[moments.clamp_max(frames - horizon - 1)]
        return (led - wanted[:, :, None]).norm(dim=-1).amin(-1).square()

    def _actions(self, moments: Tensor, z: Tensor, horizon: int) -> Tensor:
        """``moments [B, K], z [B, D] -> [B, K, horizon, A]``, turned to where it is looked from now."""
        later = torch.arange(horizon, device=moments.device)
        actions = self.done[(moments[..., None] + later).clamp_max(len(self.left) - 1)]
        then, now = self._view(self.places[moments][..., None, :]), self._view(z[:, None, None])
        if then is None or now is None:
            return actions
        there = actions @ self.plane
        here = turned(turned(there[..., None, :], then[1], -1), now[1], 1)[..., 0, :]
        return actions + (here - there) @ self.back

    def _begun(self, state: State) -> Tensor:
        """``[..., D] -> [..., 2 D + P]`` that are alike where sequences begin alike."""
        view, motion = self._view(state["z"]), state["dz"]
        if view is not None:
            motion = turned(motion.unflatten(-1, (-1, 2)), view[1], -1).flatten(-2)
        sensed = [SENSED * state["p"]] if self.senses else []
        return torch.cat([self._seen(state["z"], view), MOTION * motion, *sensed], -1)

    def _view(self, z: Tensor) -> View | None:
        return viewpoint(z, self.things) if self.things else None

    def _seen(self, z: Tensor, view: View | None) -> Tensor:
        """``[..., D]``, from somewhere, else as they are."""
        if view is None:
            return z
        middle, facing = view
        return turned(z.unflatten(-1, (-1, 2)) - middle[..., None, :], facing, -1).flatten(-2)

    def _placed(self, seen: Tensor, view: View | None) -> Tensor:
        """``[..., D]`` what is seen from somewhere, where that is."""
        if view is None:
            return seen
        middle, facing = view
        return (turned(seen.unflatten(-1, (-1, 2)), facing, 1) + middle[..., None, :]).flatten(-2)


def least_of(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """``[B, N] -> [B, count], [B, count]``: the least values, in order, and where they are.

    As `topk`, in half of its time where N is large: it looks only into the `count` blocks whose own
    least are the least. Those alone are as many, and no other block holds anything below them.
    """
    blocks = values.shape[1] // BLOCK
    if values.shape[1] % BLOCK or blocks <= count:
        found = values.topk(count, largest=False)
        return found.values, found.indices
    held = values.unflatten(1, (blocks, BLOCK))
    chosen = held.amin(-1).topk(count, largest=False, sorted=False).indices
    some = held.gather(1, chosen[..., None].expand(-1, -1, BLOCK)).flatten(1)
    found = some.topk(count, largest=False)
    return found.values, chosen.gather(1, found.indices // BLOCK) * BLOCK + found.indices % BLOCK
