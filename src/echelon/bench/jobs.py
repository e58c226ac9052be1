"""Pieces of an experiment side by side. Each leaves what it finds in files, so that what was stopped
goes on, in any order.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context, parent_process
from threading import Thread
from typing import TypeVar

import torch

from echelon.progress import Progress
from echelon.types import EchelonError

Piece = TypeVar("Piece")
Found = TypeVar("Found")


def side_by_side(
    work: Callable[[Piece, Progress], Found],
    pieces: Sequence[Piece],
    jobs: int,
    name: str,
    progress: Progress,
) -> list[Found]:
    """What the work of each piece finds. More than one job at a time are processes of their own, each
    with its share of the cores, and have one bar together.
    """
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


def _quietly(work: Callable[[Piece, Progress], Found], piece: Piece) -> Found:
    return work(piece, Progress(quiet=True))


def _begin(threads: int) -> None:
    """A process that is stopped by its parent alone, and ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    if parent := parent_process():
        Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
