"""Frozen trials: those that the code makes, and in layouts that nothing is trained in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from echelon.bench.diverse_maze import DIVERSE_MAZE, HELD_OUT, held_out_layouts
from echelon.bench.four_room import FOUR_ROOM
from echelon.bench.manifests import digest, keep_to, manifest
from echelon.collect import CollectConfig
from echelon.envs import four_room
from echelon.envs.layouts import Layout
from echelon.envs.mazes import make_trials, spread_trials
from echelon.envs.task import Trial
from echelon.files import read_json, write_json
from echelon.types import EchelonError

SEEDS = (0, 1, 2)
FOLDER = Path(__file__).parents[1] / "results" / "manifests"
KEPT: dict[str, Any] = read_json(FOLDER / "diverse-maze.json")
LAYOUTS: list[Layout] = [
    np.array([[cell == "#" for cell in row] for row in layout], np.int8)
    for layout in KEPT["layouts"]
]
COLLECTION: CollectConfig = DIVERSE_MAZE.collection
SPLITS = tuple(DIVERSE_MAZE.budgets)


def some(count: int, seed: int = 0, layout: int = 0) -> list[Trial]:
    return make_trials(LAYOUTS[layout], count, seed, "test", ("5-8",))


def test_the_code_makes_exactly_these_trials() -> None:
    others = held_out_layouts(COLLECTION, HELD_OUT)
    made = {
        seed: [t for s in SPLITS for t in spread_trials(others, 100, seed, "test", (s,))]
        for seed in SEEDS
    }
    assert manifest(made) == KEPT
    assert KEPT["sha256"] == digest(KEPT)
    assert len(KEPT["trials"]) == 900


def test_the_four_rooms_trials_are_those_that_the_code_makes() -> None:
    kept: dict[str, Any] = read_json(FOLDER / "four-room.json")
    made = {
        seed: [t for s in FOUR_ROOM.budgets for t in four_room.make_trials(s, 100, seed, "test")]
        for seed in SEEDS
    }
    assert manifest(made) == kept
    assert len(kept["trials"]) == 900


def test_nothing_is_trained_in_a_layout_of_trials() -> None:
    known = {layout.tobytes() for layout in LAYOUTS}
    assert len(known) == HELD_OUT
    for seed in SEEDS:
        trained = {layout.tobytes() for layout in replace(COLLECTION, seed=seed).layouts}
        assert len(trained) == 25
        assert not known & trained


def test_nothing_is_tuned_on_a_start_and_goal_of_trials() -> None:
    tested = {
        (number, *(int(x) for x in (*start, *goal)))
        for _, _, number, start, goal, _ in KEPT["trials"]
    }
    tuned = {
        (number, *(int(x) for x in (*trial.start, *trial.goal)))
        for number, layout in enumerate(LAYOUTS)
        for trial in make_trials(layout, 300, 0, "tune", SPLITS)
    }
    assert len(tested) > 500
    assert not tested & tuned


def test_a_manifest_is_written_once_a_seed_and_kept_to(tmp_path: Path) -> None:
    path = tmp_path / "trials.json"
    for seed in (0, 1):
        keep_to(path, seed, some(3, seed, layout=seed))
    written = path.read_bytes()
    assert read_json(path) == manifest({seed: some(3, seed, layout=seed) for seed in (0, 1)})
    for seed in (1, 0):
        keep_to(path, seed, some(3, seed, layout=seed))
    for other in (some(4), some(3, seed=2), some(3, layout=1)):
        with pytest.raises(EchelonError, match="the trials of seed 0 are not those"):
            keep_to(path, 0, other)
    assert path.read_bytes() == written


@pytest.mark.parametrize("edit", [{"trials": []}, {"sha256": "0"}, {"layouts": []}])
def test_an_edited_manifest_is_told(tmp_path: Path, edit: dict[str, Any]) -> None:
    path = tmp_path / "trials.json"
    write_json(path, manifest({0: some(3)}) | edit)
    with pytest.raises(EchelonError, match="was edited"):
        keep_to(path, 0, some(3))
    path.write_text(json.dumps([]))
    with pytest.raises(EchelonError, match="was edited"):
        keep_to(path, 0, some(3))
