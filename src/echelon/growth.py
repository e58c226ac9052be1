"""Landmark graphs that grow while an agent acts, where the world departs from the data.

A level that plans with `cost: graph` and whose graph has spare slots (`LandmarkConfig.spare`) gives
the agent a graph of its own to grow: what is learned stays with the agent, and the model is as it was.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from echelon.config import PlannerConfig
from echelon.models.hierarchy import Level
from echelon.models.landmarks import LandmarkGraph
from echelon.types import State


@dataclass
class Growth:
    """Offers to graphs what environments show: all of them to the same ones.

    A graph is shown a moment every `gaps[0]` environment steps, and told of the way there from each
    one before it that is no farther back than `gaps[1]`, as fitting is told of its frames.

    Cost: an encoding at each such moment, and at most L x L additions for each way, environment and
    level; a search sees a graph that has the same size, and costs the same, however much it has grown.
    """

    graphs: dict[int, LandmarkGraph] = field(default_factory=dict[int, LandmarkGraph])
    """by level; none never grows"""

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forget what was seen, since other episodes begin; what was learned stays."""
        self._seen: dict[int, list[tuple[int, Tensor]]] = {index: [] for index in self.graphs}

    def keep(self, chosen: Tensor) -> None:
        """Go on with the environments `chosen` [B'] alone."""
        for index, seen in self._seen.items():
            self._seen[index] = [(then, z[chosen]) for then, z in seen]

    def due(self, now: int) -> bool:
        """Whether a graph is to be shown this environment step."""
        return any(now % graph.config.gaps[0] == 0 for graph in self.graphs.values())

    def add(self, states: Sequence[State], now: int) -> None:
        """What all environments show, as levels 0 and up see it ``[B, ...]``."""
        for index, graph in self.graphs.items():
            if now % graph.config.gaps[0]:
                continue
            z, seen = states[index]["z"], self._seen[index]
            while seen and now - seen[0][0] > graph.config.gaps[1]:
                seen.pop(0)
            for then, before in seen:
                for row in range(len(z)):
                    # From where no landmark is near, the way would seem to begin at a far one.
                    if graph.knows(before[row]):
                        graph.grow(before[row], z[row], (now - then) / graph.duration)
            seen.append((now, z))


def own_graphs(
    levels: Sequence[Level], configs: Sequence[PlannerConfig]
) -> tuple[list[Level], Growth]:
    """The levels to plan with, level 0 first; and what grows their graphs. Those with a graph to grow
    are copies that share every other part with the model's.
    """
    own, graphs = list(levels), dict[int, LandmarkGraph]()
    for index, config in enumerate(configs):
        level, graph = levels[index], levels[index].graph
        if config.cost != "graph" or graph is None or not graph.config.spare:
            continue
        graphs[index] = copy.deepcopy(graph)
        shared = {id(part): part for part in (*level.children(), *level.buffers(recurse=False))}
        own[index] = copy.deepcopy(level, shared | {id(graph): graphs[index]})
    return own, Growth(graphs)
