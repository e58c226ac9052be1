"""How fast planning is beside other planners: the same model, searches of the same size, one run.

Every turn times each planner once, and the peak of the machine with them, so that whatever else it
does slows all alike. Searches are kept one by one: stopped at any moment, it goes on where it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from echelon import __version__
from echelon.bench.peer_planners import Entry, Goals, Plan, Size, Task, present
from echelon.bench.throughput import now
from echelon.checkpoint import load_model
from echelon.config import ModelConfig
from echelon.demo import device
from echelon.evaluation import command, commit
from echelon.files import read_json, write_json
from echelon.models.hierarchy import Hierarchy, Level
from echelon.planning.ledger import flop_counter
from echelon.progress import Progress
from echelon.report import Page
from echelon.report.compare import number
from echelon.types import EchelonError

EQUAL = 1.01
"""times another's cost that counts as equal planning quality"""


@dataclass(frozen=True)
class Peers:
    """Planning time beside stable-worldmodel, pytorch_mppi and a plain loop, on one flat model.

    Peers that are not installed are left out, with a line that says how to install them.
    """

    checkpoint: Path | None = None
    """whose level 0 is planned with; None takes an untrained one of the demo's size"""
    environments: int = 50
    candidates: tuple[int, ...] = (64, 64, 64, 300)
    """of a round; one value a search, here and below: three like ours, one like published ones"""
    iterations: tuple[int, ...] = (5, 5, 5, 30)
    elites: tuple[int, ...] = (8, 8, 8, 30)
    horizon: tuple[int, ...] = (20, 20, 20, 5)
    goals: tuple[Goals, ...] = ("known", "smooth", "white", "known")
    """known states, or where the model gets in a horizon under smooth actions or white ones"""
    repeats: int = 5
    seed: int = 0
    runs: Path = Path("runs/bench/peers")
    """what is timed already, kept until all is"""
    out: Path = Path("results/peers.json")
    page: Path = Path("docs/peers.md")
    """its table is brought up to date"""

    def __post_init__(self) -> None:
        options = (self.candidates, self.iterations, self.elites, self.horizon, self.goals)
        if any(len(a) != len(b) for a, b in pairwise(options)) or not self.horizon:
            raise EchelonError(
                "candidates, iterations, elites, horizon and goals: give as many values of each, one a "
                "search"
            )
        if min(self.environments, self.repeats, *self.iterations, *self.horizon) < 1:
            raise EchelonError("environments, repeats, iterations and horizon: must be at least 1")
        if any(not 2 <= e <= c for e, c in zip(self.elites, self.candidates, strict=True)):
            raise EchelonError("elites: 2 or more, to have a deviation, and at most the candidates")

    @property
    def sizes(self) -> list[Size]:
        """The searches, one after the other."""
        parts = (self.candidates, self.iterations, self.elites, self.horizon, self.goals)
        return [Size(self.environments, *part) for part in zip(*parts, strict=True)]

    def __call__(self) -> None:
        self.shows.check()  # a page that cannot be written is told now
        progress, (entries, absent) = Progress(), present()
        for library, how in absent.items():
            progress.say(f"{library} is left out, since it is not installed: {how}")
        level = level_of(self)
        found = {"device": device_name(), "threads": torch.get_num_threads(), "model": model(self)}
        found |= {
            "torch": torch.__version__,
            "libraries": versions(entries),
            "repeats": self.repeats,
            "commit": commit(),
        }
        mine = {**found, "weights": weights(level), "seed": self.seed}
        searches = [self._timed(level, size, entries, mine, progress) for size in self.sizes]
        write_json(self.out, {**found, "searches": searches, "command": command()})
        for size in self.sizes:
            self._kept(size).unlink(missing_ok=True)
        self.shows.write()
        print(table(self.out))

    def _timed(
        self,
        level: Level,
        size: Size,
        entries: Sequence[Entry],
        mine: Mapping[str, Any],
        progress: Progress,
    ) -> dict[str, Any]:
        """One search, unless it was timed before this run was stopped; mine: all else it depends on."""
        asked = {**mine, **asdict(size)}
        path = self._kept(size)
        if path.exists() and (known := read_json(path))["asked"] == asked:
            return known["found"]
        found = measure(Task.of(level, size, self.seed), entries, self.repeats, progress)
        write_json(path, {"asked": asked, "found": found})
        return found

    def _kept(self, size: Size) -> Path:
        return self.runs / f"{'-'.join(map(str, asdict(size).values()))}.json"

    @property
    def shows(self) -> Page:
        return Page(self.page, self.out, {"peers": table})


def level_of(asked: Peers) -> Level:
    """Level 0, which must have a state that is one vector: pytorch_mppi knows no other."""
    if asked.checkpoint is None:
        torch.manual_seed(asked.seed)
        level = Hierarchy(ModelConfig(), 2).to(device()).eval().levels[0]
        level.before.normal_()
        level.after.normal_().mul_(0.1).add_(level.before)
        return level
    loaded = load_model(asked.checkpoint, device())
    config = loaded.config
    if config.levels[0].predictor == "transformer" or config.encoder.kind == "foreign":
        raise EchelonError(
            f"{asked.checkpoint}: level 0 has a state that is more than a vector, which not all peers "
            "can plan with; give a model with an mlp or conv predictor"
        )
    return loaded.levels[0]


def model(asked: Peers) -> str:
    """What was planned with, in words."""
    return "untrained" if asked.checkpoint is None else str(asked.checkpoint)


def weights(level: Level) -> str:
    """A checksum of all that the level was trained to."""
    digest = hashlib.sha256()
    for name, value in level.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()


def device_name() -> str:
    """What the times are of."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def versions(entries: Sequence[Entry]) -> dict[str, str]:
    """Of the libraries that took part."""
    known = {"echelon": __version__, "plain": "ours, for comparison"}
    names = dict.fromkeys(entry.package for entry in entries)
    return {name: known.get(name) or metadata.version(name) for name in names}


def measure(
    task: Task, entries: Sequence[Entry], repeats: int, progress: Progress
) -> dict[str, Any]:
    """Each planner's time, cost and share of the machine's peak on one task, and who is fastest."""
    plans: list[Plan] = []
    with progress.task("choose temperatures", len(entries)) as advance:
        for entry in entries:
            plans.append(tuned(task, entry))
            advance(None)
    spent = [counted(task.level, plan) for plan in plans]
    seconds: list[list[float]] = [[] for _ in entries]
    costs: list[list[float]] = [[] for _ in entries]
    peak = 0.0
    with progress.task("time", repeats) as advance:
        for turn in range(repeats):
            peak = max(peak, product_flops(task.level.prior.mean.device))
            for place in range(len(plans)):
                index = (turn + place) % len(plans)  # no planner is always after the same other
                began = now()
                actions = plans[index](turn)
                seconds[index].append(now() - began)
                costs[index].append(task.judge(actions))
            advance(None)
    rows: list[dict[str, Any]] = []
    for index, entry in enumerate(entries):
        (calls, flops), time = spent[index], median(seconds[index])
        rows.append(
            {
                "planner": entry.name,
                "library": entry.package,
                "seconds": _short(time),
                "spread": [_short(min(seconds[index])), _short(max(seconds[index]))],
                "cost": _short(fmean(costs[index])),
                "predictor_calls": calls,
                "tflops": _short(flops / 1e12),
                "share_of_peak": _short(flops / time / peak),
            }
        )
    still = task.judge(task.level.prior.mean.expand(task.shape))
    found = {**asdict(task.size), "peak_tflops_per_second": _short(peak / 1e12)}
    return found | {"cost_of_the_mean_action": _short(still), "planners": rows}


def _short(value: float) -> float:
    """To five digits, however small."""
    return float(f"{value:.5g}")


def tuned(task: Task, entry: Entry) -> Plan:
    """Warmed up, with the temperature that gives the cheapest plans on this very task."""
    plans = [entry.make(task, temperature) for temperature in entry.temperatures]
    seeds = (1000, 1001)  # not those that are timed
    costs = [sum(task.judge(plan(seed)) for seed in seeds) for plan in plans]
    return plans[costs.index(min(costs))]


def counted(level: Level, plan: Plan) -> tuple[int, int]:
    """Predictor calls of a plan, a row each, and floating-point operations of its matrix products."""
    calls = 0

    def count(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        nonlocal calls
        if isinstance(module, type(level.predictor)):  # copies in reduced precision too
            calls += arguments[0].shape[:-1].numel()

    handle = register_module_forward_pre_hook(count)
    try:
        with flop_counter() as counter:
            plan(0)
    finally:
        handle.remove()
    return calls, counter.get_total_flops()


def product_flops(where: torch.device) -> float:
    """Floating-point operations a second of a product of two large matrices of the model's kind."""
    size = 8192 if where.type == "cuda" else 2048
    matrix = torch.ones(size, size, device=where)
    began = now()
    torch.mm(matrix, matrix)
    return 2 * size**3 / (now() - began)


def as_good(search: Mapping[str, Any], peer: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The fastest of ours whose plans are as good as a peer's; none where all are worse."""
    rows = [row for row in search["planners"] if row["library"] == "echelon"]
    good = [row for row in rows if row["cost"] <= EQUAL * peer["cost"]]
    return min(good, key=lambda row: row["seconds"], default=None)


def table(out: Path) -> str:
    """The page's table, from the record; empty where there is none yet."""
    if not out.exists():
        return ""
    found = read_json(out)
    libraries = ", ".join(f"{k} {v}" for k, v in found["libraries"].items() if k != "plain")
    lines = [
        f"{found['device']}, {found['threads']} threads, torch {found['torch']}; {libraries}. "
        f"Model: {found['model']}. Median of {found['repeats']} turns [least–most]."
    ]
    for search in found["searches"]:
        lines += ["", *_section(search)]
    return "\n".join(lines)


def _section(search: Mapping[str, Any]) -> list[str]:
    """One size of search: a heading, a row a planner, and what follows from them."""
    lines = [
        f"**{search['candidates']} candidates x {search['iterations']} rounds, {search['elites']} "
        f"elites, horizon {search['horizon']}, {search['environments']} environments, "
        f"{search['goals']} goals**",
        "",
        "| Library | Planner | Seconds | Final cost | Predictor calls | TFLOPs | Of peak | As good |",
        "|---|---|--:|--:|--:|--:|--:|---|",
    ]
    peers = [row for row in search["planners"] if row["library"] != "echelon"]
    for row in search["planners"]:
        least, most = map(number, row["spread"])
        cells = [
            row["library"],
            row["planner"],
            f"{number(row['seconds'])} [{least}–{most}]",
            f"{row['cost']:.4f}",
            f"{row['predictor_calls']:,}",
            number(row["tflops"]),
            f"{row['share_of_peak']:.0%}",
            _beside(row, as_good(search, row)) if row in peers else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    first, fastest = search["planners"][0], min(peers, key=lambda row: row["seconds"])
    return [
        *lines,
        "",
        f"Always the mean action costs {search['cost_of_the_mean_action']:.4f}. The peak is "
        f"{number(search['peak_tflops_per_second'])} TFLOPs a second. Our {first['planner']} takes "
        f"{number(first['seconds'] / fastest['seconds'])} of the time of the fastest peer, "
        f"{fastest['library']}'s {fastest['planner']}; as many products in half that peer's time would "
        f"take {2 * fastest['share_of_peak']:.0%} of the peak.",
    ]


def _beside(peer: Mapping[str, Any], best: Mapping[str, Any] | None) -> str:
    if best is None:
        return "none of ours"
    return f"{best['planner']}: {number(best['seconds'] / peer['seconds'])} of its time"
