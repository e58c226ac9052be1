"""Small files that are either whole or absent, and run folders that say how they were made."""

from __future__ import annotations

import errno
import json
import os
import platform
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from echelon.types import EchelonError


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside `path`, flush to the disk, then rename: a reader sees the old file or the new."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise EchelonError(
                f"{path}: the disk is full; free some space and run again"
            ) from error
        raise EchelonError(f"{path}: could not be written ({error.strerror})") from error
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Readable JSON, written atomically."""
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())


def write_rows(path: Path, rows: Sequence[Any]) -> None:
    """A JSON list with one value a line, so that a changed number is a changed line."""
    lines = ",\n".join(json.dumps(row) for row in rows)
    write_atomically(path, f"[\n{lines}\n]\n".encode())


def read_json(path: Path) -> Any:
    """The value of a JSON file; absent and damaged ones are one EchelonError."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise EchelonError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise EchelonError(f"{path}: not readable as JSON ({error})") from error


@contextmanager
def alone(folder: Path) -> Generator[None]:
    """One process at a time in a folder; others wait until it is done, or has ended in any way."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def versions() -> dict[str, str]:
    """What a run depended on."""
    packages = ("echelon", "torch", "numpy", "lightning-fabric", "gymnasium-robotics", "mujoco")
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def open_run(folder: Path, config: dict[str, Any]) -> None:
    """Make a run folder for `config`, or accept one that was begun with the very same."""
    path = folder / "config.json"
    if path.exists():
        known = read_json(path).get("config")
        if known != config:
            raise EchelonError(
                f"{folder}: holds a run with other options ({_difference(known, config)}); choose "
                "another --out, or delete the folder"
            )
        return
    write_json(path, {"config": config, "versions": versions()})


def _difference(known: Any, config: Any, where: str = "") -> str:
    """The first option that differs, by name."""
    if isinstance(known, dict) and isinstance(config, dict):
        for key in {**known, **config}:
            if known.get(key) != config.get(key):
                return _difference(
                    known.get(key), config.get(key), f"{where}.{key}" if where else key
                )
    return f"{where}: {known} there, {config} here"
