"""The experiments behind every committed number. Slow; resumable; each writes records when it ends.

``--jobs n`` does as many pieces of an experiment at a time, each in a process of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from echelon.bench.ablation import Ablation
from echelon.bench.ant_maze import AntMazeBench
from echelon.bench.collapse import Collapse
from echelon.bench.compare import Compare, Readme
from echelon.bench.cube import CubeBench
from echelon.bench.diverse_maze import DiverseMaze
from echelon.bench.foreign import Foreign
from echelon.bench.four_room import FourRoomDistractors
from echelon.bench.gait import GaitSearch
from echelon.bench.peers import Peers
from echelon.bench.planning import Planning
from echelon.bench.push_t import PushTBench
from echelon.bench.resume import Resume
from echelon.bench.tables import Tables
from echelon.bench.throughput import Throughput
from echelon.bench.tune import Tune


@dataclass(frozen=True)
class Bench:
    """The experiments behind the committed numbers."""

    run: tyro.conf.OmitSubcommandPrefixes[
        tyro.conf.OmitArgPrefixes[
            Annotated[Tune, tyro.conf.subcommand("tune")]
            | Annotated[Compare, tyro.conf.subcommand("compare")]
            | Annotated[Foreign, tyro.conf.subcommand("foreign")]
            | Annotated[Resume, tyro.conf.subcommand("resume")]
            | Annotated[Ablation, tyro.conf.subcommand("ablation")]
            | Annotated[Planning, tyro.conf.subcommand("planning")]
            | Annotated[DiverseMaze, tyro.conf.subcommand("diverse-maze")]
            | Annotated[FourRoomDistractors, tyro.conf.subcommand("four-room")]
            | Annotated[PushTBench, tyro.conf.subcommand("push-t")]
            | Annotated[CubeBench, tyro.conf.subcommand("cube")]
            | Annotated[AntMazeBench, tyro.conf.subcommand("ant-maze")]
            | Annotated[GaitSearch, tyro.conf.subcommand("gait")]
            | Annotated[Collapse, tyro.conf.subcommand("collapse")]
            | Annotated[Throughput, tyro.conf.subcommand("throughput")]
            | Annotated[Peers, tyro.conf.subcommand("peers")]
            | Annotated[Readme, tyro.conf.subcommand("readme")]
            | Annotated[Tables, tyro.conf.subcommand("tables")]
        ]
    ]

    def __call__(self) -> None:
        self.run()
