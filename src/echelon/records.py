"""The one schema for every committed number: what was tried, how often it worked, what it took.

A records file is a JSON list with one record a line, sorted, so that a changed number is a changed
line. Nothing here knows how the numbers were made or how they are shown.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from echelon.files import read_json, write_atomically
from echelon.schema import read
from echelon.types import EchelonError

FLAT, HIERARCHICAL, CONTROL = "flat", "hierarchical", "control:"


@dataclass(frozen=True)
class Dataset:
    """The experience that the model was trained on."""

    name: str
    transitions: int
    sha256: str


@dataclass(frozen=True)
class Record:
    """One method at one setting, with the models of one seed, on one split of the trials."""

    task: str
    split: str
    """which trials: a range of distances in cells ("1-4", "5-8", "9+"), or "held-out-layouts" """
    method: str
    """"flat", "hierarchical" or "control:..." """
    setting: str
    """short name of the planner setting, the same across seeds; "default" is a method's own"""
    levels: int
    """levels that planned: 1 is flat"""
    seed: int
    """of the model's training"""
    episodes: int
    successes: int
    predictor_calls_per_episode: float
    """latent transitions, at any level"""
    tflops_per_episode: float
    """2 x multiply-accumulates of encoders, lifts and predictors, in 1e12"""
    seconds_per_decision: float
    """wall time of one environment step's decision"""
    env_steps_budget: int
    """environment steps after which a trial has failed"""
    model_params: int
    """parameters of everything that the planner ran"""
    dataset: Dataset
    device: str
    threads: int
    command: str
    commit: str
    date: str
    """YYYY-MM-DD, or with a time"""
    planner: dict[str, Any] = field(default_factory=dict[str, Any])
    """the planner's full setting; may be left out of the file"""

    def __post_init__(self) -> None:
        where = f"record {self.task}/{self.split}/{self.method}/{self.setting}/seed {self.seed}"
        if self.method not in (FLAT, HIERARCHICAL) and not self.method.startswith(CONTROL):
            raise EchelonError(f'{where}: method must be "flat", "hierarchical" or "control:..."')
        if self.episodes < 1:
            raise EchelonError(f"{where}: episodes: {self.episodes} measures nothing")
        if not 0 <= self.successes <= self.episodes:
            raise EchelonError(
                f"{where}: successes: {self.successes} of {self.episodes} episodes is impossible"
            )
        if self.levels < 1 or self.env_steps_budget < 1:
            raise EchelonError(f"{where}: levels and env_steps_budget must be at least 1")
        spent = (
            self.predictor_calls_per_episode,
            self.tflops_per_episode,
            self.seconds_per_decision,
            self.model_params,
        )
        if min(spent) < 0:
            raise EchelonError(f"{where}: what was spent cannot be negative")
        if not re.match(r"\d{4}-\d\d-\d\d", self.date):
            raise EchelonError(f"{where}: date: {self.date!r} is not YYYY-MM-DD")

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """What is pooled over seeds."""
        return (self.task, self.split, self.method, self.setting, self.levels)


@dataclass(frozen=True)
class Pooled:
    """The records of one method at one setting on one split, over seeds."""

    task: str
    split: str
    method: str
    setting: str
    levels: int
    episodes: int
    successes: int
    predictor_calls_per_episode: float
    """means over episodes, here and below"""
    tflops_per_episode: float
    seconds_per_decision: float
    seeds: tuple[int, ...]
    records: tuple[Record, ...]
    """by seed"""

    @property
    def rate(self) -> float:
        """Share of the episodes that reached their goal."""
        return self.successes / self.episodes


def pool(records: Iterable[Record]) -> list[Pooled]:
    """One entry per (task, split, method, setting, levels), in the order of `sort_key`.

    Episodes and successes add up; what was spent is averaged over episodes. A seed that occurs
    twice under one key is an error, since its trials would count twice.
    """
    groups: dict[tuple[str, str, str, str, int], list[Record]] = {}
    for record in sorted(records, key=sort_key):
        groups.setdefault(record.key, []).append(record)
    out: list[Pooled] = []
    for key, group in groups.items():
        seeds = tuple(record.seed for record in group)
        if len(set(seeds)) < len(seeds):
            raise EchelonError(
                f"records: {'/'.join(map(str, key))} has the same seed twice; keep one of them"
            )
        episodes = sum(record.episodes for record in group)

        def mean(name: str, group: list[Record] = group, episodes: int = episodes) -> float:
            return math.fsum(getattr(r, name) * r.episodes for r in group) / episodes

        out.append(
            Pooled(
                *key,
                episodes=episodes,
                successes=sum(record.successes for record in group),
                predictor_calls_per_episode=mean("predictor_calls_per_episode"),
                tflops_per_episode=mean("tflops_per_episode"),
                seconds_per_decision=mean("seconds_per_decision"),
                seeds=seeds,
                records=tuple(group),
            )
        )
    return out


def split_key(split: str) -> tuple[int, int, str]:
    """Orders splits from near to far, those on held-out layouts last."""
    names = {"near": 0, "middle": 1, "far": 2}
    number = re.match(r"\d+", split)
    first = split.split("-")[0]
    rank = int(number.group()) if number else names.get(first, len(names))
    return (int("held-out" in split), rank, split)


def method_key(method: str) -> tuple[int, str]:
    """Orders methods: the hierarchy, flat planning, the controls by name."""
    return ((HIERARCHICAL, FLAT).index(method) if method in (HIERARCHICAL, FLAT) else 2, method)


def sort_key(record: Record) -> tuple[Any, ...]:
    """The order of a records file."""
    r = record
    return (r.task, split_key(r.split), method_key(r.method), r.setting, r.levels, r.seed)


def load(path: Path) -> list[Record]:
    """The records of a file; unknown, missing and mistyped fields are errors."""
    values = read_json(path)
    if not isinstance(values, list):
        raise EchelonError(f"{path}: expected a list of records")
    return [read(Record, v, f"{path}: record {i}") for i, v in enumerate(cast(list[Any], values))]


def save(path: Path, records: Sequence[Record]) -> None:
    """Write `records`, sorted, one a line; a reader sees the old file or the new one."""
    lines: list[str] = []
    for record in sorted(records, key=sort_key):
        values = dataclasses.asdict(record)
        planner = values.pop("planner")
        if planner:
            values["planner"] = json.loads(json.dumps(planner, sort_keys=True, allow_nan=False))
        lines.append(json.dumps(values, allow_nan=False, ensure_ascii=False))
    write_atomically(path, ("[\n" + ",\n".join(lines) + "\n]\n" if lines else "[]\n").encode())
