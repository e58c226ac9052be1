"""Diverse maze's frozen trials: those that the code makes, in layouts that nothing is trained in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from echelon.bench.diverse_maze import BUDGETS, CPU, DiverseMaze, held_out_layouts, trials_of
from echelon.bench.manifests import digest, keep_to, manifest
from echelon.envs.layouts import Layout
from echelon.envs.mazes import make_trials
from echelon.envs.task import Trial
from echelon.files import read_json, write_json
from echelon.types import EchelonError

ASKED = DiverseMaze()
PATH = Path(__file__).parents[1] / ASKED.manifest
KEPT: dict[str, Any] = read_json(PATH)
LAYOUTS: list[Layout] = [
    np.array([[cell == "#" for cell in row] for row in layout], np.int8)
    for layout in KEPT["layouts"]
]


def some(count: int, seed: int = 0) -> dict[int, list[Trial]]:
    return {seed: make_trials(LAYOUTS[0], count, seed, "test", ("5-8",))}


def test_the_code_makes_exactly_these_trials() -> None:
    others = held_out_layouts(CPU.collect, ASKED.held_out)
    made = manifest(others, {s: trials_of(others, ASKED.trials, s) for s in ASKED.seeds})
    assert made == KEPT
    assert KEPT["sha256"] == digest(KEPT)
    assert len(KEPT["trials"]) == len(ASKED.seeds) * len(BUDGETS) * ASKED.trials == 900


def test_nothing_is_trained_in_a_layout_of_trials() -> None:
    known = {layout.tobytes() for layout in LAYOUTS}
    assert len(known) == ASKED.held_out
    for seed in ASKED.seeds:
        trained = {layout.tobytes() for layout in replace(CPU.collect, seed=seed).layouts}
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
        for trial in make_trials(layout, 300, 0, "tune", tuple(BUDGETS))
    }
    assert len(tested) > 500
    assert not tested & tuned


def test_a_manifest_is_written_once_and_kept_to(tmp_path: Path) -> None:
    path = tmp_path / "trials.json"
    both = some(3) | some(3, seed=1)
    keep_to(path, LAYOUTS[:1], both)
    written = path.read_bytes()
    keep_to(path, LAYOUTS[:1], both)
    keep_to(path, LAYOUTS[:1], some(3))  # one of its seeds
    for layouts, trials, what in (
        (LAYOUTS[:1], some(4), "the trials of seed 0"),
        (LAYOUTS[:1], some(3, seed=2), "the trials of seed 2"),
        (LAYOUTS[:2], some(3), "the layouts"),
    ):
        with pytest.raises(EchelonError, match=f"trials.json: {what} are not those"):
            keep_to(path, layouts, trials)
    assert path.read_bytes() == written


@pytest.mark.parametrize("edit", [{"trials": []}, {"sha256": "0"}, {"layouts": []}])
def test_an_edited_manifest_is_told(tmp_path: Path, edit: dict[str, Any]) -> None:
    path = tmp_path / "trials.json"
    write_json(path, manifest(LAYOUTS[:1], some(3)) | edit)
    with pytest.raises(EchelonError, match="was edited"):
        keep_to(path, LAYOUTS[:1], some(3))
    path.write_text(json.dumps([]))
    with pytest.raises(EchelonError, match="was edited"):
        keep_to(path, LAYOUTS[:1], some(3))
