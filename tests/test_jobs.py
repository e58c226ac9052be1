"""Pieces of an experiment in processes of their own: what they find, and what ends them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from echelon.bench.jobs import side_by_side
from echelon.progress import Progress
from echelon.types import EchelonError

QUIET = Progress(quiet=True)


def square(piece: int, _: Progress) -> tuple[int, int, int]:
    return piece**2, os.getpid(), torch.get_num_threads()


def meet(folder: Path, piece: int, progress: Progress) -> tuple[int, int, int]:
    """Pieces 0 and 1 wait for each other, so that no process does both; 0 is done last."""
    (folder / str(piece)).touch()
    while piece < 2 and not all((folder / str(other)).exists() for other in (0, 1)):
        time.sleep(0.02)
    while piece == 0 and not all((folder / str(other)).exists() for other in range(4)):
        time.sleep(0.02)
    return square(piece, progress)


def refuse(piece: int, _: Progress) -> None:
    if piece == 1:
        raise EchelonError("piece 1: is not wanted; leave it out")


def die(piece: int, _: Progress) -> None:
    if piece == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def linger(folder: Path, piece: int, _: Progress) -> None:
    (folder / str(piece)).write_text(str(os.getpid()))
    time.sleep(120)


@pytest.fixture(autouse=True)
def threads() -> object:
    known = torch.get_num_threads()
    yield
    torch.set_num_threads(known)


def test_the_answers_are_in_order_and_the_work_is_elsewhere(tmp_path: Path) -> None:
    alone = side_by_side(square, range(4), 1, "square", QUIET)
    both = side_by_side(partial(meet, tmp_path), range(4), 2, "square", QUIET)
    assert [a[0] for a in alone] == [b[0] for b in both] == [0, 1, 4, 9]
    assert {a[1] for a in alone} == {os.getpid()}
    assert len({b[1] for b in both} - {os.getpid()}) == 2
    share = max(1, (os.cpu_count() or 1) // 2)
    assert {b[2] for b in both} == {torch.get_num_threads()} == {share}


def test_what_goes_wrong_in_one_is_told() -> None:
    with pytest.raises(EchelonError, match="piece 1: is not wanted; leave it out"):
        side_by_side(refuse, range(3), 2, "refuse", QUIET)
    with pytest.raises(EchelonError, match=r"jobs: a process was killed.* fewer than 2"):
        side_by_side(die, range(3), 2, "die", QUIET)
    with pytest.raises(EchelonError, match="jobs: 0 do nothing"):
        side_by_side(refuse, range(3), 0, "refuse", QUIET)


@pytest.mark.timeout(180)
def test_a_cluster_does_the_same() -> None:
    found = side_by_side(square, range(3), "ray", "square", QUIET)
    assert [f[0] for f in found] == [0, 1, 4]
    assert os.getpid() not in {f[1] for f in found}
    with pytest.raises(EchelonError, match=r"^piece 1: is not wanted; leave it out$"):
        side_by_side(refuse, range(3), "ray", "refuse", QUIET)
    with pytest.raises(EchelonError, match="jobs: a worker of the cluster was lost"):
        side_by_side(die, range(3), "ray", "die", QUIET)


def test_a_cluster_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise ConnectionError("nobody is there")

    monkeypatch.setattr("ray.init", refuse)
    with pytest.raises(EchelonError, match="jobs: no Ray cluster answers; set RAY_ADDRESS"):
        side_by_side(square, range(3), "ray", "square", QUIET)


def test_without_ray_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EchelonError, match=r"pip install 'echelon\[ray\]'"):
        side_by_side(square, range(3), "ray", "square", QUIET)


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL])
def test_all_end_with_the_one_that_began_them(tmp_path: Path, by: signal.Signals) -> None:
    command = [sys.executable, __file__, str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as me:
        try:
            while len(list(tmp_path.iterdir())) < 2:
                assert me.poll() is None
                time.sleep(0.1)
            time.sleep(0.2)
            me.send_signal(by)
            _, said = me.communicate(timeout=30)
        finally:
            me.kill()
    assert b"Traceback" not in said
    left = [int(path.read_text()) for path in tmp_path.iterdir()]
    deadline = time.monotonic() + 30
    while any(runs(pid) for pid in left) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(runs(pid) for pid in left)
    assert len(left) == 2  # and no piece was begun after that


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


if __name__ == "__main__":
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # ignored where tests run behind a shell
    try:
        side_by_side(partial(linger, Path(sys.argv[1])), range(4), 2, "linger", QUIET)
    except KeyboardInterrupt:
        sys.exit(130)
