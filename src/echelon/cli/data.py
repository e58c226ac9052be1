"""Episodes, and what can be said of files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from echelon import schema
from echelon.cli.options import Flat, Positional, refuse_existing
from echelon.collect import CollectConfig, collect
from echelon.config import ModelConfig, to_dict
from echelon.envs import four_room, grasping, pushing, walking
from echelon.envs.four_room import FourRoomCollect
from echelon.envs.grasping import CubeCollect
from echelon.envs.pushing import PushTCollect
from echelon.envs.walking import AntMazeCollect
from echelon.presets import planner_for
from echelon.progress import Progress

C = TypeVar("C")


def _log(collect: Callable[[C, Path, Progress], None], config: C, out: Path) -> None:
    """A world's own collection, into a new file."""
    refuse_existing(out)
    collect(config, out, Progress())
    print(out)


@dataclass(frozen=True)
class Maze:
    """A ball that is pushed at random through generated mazes (PointMaze, MuJoCo)."""

    out: Positional[Path]
    """HDF5 file to write"""
    config: Annotated[CollectConfig, Flat] = field(default_factory=CollectConfig)

    def __call__(self) -> None:
        _log(collect, self.config, self.out)


@dataclass(frozen=True)
class FourRoom:
    """Four rooms with doors that may be closed and a distractor: a noisy expert, or exploration."""

    out: Positional[Path]
    """HDF5 file to write"""
    config: Annotated[FourRoomCollect, Flat] = field(default_factory=FourRoomCollect)

    def __call__(self) -> None:
        _log(four_room.collect, self.config, self.out)


@dataclass(frozen=True)
class PushT:
    """A T-shaped block that is pushed about at random (Push-T, gym-pusht)."""

    out: Positional[Path]
    """HDF5 file to write"""
    config: Annotated[PushTCollect, Flat] = field(default_factory=PushTCollect)

    def __call__(self) -> None:
        _log(pushing.collect, self.config, self.out)


@dataclass(frozen=True)
class Cube:
    """A cube that a robot arm grasps and brings from place to place (OGBench, MuJoCo)."""

    out: Positional[Path]
    """HDF5 file to write"""
    config: Annotated[CubeCollect, Flat] = field(default_factory=CubeCollect)

    def __call__(self) -> None:
        _log(grasping.collect, self.config, self.out)


@dataclass(frozen=True)
class AntMaze:
    """An ant of four legs that walks about a maze (OGBench, MuJoCo)."""

    out: Positional[Path]
    """HDF5 file to write"""
    config: Annotated[AntMazeCollect, Flat] = field(default_factory=AntMazeCollect)

    def __call__(self) -> None:
        _log(walking.collect, self.config, self.out)


@dataclass(frozen=True)
class Collect:
    """Log trajectories in a world of images."""

    world: tyro.conf.OmitSubcommandPrefixes[
        tyro.conf.OmitArgPrefixes[
            Annotated[Maze, tyro.conf.subcommand("maze")]
            | Annotated[FourRoom, tyro.conf.subcommand("four-room")]
            | Annotated[PushT, tyro.conf.subcommand("push-t")]
            | Annotated[Cube, tyro.conf.subcommand("cube")]
            | Annotated[AntMaze, tyro.conf.subcommand("ant-maze")]
        ]
    ]

    def __call__(self) -> None:
        self.world()


@dataclass(frozen=True)
class Scales:
    """Measure how long things last in episodes, and propose depth and strides of a hierarchy."""

    data: Positional[Path]
    """HDF5 file of episodes"""
    checkpoint: Path | None = None
    """a model trained on such episodes: its latents and rollouts are measured, and what is proposed
    keeps its other options; None measures cheap features of the frames"""
    out: Path = Path("runs/scales")
    """folder for scales.json (what was measured), scales.png and model.json, which
    'echelon train --model-from' reads"""
    depth: int | None = None
    """levels to propose; None takes the fewest that do"""

    def __call__(self) -> None:
        from echelon.checkpoint import describe, load_model
        from echelon.data.episodes import Episodes
        from echelon.files import write_json
        from echelon.measure import held_out_of, measure
        from echelon.proposal import explain, propose
        from echelon.report.scales import write_scales

        episodes = Episodes.open(self.data)
        model, held_out, base = None, None, ModelConfig()
        if self.checkpoint:
            model = load_model(self.checkpoint)
            held_out = held_out_of(episodes, describe(self.checkpoint)["about"])
            base = model.config
        found = measure(episodes, model, held_out)
        proposal = propose(found, replace(base, image_size=episodes.image_size), self.depth)
        write_json(self.out / "scales.json", to_dict(found))
        write_json(self.out / "model.json", to_dict(proposal.model))
        write_scales(found, proposal.model, self.out / "scales.png")
        print(explain(found, proposal))
        print(f"\n{self.out / 'scales.png'}\n{self.out / 'model.json'}")


@dataclass(frozen=True)
class Inspect:
    """What a file of episodes or a checkpoint holds, as JSON."""

    file: Positional[Path]
    planner: bool = False
    """print the planner settings that a checkpoint's model is used with"""
    verify: bool = False
    """compare every value of the episodes with their checksum"""

    def __call__(self) -> None:
        print(json.dumps(self._found(), indent=1))

    def _found(self) -> Any:
        from echelon import checkpoint
        from echelon.data.episodes import Episodes

        if self.file.suffix != ".safetensors":
            episodes = Episodes.open(self.file)
            if self.verify:
                episodes.verify()
            return episodes.describe()
        header = checkpoint.describe(self.file)
        if self.planner:
            return [
                to_dict(p)
                for p in planner_for(
                    schema.read(ModelConfig, header["model"], f"{self.file}: model")
                )
            ]
        return header
