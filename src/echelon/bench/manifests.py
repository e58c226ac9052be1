"""The trials of a benchmark, frozen in a file: neither code nor library can change them unnoticed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from echelon.envs.layouts import Layout
from echelon.envs.task import Trial
from echelon.files import read_json, write_atomically
from echelon.types import EchelonError

COLUMNS = ("seed", "split", "layout", "start", "goal", "distance")
"""of a trial: start and goal in (row, column) cells, exactly; layouts are counted from 0"""


def manifest(some: Sequence[Layout], trials: Mapping[int, Sequence[Trial]]) -> dict[str, Any]:
    """Layouts as rows of # (wall) and . (free), the trials of each seed in them, and their hash."""
    number = {layout.tobytes(): i for i, layout in enumerate(some)}
    content = {
        "layouts": [["".join(".#"[cell] for cell in row) for row in layout] for layout in some],
        "columns": list(COLUMNS),
        "trials": [
            [
                *(seed, t.split, number[t.layout.tobytes()]),
                *(t.start.tolist(), t.goal.tolist(), t.distance),
            ]
            for seed, mine in trials.items()
            for t in mine
        ],
    }
    return {"sha256": digest(content), **content}


def digest(content: Mapping[str, Any]) -> str:
    """sha256 of all but itself, as JSON with sorted keys and no spaces."""
    known = {key: value for key, value in content.items() if key != "sha256"}
    text = json.dumps(known, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def keep_to(path: Path, some: Sequence[Layout], trials: Mapping[int, Sequence[Trial]]) -> None:
    """Write the manifest where there is none; elsewhere EchelonError if it has other trials of these
    seeds, or was edited.
    """
    if not path.exists():
        _write(path, manifest(some, trials))
        return
    kept, made = read_json(path), manifest(some, trials)
    if not isinstance(kept, dict) or kept.get("sha256") != digest(kept):
        raise EchelonError(f"{path}: was edited, its sha256 is not that of its content; restore it")
    seeds = [seed for seed in trials if _of(kept, seed) != _of(made, seed)]
    if kept["layouts"] == made["layouts"] and not seeds:
        return
    what = f"the trials of seed {seeds[0]}" if seeds else "the layouts"
    raise EchelonError(
        f"{path}: {what} are not those that this code makes with these options; give another "
        "--manifest, which is written where there is none"
    )


def _of(content: Mapping[str, Any], seed: int) -> list[Any]:
    return [trial for trial in content["trials"] if trial[0] == seed]


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
