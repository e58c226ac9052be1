"""Pieces of an experiment side by side. Each leaves what it finds in files, so that what was stopped
goes on, in any order.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from multiprocessing import active_children, get_context, parent_process
from threading import Thread
from typing import Any, Literal, TypeAlias, TypeVar

import torch

from echelon.progress import Progress
from echelon.types import EchelonError

Piece = TypeVar("Piece")
Found = TypeVar("Found")
Jobs: TypeAlias = int | Literal["ray"]
"""pieces at a time; "ray" is as many as a Ray cluster has cores, that of RAY_ADDRESS or this machine"""


def side_by_side(
    work: Callable[[Piece, Progress], Found],
    pieces: Sequence[Piece],
    jobs: Jobs,
    name: str,
    progress: Progress,
) -> list[Found]:
    """What the work of each piece finds. More than one job at a time are processes of their own, each
    with its share of the cores, or ("ray") on a cluster, and have one bar together.
    """
    if jobs == "ray":
        return _on_cluster(work, pieces, name, progress)
    if jobs < 1:
        raise EchelonError(f"jobs: {jobs} do nothing; use 1, or as many as there are cores")
    if jobs == 1:
        return [work(piece, progress) for piece in pieces]
    torch.set_num_threads(threads := max(1, (os.cpu_count() or 1) // jobs))
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), _begin, (threads,))
    try:
        with progress.task(name, len(pieces)) as advance:
            begun = [pool.submit(_quietly, work, piece) for piece in pieces]
            for done in as_completed(begun):
                done.result()  # what went wrong in one ends all
                advance(None)
            return [done.result() for done in begun]
    except BrokenProcessPool as error:
        raise EchelonError(
            "jobs: a process was killed, perhaps for want of memory; what was finished is kept, so run "
            f"again with fewer than {jobs}"
        ) from error
    except BaseException:
        for child in active_children():
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _on_cluster(
    work: Callable[[Piece, Progress], Found], pieces: Sequence[Piece], name: str, progress: Progress
) -> list[Found]:
    """A core a piece. All machines must see this folder, since pieces leave their files in it."""
    try:
        ray: Any = import_module("ray")
    except ImportError as error:
        raise EchelonError("jobs: Ray is not installed; pip install 'echelon[ray]'") from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody unasked
    imports = {"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}}
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
    try:
        ray.init(runtime_env=imports, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise EchelonError(
            "jobs: no Ray cluster answers; set RAY_ADDRESS to one that runs, or unset it to use "
            "this machine"
        ) from error
    task = ray.remote(num_cpus=1, max_retries=0)(_there)
    begun = left = [task.remote(work, piece, os.getcwd()) for piece in pieces]
    try:
        with progress.task(name, len(pieces)) as advance:
            while left:
                done, left = ray.wait(left)
                ray.get(done)  # what went wrong in one ends all
                advance(None)
        return ray.get(begun)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise EchelonError(
            "jobs: a worker of the cluster was lost; what was finished is kept, so run again"
        ) from error
    finally:
        for one in left:
            ray.cancel(one, force=True)
        ray.shutdown()


def _there(work: Callable[[Piece, Progress], Found], piece: Piece, folder: str) -> Found:
    os.chdir(folder)
    torch.set_num_threads(1)
    return _quietly(work, piece)


def _quietly(work: Callable[[Piece, Progress], Found], piece: Piece) -> Found:
    return work(piece, Progress(quiet=True))


def _begin(threads: int) -> None:
    """A process that is stopped by its parent alone, and ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    if parent := parent_process():
        Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
