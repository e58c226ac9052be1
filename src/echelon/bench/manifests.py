"""The trials of a benchmark, frozen in a file: neither code nor library can change them unnoticed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from echelon.envs.task import Trial
from echelon.files import read_json, write_atomically
from echelon.types import EchelonError

COLUMNS = ("seed", "split", "layout", "start", "goal", "distance")
"""of a trial: start and goal exactly as the environment's `reset` takes them; layouts are counted
from 0"""


def manifest(trials: Mapping[int, Sequence[Trial]]) -> dict[str, Any]:
    """The trials of each seed; the layouts that they are in, in the order in which they come, as rows
    of # (wall) and . (free); and the hash of all that.
    """
    number: dict[tuple[str, ...], int] = {}
    rows: list[list[Any]] = []
    for seed, mine in trials.items():
        for trial in mine:
            drawn = tuple("".join(".#"[cell] for cell in row) for row in trial.layout)
            start, goal = (np.asarray(trial.options[name]).tolist() for name in ("start", "goal"))
            which = number.setdefault(drawn, len(number))
            rows.append([seed, trial.split, which, start, goal, trial.distance])
    return _hashed([list(drawn) for drawn in number], rows)


def digest(content: Mapping[str, Any]) -> str:
    """sha256 of all but itself, as JSON with sorted keys and no spaces."""
    known = {key: value for key, value in content.items() if key != "sha256"}
    text = json.dumps(known, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def keep_to(path: Path, seed: int, trials: Sequence[Trial]) -> None:
    """Put the trials of a seed into the manifest, which is written where there is none. EchelonError if
    it has other ones of this seed, or was edited.
    """
    made = manifest({seed: trials})
    if not path.exists():
        _write(path, made)
        return
    kept = read_json(path)
    if not isinstance(kept, dict) or kept.get("sha256") != digest(kept):
        raise EchelonError(f"{path}: was edited, its sha256 is not that of its content; restore it")
    mine = [trial for trial in _spelled(kept) if trial[0] == seed]
    if mine and mine != _spelled(made):
        raise EchelonError(
            f"{path}: the trials of seed {seed} are not those that this code makes with these options; "
            "give another --out"
        )
    if not mine:
        some = [*kept["layouts"], *(d for d in made["layouts"] if d not in kept["layouts"])]
        fresh = [[*t[:2], some.index(t[2]), *t[3:]] for t in _spelled(made)]
        _write(path, _hashed(some, [*kept["trials"], *fresh]))


def _hashed(some: Sequence[Any], trials: Sequence[Any]) -> dict[str, Any]:
    content = {"layouts": list(some), "columns": list(COLUMNS), "trials": list(trials)}
    return {"sha256": digest(content), **content}


def _spelled(content: Mapping[str, Any]) -> list[list[Any]]:
    """The trials, each with its layout in place of its number."""
    return [[*t[:2], content["layouts"][t[2]], *t[3:]] for t in content["trials"]]


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """A row of a layout a line, and a trial a line."""
    layouts = ",\n\n".join(
        "[" + ",\n ".join(map(json.dumps, layout)) + "]" for layout in content["layouts"]
    )
    trials = ",\n".join(map(json.dumps, content["trials"]))
    text = (
        f'{{\n"sha256": "{content["sha256"]}",\n"layouts": [\n{layouts}\n],\n'
        f'"columns": {json.dumps(content["columns"])},\n"trials": [\n{trials}\n]\n}}\n'
    )
    write_atomically(path, text.encode())
