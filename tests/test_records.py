"""Records: what a file may say, how seeds are pooled, and the exact statistics."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echelon.records import Dataset, Record, load, pool, save, split_key
from echelon.report.intervals import clopper_pearson, fisher_p, paired_p
from echelon.types import EchelonError


def record(**changes: Any) -> Record:
    base = Record(
        task="maze",
        split="9+",
        method="hierarchical",
        setting="default",
        levels=2,
        seed=0,
        episodes=100,
        successes=80,
        predictor_calls_per_episode=1000.0,
        tflops_per_episode=0.5,
        seconds_per_decision=0.01,
        env_steps_budget=300,
        model_params=123_456,
        dataset=Dataset("play", 100_000, "ab" * 32),
        device="CPU",
        threads=1,
        command="echelon evaluate",
        commit="0123abc",
        date="2025-01-02",
    )
    return dataclasses.replace(base, **changes)


def test_round_trip_sorted_one_record_a_line(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "records.json"
    records = [
        record(split="held-out-layouts"),
        record(seed=1, planner={"b": 1, "a": [2]}),
        record(method="flat", levels=1),
        record(),
        record(split="1-4"),
    ]
    save(path, records)
    lines = path.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("[", "]")
    assert len(lines) == len(records) + 2
    read = load(path)
    assert [(r.split, r.method, r.seed) for r in read] == [
        ("1-4", "hierarchical", 0),
        ("9+", "hierarchical", 0),
        ("9+", "hierarchical", 1),
        ("9+", "flat", 0),
        ("held-out-layouts", "hierarchical", 0),
    ]
    assert all(one in records for one in read)
    before = path.read_text()
    save(path, list(reversed(read)))
    assert path.read_text() == before
    assert os.listdir(path.parent) == ["records.json"]
    save(path, [])
    assert load(path) == []


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "records.json"
    save(path, [record()])
    before = path.read_text()

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(EchelonError, match="disk is full"):
        save(path, [record(successes=1)])
    assert path.read_text() == before
    assert os.listdir(tmp_path) == ["records.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "unknown field extra"),
        ({"seed": None}, "seed: expected a whole number, not None"),
        ({"seed": True}, "seed: expected a whole number, not True"),
        ({"episodes": 1.0}, "episodes: expected a whole number"),
        ({"tflops_per_episode": "1"}, "expected a number"),
        ({"tflops_per_episode": math.nan}, "not a finite number"),
        ({"dataset": {"name": "x"}}, "dataset: missing field transitions, sha256"),
        ({"dataset": []}, "dataset: expected an object"),
        ({"successes": 101}, "101 of 100 episodes is impossible"),
        ({"episodes": 0}, "measures nothing"),
        ({"method": "magic"}, "method must be"),
        ({"levels": 0}, "at least 1"),
        ({"tflops_per_episode": -1}, "cannot be negative"),
        ({"date": "yesterday"}, "not YYYY-MM-DD"),
    ],
)
def test_strict(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "records.json"
    path.write_text(json.dumps([dataclasses.asdict(record()) | change]))
    with pytest.raises(EchelonError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_records(tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    with pytest.raises(EchelonError, match="no such file"):
        load(path)
    for text, message in (("{", "not readable as JSON"), ("{}", "list"), ("[1]", "object")):
        path.write_text(text)
        with pytest.raises(EchelonError, match=message):
            load(path)
    values = dataclasses.asdict(record())
    del values["commit"]
    path.write_text(json.dumps([values]))
    with pytest.raises(EchelonError, match="record 0: missing field commit"):
        load(path)


def test_pool_weighs_by_episodes() -> None:
    pooled = pool(
        [
            record(seed=1, episodes=300, successes=150, tflops_per_episode=1.0),
            record(seed=0, episodes=100, successes=90, tflops_per_episode=2.0),
            record(method="flat", levels=1),
        ]
    )
    assert [p.method for p in pooled] == ["hierarchical", "flat"]
    first = pooled[0]
    assert (first.episodes, first.successes, first.seeds) == (400, 240, (0, 1))
    assert first.tflops_per_episode == pytest.approx(1.25)
    assert first.rate == pytest.approx(0.6)


def test_pool_refuses_a_seed_twice() -> None:
    with pytest.raises(EchelonError, match="same seed twice"):
        pool([record(), record(successes=3)])


def test_splits_go_from_near_to_far() -> None:
    names = ["held-out-layouts", "9+", "13-16", "1-4", "5-8"]
    assert sorted(names, key=split_key) == ["1-4", "5-8", "9+", "13-16", "held-out-layouts"]
    names = ["far-held-out-layouts", "far", "near", "middle"]
    assert sorted(names, key=split_key) == ["near", "middle", "far", "far-held-out-layouts"]


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    [
        (0, 10, 0.0, 0.308497),
        (10, 10, 0.691503, 1.0),
        (5, 10, 0.187086, 0.812914),
        (1, 1, 0.025, 1.0),
        (2, 10, 0.025211, 0.556095),
        (90, 100, 0.823776, 0.950995),
    ],
)
def test_clopper_pearson_known(successes: int, episodes: int, low: float, high: float) -> None:
    assert clopper_pearson(successes, episodes) == pytest.approx((low, high), abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_clopper_pearson_properties(count: tuple[int, int]) -> None:
    successes, episodes = count
    low, high = clopper_pearson(successes, episodes)
    assert 0 <= low <= successes / episodes <= high <= 1
    narrow = clopper_pearson(successes, episodes, 0.8)
    wide = clopper_pearson(successes, episodes, 0.99)
    assert wide[0] <= low <= narrow[0]
    assert narrow[1] <= high <= wide[1]
    mirror = clopper_pearson(episodes - successes, episodes)
    assert (1 - mirror[1], 1 - mirror[0]) == pytest.approx((low, high), abs=1e-9)
    if successes < episodes:
        more = clopper_pearson(successes + 1, episodes)
        assert more[0] > low
        assert more[1] > high or high == 1


@pytest.mark.parametrize("p", [0.05, 0.3, 0.5])
def test_clopper_pearson_covers(p: float) -> None:
    n = 25
    covered = 0.0
    for k in range(n + 1):
        low, high = clopper_pearson(k, n)
        covered += math.comb(n, k) * p**k * (1 - p) ** (n - k) * (low <= p <= high)
    assert covered >= 0.95


def test_clopper_pearson_refuses() -> None:
    for arguments in ((1, 0), (-1, 3), (4, 3), (1, 2, 1.0)):
        with pytest.raises(EchelonError):
            clopper_pearson(*arguments)


def test_paired_p() -> None:
    assert paired_p(0, 0) == 1
    assert paired_p(5, 5) == 1
    assert paired_p(5, 0) == pytest.approx(2 / 32)
    assert paired_p(10, 2) == pytest.approx(0.038574, abs=1e-6)
    assert paired_p(3, 12) == paired_p(12, 3)
    assert 0 < paired_p(900, 100) < 1e-100
    with pytest.raises(EchelonError):
        paired_p(-1, 2)


def test_fisher_p() -> None:
    # Fisher's tea: 3 of 4 against 1 of 4.
    assert fisher_p(3, 4, 1, 4) == pytest.approx(34 / 70)
    assert fisher_p(8, 10, 1, 10) == pytest.approx(0.005477, abs=1e-5)
    assert fisher_p(5, 10, 50, 100) == 1
    assert fisher_p(0, 10, 0, 20) == 1
