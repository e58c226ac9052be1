"""Episodes on disk: what is written is what is read, and what is wrong is told in one line."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import write_episodes

from echelon.data import episodes as module
from echelon.data.episodes import Episodes, EpisodeWriter
from echelon.types import EchelonError

Columns = dict[str, Any]


def episode(frames: int, seed: int = 0) -> Columns:
    rng = np.random.default_rng((seed, frames))
    return {
        "pixels": rng.integers(0, 256, (frames, 8, 8, 3), np.uint8),
        "action": rng.normal(size=(frames - 1, 2)).astype(np.float32),
        "state": rng.normal(size=(frames, 3)),
    }


def write(path: Path, made: Iterable[Columns]) -> Path:
    with EpisodeWriter(path, {"task": "test"}) as writer:
        for one in made:
            writer.add(one)
    return path


def good(lengths: tuple[int, ...] = (3, 2, 4)) -> Columns:
    """The columns of a file as another program would lay them out, ready to be spoilt."""
    total = sum(lengths)
    action = np.zeros((total, 2), np.float32)
    action[np.cumsum(lengths) - 1] = np.nan
    return {
        "pixels": np.zeros((total, 16, 16, 3), np.uint8),
        "action": action,
        "ep_len": np.array(lengths),
        "ep_offset": np.concatenate([[0], np.cumsum(lengths)[:-1]]),
    }


def plain(path: Path, columns: Columns) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file[name] = values
    return path


def refused(path: Path, message: str) -> None:
    with pytest.raises(EchelonError, match=message) as caught:
        Episodes.open(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@settings(max_examples=20)
@given(st.lists(st.integers(2, 6), min_size=1, max_size=4))
def test_round_trip(lengths: list[int]) -> None:
    made = [episode(frames, seed) for seed, frames in enumerate(lengths)]
    with tempfile.TemporaryDirectory() as folder:
        read = Episodes.open(write(Path(folder, "a.h5"), made))
        read.verify()
        state = read.column("state")
    assert read.lengths.tolist() == lengths
    assert read.transitions == sum(lengths) - len(lengths)
    assert (read.image_size, read.action_dim, read.meta) == (8, 2, {"task": "test"})
    for one, first, frames in zip(made, read.offsets, lengths, strict=True):
        assert np.array_equal(read.pixels[first : first + frames], one["pixels"])
        assert np.array_equal(read.actions[first : first + frames - 1], one["action"])
        assert np.array_equal(state[first : first + frames], one["state"])


def test_layout(tmp_path: Path) -> None:
    path = write(tmp_path / "deep" / "a.h5", [episode(3), episode(2), episode(5)])
    with h5py.File(path) as file:
        assert set(file) == {"pixels", "action", "state", "ep_len", "ep_offset"}
        assert file["ep_len"][:].tolist() == [3, 2, 5]
        assert file["ep_offset"][:].tolist() == [0, 3, 5]
        assert {len(file[name]) for name in ("pixels", "action", "state")} == {10}
        last = np.isnan(file["action"][:]).all(1)
        assert np.flatnonzero(last).tolist() == [2, 4, 9]
        assert not np.isnan(file["action"][:][~last]).any()
        assert (file["pixels"].dtype, file["action"].dtype) == (np.uint8, np.float32)
        assert file.attrs["echelon_version"] == 1
    assert os.listdir(path.parent) == ["a.h5"]


def test_a_file_of_another_program_opens(tmp_path: Path) -> None:
    read = Episodes.open(plain(tmp_path / "a.h5", good()))
    assert (read.lengths.tolist(), read.sha256, read.meta) == ([3, 2, 4], "", {})
    assert read.describe()["steps an episode"] == {"least": 1, "most": 3}
    read.verify()


@pytest.mark.parametrize("column", ["pixels", "action", "state"])
def test_verify_catches_one_value(tmp_path: Path, column: str) -> None:
    path = write_episodes(tmp_path / "a.h5", episodes=2, steps=3)
    Episodes.open(path).verify()
    with h5py.File(path, "r+") as file:
        value = file[column][1].copy()
        value.flat[0] = value.flat[0] + 1
        file[column][1] = value
    with pytest.raises(EchelonError, match="does not match its checksum"):
        Episodes.open(path).verify()


@given(st.integers(2, 30), st.floats(0, 1), st.integers(0, 5))
def test_split(count: int, held_out: float, seed: int) -> None:
    ones = np.ones(count, np.int64)
    read = Episodes(Path("a"), ones, ones, np.zeros(0), np.zeros(0), "", {})
    train, kept_out = read.split(held_out, seed)
    assert sorted([*train, *kept_out]) == list(range(count))
    assert len(train) >= 1
    assert len(kept_out) >= 1
    assert abs(len(kept_out) - held_out * count) <= 1
    again = read.split(held_out, seed)
    assert np.array_equal(train, again[0])
    assert np.array_equal(kept_out, again[1])


def test_split_depends_on_the_seed_and_needs_two(tmp_path: Path) -> None:
    ones = np.ones(30, np.int64)
    read = Episodes(Path("a"), ones, ones, np.zeros(0), np.zeros(0), "", {})
    assert len({tuple(read.split(0.2, seed)[1]) for seed in range(5)}) > 1
    one = Episodes.open(write(tmp_path / "a.h5", [episode(3)]))
    with pytest.raises(EchelonError, match="at least two"):
        one.split(0.5, 0)


@pytest.mark.parametrize("problem", [ValueError, KeyboardInterrupt])
def test_an_interrupted_writer_leaves_the_old_file(
    tmp_path: Path, problem: type[BaseException]
) -> None:
    path = write(tmp_path / "a.h5", [episode(3)])
    before = path.read_bytes()

    def made() -> Iterator[Columns]:
        yield episode(4)
        raise problem

    with pytest.raises(problem):
        write(path, made())
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.h5"]


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("owner", "name"),
    [(h5py.Dataset, "resize"), (module.os, "fsync"), (h5py, "File"), (Path, "mkdir")],
    ids=["write", "flush", "open", "folder"],
)
def test_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    path = write(tmp_path / "a.h5", [episode(3)])
    before = path.read_bytes()
    monkeypatch.setattr(owner, name, full)
    with pytest.raises(EchelonError, match=r"a\.h5: the disk is full"):
        write(path, [episode(4)])
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.h5"]


def test_a_disk_about_to_be_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.h5", [episode(3)])
    one = episode(4)
    size = one["pixels"].nbytes + one["state"].nbytes + 4 * one["action"].itemsize * 2
    for short in (0, 1):
        left = module.RESERVE + size - short
        monkeypatch.setattr(module.shutil, "disk_usage", lambda _, n=left: SimpleNamespace(free=n))
        before = path.read_bytes()
        if short:
            with pytest.raises(EchelonError, match="the disk is full"):
                write(path, [one])
            assert path.read_bytes() == before
        else:
            write(path, [one])
            assert path.read_bytes() != before


@pytest.mark.parametrize("earlier", [True, False])
def test_a_disk_full_when_closing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: bool
) -> None:
    """HDF5 keeps chunks in memory: it is often the close that finds no room, and again at exit."""
    path = write(tmp_path / "a.h5", [episode(3)])
    before = path.read_bytes()
    close = h5py.File.close

    def fail(file: h5py.File) -> None:
        close(file)
        full()

    monkeypatch.setattr(h5py.File, "close", fail)
    if earlier:
        monkeypatch.setattr(h5py.Dataset, "resize", full)
    with pytest.raises(EchelonError, match="the disk is full"):
        write(path, [episode(4)])
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.h5"]


def nan_inside(columns: Columns) -> None:
    columns["action"][6, 1] = np.nan


def infinite(columns: Columns) -> None:
    columns["action"][0] = np.inf


def no_action(columns: Columns) -> None:
    del columns["action"]


def flat_action(columns: Columns) -> None:
    columns["action"] = columns["action"][:, 0]


def empty_action(columns: Columns) -> None:
    columns["action"] = columns["action"][:, :0]


def one_frame(columns: Columns) -> None:
    columns["ep_len"], columns["ep_offset"] = np.array([3, 1, 5]), np.array([0, 3, 4])


def floats(columns: Columns) -> None:
    columns["pixels"] = columns["pixels"].astype(np.float32)


def grey(columns: Columns) -> None:
    columns["pixels"] = columns["pixels"][..., 0]


def channels_first(columns: Columns) -> None:
    columns["pixels"] = columns["pixels"].transpose(0, 3, 1, 2)


def oblong(columns: Columns) -> None:
    columns["pixels"] = columns["pixels"][:, :8]


def odd(columns: Columns) -> None:
    columns["pixels"] = columns["pixels"][:, :12, :12]


def too_few(columns: Columns) -> None:
    columns["ep_len"] = np.array([3, 2, 3])


def overlapping(columns: Columns) -> None:
    columns["ep_offset"] = np.array([0, 2, 5])


def more_offsets(columns: Columns) -> None:
    columns["ep_offset"] = np.array([0, 3, 5, 9])


def short_action(columns: Columns) -> None:
    columns["action"] = columns["action"][:-1]


def empty(columns: Columns) -> None:
    columns |= {name: values[:0] for name, values in columns.items()}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (nan_inside, "action of episode 2, step 1 is NaN or infinite"),
        (infinite, "action of episode 0, step 0 is NaN or infinite"),
        (no_action, "has no column 'action'; columns found: ep_len, ep_offset, pixels"),
        (flat_action, "action must be"),
        (empty_action, "action must be"),
        (one_frame, "1 episodes have one frame and no action"),
        (floats, "pixels must be uint8.*float32"),
        (grey, "pixels must be uint8"),
        (channels_first, "pixels must be uint8"),
        (oblong, "frames are 8 x 16 pixels"),
        (odd, "frames are 12 x 12 pixels"),
        (too_few, "must cover the 9 frames"),
        (overlapping, "must cover the 9 frames"),
        (more_offsets, "must cover the 9 frames"),
        (short_action, "8 actions"),
        (empty, "holds no episodes"),
    ],
)
def test_bad_columns(tmp_path: Path, spoil: Callable[[Columns], None], message: str) -> None:
    columns = good()
    Episodes.open(plain(tmp_path / "good.h5", columns))
    spoil(columns)
    refused(plain(tmp_path / "a.h5", columns), message)


def test_a_newer_version(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.h5", good())
    with h5py.File(path, "r+") as file:
        file.attrs["echelon_version"] = 2
    refused(path, "episode format 2 is newer than this Echelon reads")


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    refused(path, "no such file; record episodes with 'echelon collect'")
    path.write_text("not HDF5")
    refused(path, "is not a readable HDF5 file")
    refused(tmp_path, "is not a readable HDF5 file")
    path.unlink()
    with EpisodeWriter(path):
        pass
    refused(path, "has no column 'pixels'")


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_a_truncated_file(tmp_path: Path, share: float) -> None:
    path = write(tmp_path / "a.h5", [episode(40)])
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path, "truncated")


def test_the_writer_refuses_what_no_episode_is(tmp_path: Path) -> None:
    for frames, actions in ((3, 3), (1, 0), (0, 0)):
        one = episode(3)
        one |= {"pixels": one["pixels"][:frames], "action": np.zeros((actions, 2))}
        with pytest.raises(EchelonError, match=f"episode 1: {frames} frames need"):
            write(tmp_path / "a.h5", [episode(3), one])
    assert os.listdir(tmp_path) == []


def test_the_writer_refuses_columns_that_do_not_match(tmp_path: Path) -> None:
    other = {name: values for name, values in episode(3).items() if name != "state"}
    for one in (other, other | {"state": np.zeros((2, 3))}, episode(3) | {"more": np.zeros(3)}):
        with pytest.raises(EchelonError, match="episode 1: every episode needs the same columns"):
            write(tmp_path / "a.h5", [episode(3), one])
    assert os.listdir(tmp_path) == []


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    read = Episodes.open(plain(tmp_path / "a.h5", good()))
    with pytest.raises(EchelonError, match="has no column 'state'"):
        read.column("state")
