"""Mazes: connected, closed, and measured as a slower method measures them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echelon.envs.layouts import (
    LONGEST,
    OPEN,
    Layout,
    check,
    distances,
    free_cells,
    generate,
    scatter,
)
from echelon.types import EchelonError


def edges(layout: Layout) -> int:
    """Pairs of neighbouring free cells."""
    free = layout == 0
    return int((free[1:] & free[:-1]).sum() + (free[:, 1:] & free[:, :-1]).sum())


def relaxed(layout: Layout, cell: tuple[int, int]) -> np.ndarray:
    """Distances by relaxing every cell until nothing changes."""
    far = 10**6
    out = np.full(layout.shape, far)
    out[cell] = 0
    while True:
        padded = np.pad(out, 1, constant_values=far)
        near = np.minimum.reduce(
            [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
        )
        new = np.where(layout == 0, np.minimum(out, near + 1), far)
        if np.array_equal(new, out):
            return np.where(out >= far, -1, out)
        out = new


@settings(max_examples=25)
@given(st.integers(2, 7), st.integers(0, 1000))
def test_a_generated_maze_is_a_tree(size: int, seed: int) -> None:
    layout = generate(size, seed)
    check(layout)
    assert layout.shape == (2 * size + 1, 2 * size + 1)
    assert (layout[1::2, 1::2] == 0).all()
    assert edges(layout) == len(free_cells(layout)) - 1
    assert np.array_equal(layout, generate(size, seed))


def test_seeds_give_different_mazes() -> None:
    assert len({generate(4, seed).tobytes() for seed in range(10)}) > 5


@pytest.mark.parametrize(("loops", "opened"), [(0.0, 0), (0.5, 8), (1.0, 16)])
def test_loops_open_a_share_of_the_walls(loops: float, opened: int) -> None:
    # 5 x 5 junctions have 40 places between neighbours, and a tree uses 24 of them.
    layout = generate(5, 3, loops)
    check(layout)
    assert len(free_cells(layout)) == len(free_cells(generate(5, 3))) + opened
    assert edges(layout) == len(free_cells(layout)) - 1 + opened


def test_too_small() -> None:
    with pytest.raises(EchelonError, match="use at least 2"):
        generate(1, 0)


@settings(max_examples=25)
@given(st.integers(0, 2**25 - 1))
def test_distances_are_the_shortest(bits: int) -> None:
    layout = np.array([bits >> i & 1 for i in range(25)], np.int8).reshape(5, 5)
    for row, column in free_cells(layout):
        cell = (int(row), int(column))
        assert np.array_equal(distances(layout, cell), relaxed(layout, cell))


def test_distances_of_a_maze_with_loops() -> None:
    layout = generate(5, 1, 0.3)
    assert np.array_equal(distances(layout, (1, 1)), relaxed(layout, (1, 1)))
    with pytest.raises(EchelonError, match="is a wall"):
        distances(layout, (0, 0))


def test_free_cells_are_rows_and_columns() -> None:
    layout = np.array([[1, 1, 1, 1], [1, 0, 0, 1], [1, 1, 0, 1], [1, 1, 1, 1]], np.int8)
    assert free_cells(layout).tolist() == [[1, 1], [1, 2], [2, 2]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["1101", "1001", "1111"], "border"),
        (["1111", "0001", "1111"], "border"),
        (["11111", "10101", "11111"], "no path to others"),
        (["1111", "1011", "1101", "1111"], "no path to others"),
        (["111", "101", "111"], "fewer than two free cells"),
        (["111", "111", "111"], "fewer than two free cells"),
    ],
)
def test_check_refuses(rows: list[str], message: str) -> None:
    with pytest.raises(EchelonError, match=message) as caught:
        check(np.array([[int(c) for c in row] for row in rows], np.int8))
    assert "\n" not in str(caught.value)


# --- walls at random -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [5, 8])
def test_scattered_layouts_are_what_they_promise(size: int) -> None:
    for seed in range(6):
        layout = scatter(size, seed)
        check(layout)
        assert layout.shape == (size + 2, size + 2)
        assert OPEN[0] <= (layout == 0).sum() / size**2 <= OPEN[1]
        longest = max(int(distances(layout, (r, c)).max()) for r, c in free_cells(layout))
        assert longest < LONGEST


def test_scattered_layouts_differ_by_seed_alone() -> None:
    assert len({scatter(8, seed).tobytes() for seed in range(8)}) == 8
    scatter.cache_clear()
    again = scatter(8, 3)
    scatter.cache_clear()
    assert np.array_equal(again, scatter(8, 3))


def test_no_room_is_wide_open() -> None:
    """A free cell amid more than six free ones is filled."""
    for seed in range(6):
        free = 1 - scatter(8, seed)
        around = sum(
            np.roll(free, (r, c), (0, 1))
            for r in (-1, 0, 1)
            for c in (-1, 0, 1)
            if (r, c) != (0, 0)
        )
        assert (around[free == 1] <= 6).all()


def test_a_scattered_layout_too_small_for_walls() -> None:
    with pytest.raises(EchelonError, match="3 x 3 cells are too few"):
        scatter(3, 0)
