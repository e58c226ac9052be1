"""What a run folder holds besides its records, read strictly; see :mod:`echelon.report.html`.

Positions are (row, column) in cells, cell centres at .5.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

from echelon.files import read_json
from echelon.records import Record, load
from echelon.schema import read
from echelon.types import EchelonError

Place: TypeAlias = tuple[float, float]
Grid: TypeAlias = tuple[tuple[int, ...], ...]
"""1 is wall, 0 is free"""


@dataclass(frozen=True)
class Curve:
    """An error that grows with time ahead."""

    name: str
    steps: tuple[float, ...]
    """environment steps ahead"""
    error: tuple[float, ...]
    """mean"""
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    level: int | None = None
    """None for a baseline"""

    def __post_init__(self) -> None:
        _curve(self.name, self.steps, self.error, self.low, self.high)


@dataclass(frozen=True)
class OpenLoop:
    """Errors of rollouts and baselines against time ahead."""

    unit: str
    """of the errors, such as "cells" """
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class DistanceByGap:
    """Latent distance between two states of one episode, against the time between them."""

    steps: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _curve("distance_by_gap", self.steps, self.mean, self.low, self.high)


@dataclass(frozen=True)
class DistanceMap:
    """Latent distance from many places to one goal."""

    goal: Place
    places: tuple[Place, ...]
    distance: tuple[float, ...]

    def __post_init__(self) -> None:
        _curve("distance_map", self.places, self.distance)


@dataclass(frozen=True)
class Latent:
    """How one level uses its latent space."""

    level: int
    dim: int
    effective_rank: float
    std: tuple[float, ...]
    """of each dimension"""
    sign_agreement: float | None = None
    """how often one step of true progress lowers the latent distance; a coin gives 0.5"""
    distance_by_gap: DistanceByGap | None = None
    distance_map: DistanceMap | None = None


@dataclass(frozen=True)
class Diagnostics:
    """What a run folder knows of its model."""

    open_loop: OpenLoop | None = None
    latents: tuple[Latent, ...] = ()
    layout: Grid | None = None
    """of the distance maps"""
    observation_png: str | None = None
    """base64"""
    goal_png: str | None = None

    def __post_init__(self) -> None:
        for name in ("observation_png", "goal_png"):
            text = getattr(self, name)
            try:
                good = text is None or base64.b64decode(text, validate=True)[:4] == b"\x89PNG"
            except (binascii.Error, ValueError):
                good = False
            if not good:
                raise EchelonError(f"diagnostics: {name}: not a PNG in base64")


@dataclass(frozen=True)
class Subgoals:
    """What the coarse level intended from one step on."""

    step: int
    """environment step at which it was planned"""
    places: tuple[Place, ...]
    """one per coarse step ahead"""
    active: Place
    """the one handed down"""


@dataclass(frozen=True)
class Run:
    """One method's attempt."""

    method: str
    setting: str
    success: bool
    path: tuple[Place, ...]
    """one per environment step, the start first"""
    tflops: float
    subgoals: tuple[Subgoals, ...] = ()

    def __post_init__(self) -> None:
        if not self.path:
            raise EchelonError(f"traces: {self.method}: path is empty; it begins with the start")


@dataclass(frozen=True)
class Trace:
    """One trial, attempted by several methods."""

    task: str
    split: str
    trial: int
    layout: Grid
    goal: Place
    start: Place
    distance_cells: int
    runs: tuple[Run, ...]

    def __post_init__(self) -> None:
        if not self.layout or len({len(row) for row in self.layout}) != 1:
            raise EchelonError(f"traces: trial {self.trial}: the layout's rows differ in length")
        if not self.runs:
            raise EchelonError(f"traces: trial {self.trial}: has no runs")


@dataclass(frozen=True)
class RunFolder:
    """Everything that a report is made of."""

    records: list[Record]
    diagnostics: Diagnostics | None
    traces: tuple[Trace, ...]
    config: Any
    """None where there is none"""


def read_folder(folder: Path) -> RunFolder:
    """Read a run folder; only ``records.json`` must be there."""
    records = load(folder / "records.json")

    def optional(name: str) -> Any:
        path = folder / name
        return read_json(path) if path.exists() else None

    diagnostics = optional("diagnostics.json")
    traces = optional("traces.json")
    if traces is not None and not isinstance(traces, list):
        raise EchelonError(f"{folder / 'traces.json'}: expected a list of traces")
    return RunFolder(
        records=records,
        diagnostics=None
        if diagnostics is None
        else read(Diagnostics, diagnostics, str(folder / "diagnostics.json")),
        traces=tuple(
            read(Trace, value, f"{folder / 'traces.json'}: trace {i}")
            for i, value in enumerate(cast(list[Any], traces or []))
        ),
        config=optional("config.json"),
    )


def _curve(where: str, x: tuple[Any, ...], y: tuple[Any, ...], *band: tuple[Any, ...]) -> None:
    """A curve has points, and its band has none or as many."""
    if not x:
        raise EchelonError(f"{where}: has no points; leave it out instead")
    _same_length(where, x, y)
    for side in band if any(band) else ():
        _same_length(where, x, side)


def _same_length(where: str, one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    if len(one) != len(other):
        raise EchelonError(f"{where}: {len(one)} values beside {len(other)}; they must pair up")
