"""Logged episodes on disk: one HDF5 file, one dataset a column.

The layout is stable-worldmodel's, so that sets can be exchanged: every column holds the frames of
all episodes end to end; ``ep_len`` and ``ep_offset`` [E] say where each begins, in frames;
``action[t]`` leaves frame t, and the last one of an episode is NaN. Echelon adds a format version and
a checksum as attributes, and reads files that have neither.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from echelon.types import EchelonError

FORMAT_VERSION = 1
CHUNK_FRAMES = 32
RESERVE = 16 * 2**20
"""bytes left free on the disk for what HDF5 still holds in memory: it finds out late that there is no
room, and then crashes"""

Array = NDArray[Any]


class EpisodeWriter:
    """Write episodes one by one; the file appears, whole and checksummed, when all are in.

    >>> with EpisodeWriter(path, meta={"task": "maze"}) as writer:
    ...     writer.add({"pixels": frames, "action": actions})

    An error or Ctrl-C leaves what stood at `path` before as it was.
    """

    def __init__(self, path: Path | str, meta: Mapping[str, Any] | None = None) -> None:
        self.path = Path(path)
        self.meta = dict(meta or {})
        self._part = self.path.with_name(self.path.name + ".part")
        self._lengths: list[int] = []
        self._digests: dict[str, Any] = {}

    def __enter__(self) -> EpisodeWriter:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = h5py.File(self._part, "w")
        except OSError as error:
            raise _disk(self.path, error) from error
        return self

    def add(self, episode: Mapping[str, Array]) -> None:
        """Append an episode.

        pixels: [T + 1, H, W, 3] uint8; action: [T, A] float; other columns: [T + 1, ...].
        """
        frames = len(episode["pixels"])
        if len(episode["action"]) != frames - 1 or frames < 2:
            raise EchelonError(
                f"episode {len(self._lengths)}: {frames} frames need {frames - 1} actions (at least "
                f"one), got {len(episode['action'])}"
            )
        action = np.asarray(episode["action"], np.float32)
        columns = dict(episode) | {
            "action": np.pad(action, ((0, 1), (0, 0)), constant_values=np.nan)
        }
        others = set(columns) ^ set(self._digests or columns)
        others |= {name for name, values in columns.items() if len(values) != frames}
        if others:
            raise EchelonError(
                f"episode {len(self._lengths)}: every episode needs the same columns, with a row a "
                f"frame; look at {', '.join(sorted(others))}"
            )
        try:
            if shutil.disk_usage(self.path.parent).free < RESERVE + sum(
                np.asarray(values).nbytes for values in columns.values()
            ):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            for name, values in columns.items():
                self._append(name, np.ascontiguousarray(values))
        except (OSError, RuntimeError) as error:
            raise _disk(self.path, error) from error
        self._lengths.append(frames)

    def _append(self, name: str, values: Array) -> None:
        if name not in self._digests:
            rows = CHUNK_FRAMES if values.ndim > 2 else 1024
            self._file.create_dataset(
                name,
                shape=(0, *values.shape[1:]),
                maxshape=(None, *values.shape[1:]),
                dtype=values.dtype,
                chunks=(rows, *values.shape[1:]),
                compression="lzf",
            )
            self._digests[name] = hashlib.sha256()
        column: Any = self._file[name]
        before = column.shape[0]
        column.resize(before + len(values), axis=0)
        column[before:] = values
        self._digests[name].update(values.data)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        except (OSError, RuntimeError) as problem:
            raise _disk(self.path, problem) from problem
        finally:
            with contextlib.suppress(OSError, RuntimeError):  # on a full disk this fails as well
                self._file.close()
            self._part.unlink(missing_ok=True)

    def _finish(self) -> None:
        lengths = np.array(self._lengths, np.int64)
        self._file["ep_len"] = lengths
        self._file["ep_offset"] = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
        self._file.attrs["echelon_version"] = FORMAT_VERSION
        self._file.attrs["sha256"] = _combine({k: d.hexdigest() for k, d in self._digests.items()})
        self._file.attrs["meta"] = json.dumps(self.meta, sort_keys=True)
        self._file.close()
        with self._part.open("rb") as written:
            os.fsync(written.fileno())
        self._part.replace(self.path)


def _combine(digests: Mapping[str, str]) -> str:
    """One checksum of the columns' raw values, whatever their chunks and compression."""
    return hashlib.sha256(json.dumps(dict(sorted(digests.items()))).encode()).hexdigest()


def _disk(path: Path, error: Exception) -> EchelonError:
    full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
    if full:
        return EchelonError(f"{path}: the disk is full; free some space and run again")
    return EchelonError(f"{path}: could not be written ({error})")


@dataclass(frozen=True)
class Episodes:
    """Episodes opened for training; every frame is checked for, and pixels are held in memory."""

    path: Path
    lengths: NDArray[np.int64]
    """[E] frames an episode"""
    offsets: NDArray[np.int64]
    """[E] row of its first frame"""
    pixels: NDArray[np.uint8]
    """[N, H, W, 3] of all episodes, end to end"""
    actions: NDArray[np.float32]
    """[N, A]; NaN on the last frame of an episode"""
    sha256: str
    """as stored; empty in a file that another program wrote"""
    meta: dict[str, Any]

    @staticmethod
    def open(path: Path | str) -> Episodes:
        """Read and check a file; every fault is one EchelonError."""
        path = Path(path)
        with _opened(path) as file:
            version = int(file.attrs.get("echelon_version", FORMAT_VERSION))
            if version > FORMAT_VERSION:
                raise EchelonError(
                    f"{path}: episode format {version} is newer than this Echelon reads "
                    f"({FORMAT_VERSION}); update echelon"
                )
            for name in ("pixels", "action", "ep_len", "ep_offset"):
                if name not in file:
                    raise EchelonError(
                        f"{path}: has no column '{name}'; columns found: {', '.join(sorted(file))}"
                    )
            try:
                columns = {
                    k: np.asarray(file[k]) for k in ("pixels", "action", "ep_len", "ep_offset")
                }
            except OSError as error:
                raise EchelonError(f"{path}: is damaged or truncated; copy it again") from error
            episodes = Episodes(
                path,
                columns["ep_len"].astype(np.int64).reshape(-1),
                columns["ep_offset"].astype(np.int64).reshape(-1),
                columns["pixels"],
                columns["action"].astype(np.float32),
                str(file.attrs.get("sha256", "")),
                json.loads(str(file.attrs.get("meta", "{}"))),
            )
        episodes._check()
        return episodes

    def column(self, name: str) -> Array:
        """Another column ``[N, ...]``, such as "state", read now."""
        with _opened(self.path) as file:
            if name not in file:
                raise EchelonError(f"{self.path}: has no column '{name}'")
            return np.asarray(file[name])

    def verify(self) -> None:
        """Compare every value with the stored checksum."""
        with _opened(self.path) as file:
            digests = {
                str(name): hashlib.sha256(np.ascontiguousarray(file[name]).data).hexdigest()
                for name in file
                if name not in ("ep_len", "ep_offset")
            }
        if self.sha256 and _combine(digests) != self.sha256:
            raise EchelonError(f"{self.path}: does not match its checksum; copy it again")

    @property
    def transitions(self) -> int:
        return int((self.lengths - 1).sum())

    @property
    def identity(self) -> dict[str, Any]:
        """Name, size and checksum, as records give them."""
        return {"name": self.path.stem, "transitions": self.transitions, "sha256": self.sha256}

    @property
    def action_dim(self) -> int:
        return self.actions.shape[1]

    @property
    def image_size(self) -> int:
        return self.pixels.shape[1]

    def split(self, held_out: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Whole episodes for training and for validation: disjoint, at least one in each."""
        count = len(self.lengths)
        if count < 2:
            raise EchelonError(f"{self.path}: one episode cannot be split; record at least two")
        order = np.random.default_rng((seed, count)).permutation(count)
        kept_out = min(max(round(held_out * count), 1), count - 1)
        return np.sort(order[kept_out:]), np.sort(order[:kept_out])

    def describe(self) -> dict[str, Any]:
        """What `echelon inspect` prints."""
        steps = self.lengths - 1
        return {
            "file": str(self.path),
            "episodes": len(self.lengths),
            "transitions": self.transitions,
            "steps an episode": {"least": int(steps.min()), "most": int(steps.max())},
            "image_size": self.image_size,
            "action_dim": self.action_dim,
            "sha256": self.sha256,
            "meta": self.meta,
        }

    def _check(self) -> None:
        path, pixels, actions = self.path, self.pixels, self.actions
        if len(self.lengths) == 0:
            raise EchelonError(f"{path}: holds no episodes")
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
            raise EchelonError(
                f"{path}: pixels must be uint8 [N, H, W, 3], got {pixels.dtype} {pixels.shape}"
            )
        if pixels.shape[1] != pixels.shape[2] or pixels.shape[1] % 8:
            raise EchelonError(
                f"{path}: frames are {pixels.shape[1]} x {pixels.shape[2]} pixels; make them square, "
                "with a side that 8 divides"
            )
        if actions.ndim != 2 or actions.shape[1] == 0:
            raise EchelonError(
                f"{path}: action must be [N, A] with A at least 1, got {actions.shape}"
            )
        ends = np.cumsum(self.lengths)
        if (
            not np.array_equal(self.offsets, ends - self.lengths)
            or ends[-1] != len(pixels)
            or len(actions) != len(pixels)
        ):
            raise EchelonError(
                f"{path}: ep_len and ep_offset must cover the {len(pixels)} frames and "
                f"{len(actions)} actions end to end"
            )
        short = int((self.lengths < 2).sum())
        if short:
            raise EchelonError(f"{path}: {short} episodes have one frame and no action; drop them")
        inside = np.ones(len(actions), bool)
        inside[ends - 1] = False
        bad = np.flatnonzero(inside & ~np.isfinite(actions).all(1))
        if len(bad):
            episode = int(np.searchsorted(self.offsets, bad[0], side="right")) - 1
            step = int(bad[0] - self.offsets[episode])
            raise EchelonError(
                f"{path}: action of episode {episode}, step {step} is NaN or infinite "
                f"({len(bad)} such steps); drop or repair those episodes"
            )


def _opened(path: Path) -> h5py.File:
    if not path.exists():
        raise EchelonError(f"{path}: no such file; record episodes with 'echelon collect'")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise EchelonError(f"{path}: is not a readable HDF5 file, or it is truncated") from error
