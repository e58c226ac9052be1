"""What several commands share."""

from __future__ import annotations

from pathlib import Path

import tyro

from echelon import schema
from echelon.config import PlannerConfig
from echelon.types import EchelonError

Positional = tyro.conf.Positional
Flat = tyro.conf.arg(name="")
"""for a field whose options stand beside the others, without its name before them"""


def read_planner(path: Path) -> tuple[PlannerConfig, ...]:
    """The settings in a file, level 0 first."""
    from echelon.files import read_json

    levels = read_json(path)
    if not isinstance(levels, list) or not levels:
        raise EchelonError(f"{path}: must be a JSON list of planner settings, level 0 first")
    return tuple(
        schema.read(PlannerConfig, level, f"{path}: level {i}") for i, level in enumerate(levels)
    )


def refuse_existing(path: Path) -> None:
    """Nothing that is there is written over."""
    if path.exists():
        raise EchelonError(f"{path}: is there already; choose another name, or delete it")
