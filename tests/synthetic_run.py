"""A made-up run folder that looks like a real one. Its numbers measure nothing."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from echelon.envs.layouts import distances, free_cells, generate
from echelon.records import Dataset, Record, save

LAYOUT = generate(5, seed=3, loops=0.1)
SPLITS = ("1-4", "5-8", "9+", "held-out-layouts")
TFLOPS = {"small": 0.02, "half": 0.05, "default": 0.11, "double": 0.24, "eightfold": 0.9}
RATES: dict[str, tuple[float, ...]] = {
    # where each curve ends, by split; small settings fall short of it
    "hierarchical": (0.97, 0.93, 0.86, 0.81),
    "flat": (0.97, 0.80, 0.58, 0.52),
    "control:flat-same-cost": (0.96, 0.82, 0.63, 0.55),
    "control:oracle-subgoals": (0.98, 0.96, 0.93, 0.92),
    "control:random-actions": (0.22, 0.05, 0.01, 0.02),
}


def make_records(
    rates: dict[str, tuple[float, ...]] | None = None, seeds: int = 3, episodes: int = 150
) -> list[Record]:
    rng = np.random.default_rng(0)
    out: list[Record] = []
    for method, ends in (rates or RATES).items():
        settings = ["default"] if method.startswith("control") else list(TFLOPS)
        if method == "hierarchical":
            settings = settings[:4]
        for split, end in zip(SPLITS, ends, strict=True):
            for rank, setting in enumerate(settings):
                for seed in range(seeds):
                    short = 1.0 if len(settings) == 1 else 1 - math.exp(-0.9 * (rank + 1))
                    chance = np.clip(end * short + rng.normal(0, 0.02), 0, 1)
                    random = method == "control:random-actions"
                    spent = 0.0 if random else TFLOPS[setting] * rng.uniform(0.95, 1.02)
                    out.append(
                        Record(
                            task="maze",
                            split=split,
                            method=method,
                            setting=setting,
                            levels=1 if method == "flat" or "flat" in method else 2,
                            seed=seed,
                            episodes=episodes,
                            successes=int(rng.binomial(episodes, chance)),
                            predictor_calls_per_episode=spent * 1e6,
                            tflops_per_episode=spent,
                            seconds_per_decision=spent / 20,
                            env_steps_budget=400,
                            model_params=412_345,
                            dataset=Dataset("synthetic", 200_000, "0" * 64),
                            device="none: made up for a test",
                            threads=1,
                            command="tests/synthetic_run.py",
                            commit="0000000",
                            date="2025-01-01",
                        )
                    )
    return out


def make_one(
    method: str, successes: int, tflops: float, setting: str = "default", **more: Any
) -> Record:
    """One record of the farthest split, 300 trials of one seed."""
    base = dataclasses.replace(
        make_records({"flat": (0.5,) * 4}, seeds=1)[0],
        split="9+",
        method=method,
        setting=setting,
        episodes=300,
        successes=successes,
        tflops_per_episode=tflops,
    )
    return dataclasses.replace(base, **more)


def _walk(
    start: tuple[int, int], goal: tuple[int, int], share: float, seed: int
) -> list[list[float]]:
    """A wobbling ball on the shortest path, stopping after `share` of it."""
    rng = np.random.default_rng(seed)
    away = distances(LAYOUT, goal)
    cells = [start]
    while cells[-1] != goal:
        r, c = cells[-1]
        near = [(r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)]
        cells.append(min(near, key=lambda n: away[n] if away[n] >= 0 else 10**9))
    points = np.array(cells, float) + 0.5
    points = points[: max(2, round(share * len(points)))]
    time = np.linspace(0, len(points) - 1, 12 * len(points))
    path = np.stack([np.interp(time, range(len(points)), points[:, i]) for i in (0, 1)], 1)
    wobble = np.cumsum(rng.normal(0, 0.05, path.shape), 0)
    path[1:] += 0.2 * np.sin(wobble[1:] * 4)
    return path.round(3).tolist()


def make_traces(count: int = 24) -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    cells = [(int(r), int(c)) for r, c in free_cells(LAYOUT)]
    out: list[dict[str, Any]] = []
    while len(out) < count:
        start, goal = (cells[i] for i in rng.integers(len(cells), size=2))
        far = int(distances(LAYOUT, goal)[start])
        if far < 1:
            continue
        split = "1-4" if far <= 4 else "5-8" if far <= 8 else "9+"
        runs: list[dict[str, Any]] = []
        for method in ("hierarchical", "flat"):
            success = bool(rng.random() < RATES[method][SPLITS.index(split)] - 0.1)
            path = _walk(start, goal, 1.0 if success else 0.5, 2 * len(out) + len(runs))
            if not success:
                path += [[path[-1][0] + 0.1 * math.sin(i / 3), path[-1][1]] for i in range(60)]
            run: dict[str, Any] = {"method": method, "setting": "default", "success": success}
            run |= {"path": path, "tflops": round(float(rng.uniform(0.05, 0.2)), 3)}
            if method == "hierarchical":
                run["subgoals"] = [
                    {
                        "step": t,
                        "places": [path[min(t + 12 * k, len(path) - 1)] for k in range(1, 6)],
                    }
                    | {"active": path[min(t + 12, len(path) - 1)]}
                    for t in range(0, len(path) - 1, 12)
                ]
            runs.append(run)
        out.append(
            {
                "task": "maze",
                "split": split,
                "trial": len(out),
                "layout": LAYOUT.tolist(),
                "goal": [goal[0] + 0.5, goal[1] + 0.5],
                "start": [start[0] + 0.5, start[1] + 0.5],
                "distance_cells": far,
                "runs": runs,
            }
        )
    return out


def make_diagnostics() -> dict[str, Any]:
    rng = np.random.default_rng(2)
    fine, coarse = [1, 2, 5, 10, 20, 40, 80, 120], [10, 20, 40, 60, 80, 120]
    curves = [
        ("fine (level 0)", 0, fine, [0.05 * s**0.75 for s in fine]),
        ("coarse (level 1)", 1, coarse, [0.35 * (s / 10) ** 0.35 for s in coarse]),
        ("no change", None, fine, [3.4 * (1 - math.exp(-s / 40)) for s in fine]),
        ("mean", None, fine, [3.1] * len(fine)),
    ]
    goal = free_cells(LAYOUT)[-1]
    away = distances(LAYOUT, (int(goal[0]), int(goal[1])))
    places = free_cells(LAYOUT)
    steps = list(range(0, 121, 5))
    latents: list[dict[str, Any]] = []
    for level, dim in ((0, 16), (1, 12)):
        scale = 40 if level == 0 else 120
        mean = [3 * (1 - math.exp(-s / scale)) for s in steps]
        far = 3 * (1 - np.exp(-away[places[:, 0], places[:, 1]] * (4 if level else 9) / 40))
        latents.append(
            {
                "level": level,
                "dim": dim,
                "effective_rank": 5.2 + level,
                "std": rng.uniform(0.4, 1.1, dim).round(3).tolist(),
                "sign_agreement": 0.66 + 0.2 * level,
                "distance_by_gap": {
                    "steps": steps,
                    "mean": mean,
                    "low": [0.8 * m for m in mean],
                    "high": [1.2 * m for m in mean],
                },
                "distance_map": {
                    "goal": (goal + 0.5).tolist(),
                    "places": (places + 0.5).tolist(),
                    "distance": (far + rng.normal(0, 0.05, len(far))).round(3).tolist(),
                },
            }
        )
    return {
        "open_loop": {
            "unit": "cells",
            "curves": [
                {"name": name, "steps": s, "error": e}
                | ({} if level is None else {"level": level})
                | {"low": [0.85 * v for v in e], "high": [1.15 * v for v in e]}
                for name, level, s, e in curves
            ],
        },
        "latents": latents,
        "layout": LAYOUT.tolist(),
        "observation_png": _png(),
        "goal_png": _png(),
    }


def _png() -> str:
    """The layout as an 8-bit grey PNG, by hand."""
    grid = np.kron(np.where(LAYOUT == 1, 70, 235), np.ones((4, 4), int)).astype(np.uint8)
    raw = b"".join(b"\0" + row.tobytes() for row in grid)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", grid.shape[1], grid.shape[0], 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + parts).decode()


def make_run(folder: Path) -> Path:
    """Write a whole made-up run folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    save(folder / "records.json", make_records())
    (folder / "traces.json").write_text(json.dumps(make_traces()))
    (folder / "diagnostics.json").write_text(json.dumps(make_diagnostics()))
    (folder / "config.json").write_text(json.dumps({"note": "made up for a test </script>"}))
    return folder
