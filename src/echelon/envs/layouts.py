"""Maze layouts: generated, checked and measured. A layout is a grid of 1 (wall) and 0 (free)."""

from __future__ import annotations

import functools
from collections import deque
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from echelon.types import EchelonError

Layout = NDArray[np.int8]
Kind = Literal["tree", "open"]
"""corridors, made by :func:`generate`, or rooms and pillars, made by :func:`scatter`"""

OPEN = (0.5, 0.8)
"""share of a scattered layout's inner cells that are free"""
LONGEST = 20
"""cells; no shortest path of a scattered layout is as long"""


def generate(size: int, seed: int, loops: float = 0.0) -> Layout:
    """A maze of `size` x `size` junctions joined by corridors: a random depth-first tree.

    loops: share of the tree's missing walls that are opened as well.
    Returns a (2 size + 1) square grid.
    """
    if size < 2:
        raise EchelonError(f"size: a maze of {size} junctions has no path; use at least 2")
    rng = np.random.default_rng((seed, size))
    grid = np.ones((2 * size + 1, 2 * size + 1), np.int8)
    grid[1, 1] = 0
    stack = [(0, 0)]
    while stack:
        row, column = stack[-1]
        ahead = [
            (row + dr, column + dc)
            for dr, dc in ((0, 1), (1, 0), (0, -1), (-1, 0))
            if 0 <= row + dr < size
            and 0 <= column + dc < size
            and grid[2 * (row + dr) + 1, 2 * (column + dc) + 1]
        ]
        if not ahead:
            stack.pop()
            continue
        r, c = ahead[rng.integers(len(ahead))]
        grid[2 * r + 1, 2 * c + 1] = 0
        grid[row + r + 1, column + c + 1] = 0
        stack.append((r, c))
    walls = [
        (i, j)
        for i in range(1, 2 * size)
        for j in range(1, 2 * size)
        if grid[i, j] and (i + j) % 2 == 1
    ]
    for index in rng.permutation(len(walls))[: round(loops * len(walls))]:
        grid[walls[index]] = 0
    return grid


@functools.lru_cache(256)
def scatter(size: int, seed: int) -> Layout:
    """Walls at random in a square of `size` x `size` cells, with a wall around: the layouts of HWM's
    diverse maze (arXiv 2604.03208), drawn anew until all free cells are joined, a share `OPEN` is free
    and no two are `LONGEST` cells apart.

    Every second cell is free by chance, then twice those amid more than six free neighbours are filled.
    Returns a (size + 2) square grid.
    """
    if size < 4:
        raise EchelonError(f"size: {size} x {size} cells are too few for walls; use at least 4")
    rng = np.random.default_rng((seed, size, 1))
    while True:
        free = np.zeros((256, size + 2, size + 2), np.int8)  # few of so many fit
        free[:, 1:-1, 1:-1] = rng.random((256, size, size)) < 0.5
        for _ in range(2):
            free[_neighbours(free) > 6] = 0
        share = free.sum((1, 2)) / size**2
        for layout in 1 - free[(share >= OPEN[0]) & (share <= OPEN[1])]:
            if _joined(layout) and between(layout).max() < LONGEST:
                layout.setflags(write=False)
                return layout


def _neighbours(free: Layout) -> Layout:
    """How many of the eight cells around each ``[..., H, W]`` are free; none beyond the border."""
    around = np.zeros_like(free)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            around += np.roll(free, (down, right), (-2, -1))
    return around - free


def _joined(layout: Layout) -> bool:
    """Whether every free cell can be reached from every other."""
    free = layout == 0
    beside = [np.roll(free, by, axis) for by in (1, -1) for axis in (0, 1)]
    if free.sum() > 1 and (free & ~np.logical_or.reduce(beside)).any():
        return False  # most random layouts have a cell alone, which is told a hundred times sooner
    row, column = free_cells(layout)[0]
    return not (distances(layout, (row, column))[layout == 0] < 0).any()


def between(layout: Layout) -> NDArray[np.int64]:
    """``[N, N]`` cells from each free cell to each other, in the order of `free_cells`; -1 where there
    is no way. Not to be written to.
    """
    return _between(layout.astype(np.int8).tobytes(), layout.shape)


@functools.lru_cache(256)
def _between(cells: bytes, shape: tuple[int, int]) -> NDArray[np.int64]:
    layout = np.frombuffer(cells, np.int8).reshape(shape)
    free = free_cells(layout)
    ways = [distances(layout, (int(row), int(column))) for row, column in free]
    found = np.stack(ways)[:, free[:, 0], free[:, 1]]
    found.setflags(write=False)
    return found


def free_cells(layout: Layout) -> NDArray[np.int64]:
    """``[N, 2]`` row and column of every free cell."""
    return np.argwhere(layout == 0)


def distances(layout: Layout, cell: tuple[int, int]) -> NDArray[np.int64]:
    """Length in cells of the shortest path from `cell` to each other; -1 where there is none."""
    out = np.full(layout.shape, -1, np.int64)
    if layout[cell]:
        raise EchelonError(f"cell {cell} is a wall; choose a free one")
    out[cell] = 0
    queue = deque([cell])
    while queue:
        row, column = queue.popleft()
        for r, c in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            inside = 0 <= r < layout.shape[0] and 0 <= c < layout.shape[1]
            if inside and not layout[r, c] and out[r, c] < 0:
                out[r, c] = out[row, column] + 1
                queue.append((r, c))
    return out


def onward(field: NDArray[np.int64], cell: tuple[int, ...], cells: int) -> tuple[int, ...]:
    """The cell so many farther along a shortest way, by the `distances` from where that leads."""
    for _ in range(min(cells, int(field[cell]))):
        row, column = cell
        around = ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1))
        cell = next(there for there in around if field[there] == field[cell] - 1)
    return cell


def ahead(layout: Layout, place: NDArray[Any], goal: NDArray[Any], cells: int) -> NDArray[Any]:
    """``[2], [2] -> [2]``: the middle of the cell so many farther along a shortest way from a place to
    its goal, or the goal where that is no farther.
    """
    here, there = (tuple(np.floor(x).astype(int).tolist()) for x in (place, goal))
    field = _field(layout.astype(np.int8).tobytes(), layout.shape, there)
    return np.array(onward(field, here, cells)) + 0.5 if field[here] > cells else goal


@functools.lru_cache(1024)
def _field(cells: bytes, shape: tuple[int, int], goal: tuple[int, int]) -> NDArray[np.int64]:
    return distances(np.frombuffer(cells, np.int8).reshape(shape), goal)


def check(layout: Layout) -> None:
    """A layout must be closed by walls, and every free cell reachable from every other."""
    border = np.concatenate([layout[0], layout[-1], layout[:, 0], layout[:, -1]])
    if not border.all():
        raise EchelonError("layout: its border must be wall all around")
    if len(free_cells(layout)) < 2:
        raise EchelonError("layout: has fewer than two free cells, so there is no path to plan")
    if not _joined(layout):
        raise EchelonError(
            "layout: some free cells have no path to others; open a wall between them"
        )
