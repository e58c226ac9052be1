"""Two processes that share a batch find what one process finds in all of it.

The second one is started once; this process is the first, and compares everything they found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import IMAGE_SIZE, model_config
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from echelon.config import LossConfig, StageConfig
from echelon.data.windows import WindowSampler
from echelon.distributed import gather, normal_like, world_size
from echelon.models.hierarchy import Hierarchy
from echelon.models.synced_norm import SyncedNorm
from echelon.objective import Objective

WORLD = 2
STAGE = StageConfig(levels=(0, 1), steps=1, batch_size=6, train_encoder=True)
TERMS = {
    "prediction": 1.0,
    "variance": 2.0,
    "correlation": 3.0,
    "log_determinant": 0.5,
    "sigreg": 10.0,
    "smoothness": 6.0,
    "inverse_dynamics": 0.5,
}
CASES: dict[str, LossConfig] = {
    **{name: LossConfig(**{**dict.fromkeys(TERMS, 0.0), name: TERMS[name]}) for name in TERMS},
    "all": LossConfig(**TERMS),
    "l1": LossConfig(**TERMS, norm="l1"),
}
"""Each term by itself, so that no other can hide it, and all of them together."""


def gradients(case: str, rank: int, world: int) -> Iterator[tuple[str, Tensor]]:
    """The terms, the gradient of every parameter and the running statistics, after two steps.

    In double precision, since the correlation of latents that barely vary magnifies rounding.
    """
    torch.manual_seed(0)
    config = model_config(2)
    levels = tuple(replace(level, loss=CASES[case]) for level in config.levels)
    hierarchy = Hierarchy(replace(config, levels=levels), 1)
    module = Objective(hierarchy, ema=0.9).double()
    with torch.no_grad():
        for parameter in module.targets.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    for level in hierarchy.levels:  # what no term asks for must not be waited for
        level.inverse.requires_grad_(level.config.loss.inverse_dynamics > 0)
        level.predictor.requires_grad_(level.config.loss.prediction > 0)
        level.encode_action.requires_grad_(level.config.loss.prediction > 0)
    frames = torch.randint(0, 256, (80, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=torch.uint8)
    forces = torch.randn(80, 1, dtype=torch.float64)
    sampler = WindowSampler.of(np.array([40, 40]), np.array([0, 40]), np.array([0, 1]), 10)
    whole = DistributedDataParallel(module) if world > 1 else module
    for step in range(2):
        torch.manual_seed(step)
        whole.zero_grad()
        rows = torch.from_numpy(sampler.rows(6, 3, step, rank, world))
        terms: dict[str, Tensor] = whole(
            {"pixels": frames[rows]}, forces[rows[:, 1:-1]], STAGE.levels
        )
        torch.stack(list(terms.values())).sum().backward()
    yield from ((f"term {name}", value.detach()) for name, value in terms.items())
    for name, parameter in hierarchy.named_parameters():
        if parameter.grad is not None:
            yield f"gradient {name}", parameter.grad
    for name, value in hierarchy.named_buffers():
        if "running" in name:
            yield f"buffer {name}", value


def losses_that_differ(rank: int, world: int) -> Iterator[tuple[str, Tensor]]:
    """A process's loss is its own function of the whole: the gradient must come from both."""
    weight = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    rows = torch.arange(12.0, dtype=torch.float64).reshape(6, 2).cos()
    z = gather(rows.chunk(world)[rank] * weight)
    own = [(r + 1) * (z**3).sum() + z[r].prod() for r in range(WORLD)]
    loss = own[rank] if world > 1 else sum(own, torch.zeros(())) / WORLD
    loss.backward()
    gradient = weight.grad
    assert gradient is not None
    if world > 1:
        dist.all_reduce(gradient)
    yield "whole", z.detach()
    yield "gradient", gradient / world


def found(rank: int, world: int) -> dict[str, Tensor]:
    """All that is compared, by name."""
    assert world_size() == world
    torch.set_num_threads(1)
    results = {f"gather/{name}": value for name, value in losses_that_differ(rank, world)}
    for case in CASES:
        results |= {f"{case}/{name}": value for name, value in gradients(case, rank, world)}
    torch.manual_seed(1)
    results["noise"] = normal_like(torch.zeros(6 // world, 5, 3))
    results["after noise"] = torch.randn(3)
    return {name: value.clone() for name, value in results.items()}


def process(rank: int, folder: str) -> None:
    store = dist.FileStore(str(Path(folder) / "store"), WORLD)
    patience = timedelta(seconds=200)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=WORLD, timeout=patience)
    try:
        save_file(found(rank, WORLD), Path(folder) / f"{rank}.safetensors")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def one() -> dict[str, Tensor]:
    return found(0, 1)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("two")
    second = torch.multiprocessing.get_context("spawn").Process(
        target=process, args=(1, str(folder))
    )
    second.start()
    process(0, str(folder))
    second.join()
    assert second.exitcode == 0
    return [load_file(folder / f"{rank}.safetensors") for rank in range(WORLD)]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_find_the_gradient_of_one(
    case: str, one: dict[str, Tensor], two: list[dict[str, Tensor]]
) -> None:
    names = [name for name in one if name.startswith(f"{case}/gradient")]
    assert len(names) >= 12  # of the two lifts at least
    largest = max(one[name].abs().max().item() for name in names)
    assert largest > 1e-3
    for name in names:
        for share in two:
            assert (share[name] - one[name]).abs().max() <= 1e-7 * largest, name


@pytest.mark.parametrize("case", CASES)
def test_the_terms_of_two_processes_have_the_mean_of_one(
    case: str, one: dict[str, Tensor], two: list[dict[str, Tensor]]
) -> None:
    names = [name for name in one if name.startswith(f"{case}/term")]
    assert names
    for name in names:
        mean = (two[0][name] + two[1][name]) / 2
        assert mean.item() == pytest.approx(one[name].item(), rel=1e-7, abs=1e-12), name
        if name.endswith(("variance", "correlation", "log_determinant", "sigreg")):
            assert two[0][name] == two[1][name]


def test_two_processes_keep_the_statistics_of_one(
    one: dict[str, Tensor], two: list[dict[str, Tensor]]
) -> None:
    names = [name for name in one if name.startswith("all/buffer")]
    assert sorted(name.rpartition("_")[2] for name in names) == ["mean", "var"]
    for name in names:
        assert torch.equal(two[0][name], two[1][name])
        assert torch.allclose(two[0][name], one[name], rtol=1e-9)
        assert not torch.allclose(one[name], one[name].round(), atol=1e-4)


def test_gather_is_the_rows_in_order_and_sums_what_is_asked_of_them(
    one: dict[str, Tensor], two: list[dict[str, Tensor]]
) -> None:
    for share in two:
        assert torch.equal(share["gather/whole"], one["gather/whole"])
        assert torch.allclose(share["gather/gradient"], one["gather/gradient"], rtol=1e-12)


def test_two_processes_draw_the_noise_of_one(
    one: dict[str, Tensor], two: list[dict[str, Tensor]]
) -> None:
    assert torch.equal(torch.cat([share["noise"] for share in two]), one["noise"])
    assert all(torch.equal(share["after noise"], one["after noise"]) for share in two)
    assert one["noise"].std().item() == pytest.approx(1, abs=0.2)


def test_one_process_has_nothing_to_gather() -> None:
    z = torch.randn(3, 2)
    assert gather(z) is z


@pytest.mark.parametrize("size", [2, 50])
def test_synced_norm_is_batch_norm(size: int) -> None:
    ours, theirs = SyncedNorm(3), nn.BatchNorm1d(3, affine=False, momentum=0.02)
    for _ in range(5):
        x = (5 * torch.randn(size, 3) + 2).requires_grad_()
        upstream = torch.randn(size, 3)
        y, expected = ours(x), theirs(x)
        assert torch.allclose(y, expected, atol=1e-5)
        (a,), (b,) = (torch.autograd.grad(out, x, upstream) for out in (y, expected))
        assert torch.allclose(a, b, atol=1e-5)
    for name in ("running_mean", "running_var"):
        assert torch.allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-5)
    ours.eval()
    theirs.eval()
    before = ours.running_mean.clone()
    x = torch.randn(4, 3)
    assert torch.allclose(ours(x), theirs(x), atol=1e-6)
    assert torch.equal(ours.running_mean, before)
