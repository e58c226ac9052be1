"""Checkpoints: bit for bit what was saved, and every damage named in one line."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tiny import model_config

from echelon import checkpoint
from echelon.models.hierarchy import Hierarchy
from echelon.types import EchelonError

Tensors = dict[str, torch.Tensor]


def model(levels: int = 2, action_dim: int = 1) -> Hierarchy:
    made = Hierarchy(model_config(levels), action_dim)
    for buffer in made.buffers():
        buffer.copy_(torch.randn(buffer.shape) if buffer.is_floating_point() else buffer + 3)
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.safetensors"
    checkpoint.save_model(path, model(), {"note": "x"})
    return path


def refused(path: Path, message: str) -> None:
    with pytest.raises(EchelonError, match=message) as caught:
        checkpoint.load_model(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_round_trip_bit_for_bit(tmp_path: Path, levels: int) -> None:
    path = tmp_path / "deep" / "a.safetensors"
    saved = model(levels, action_dim=2)
    checkpoint.save_model(path, saved, {"data": {"name": "x"}})
    loaded = checkpoint.load_model(path)
    assert loaded.config == saved.config
    assert (loaded.action_dim, loaded.proprio_dim) == (2, 0)
    assert not loaded.training
    before, after = saved.state_dict(), loaded.state_dict()
    assert list(before) == list(after)
    for name, value in before.items():
        assert torch.equal(value, after[name])
        assert value.dtype == after[name].dtype
    names = set(dict(loaded.named_buffers()))
    assert {"_levels.0.lift.encoder.mean", "_levels.0.prior_low"} <= names
    assert levels == 1 or {"_levels.1.bank", "_levels.1.bank_below"} <= names
    assert os.listdir(path.parent) == ["a.safetensors"]


def test_describe(path: Path) -> None:
    about = checkpoint.describe(path)
    assert (about["format"], about["action_dim"], about["about"]) == (3, 1, {"note": "x"})
    assert about["model"]["bank_size"] == 64


def test_saving_again_gives_the_same_bytes(path: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors"
    checkpoint.save_model(again, checkpoint.load_model(path), {"note": "x"})
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path, "is truncated or not a safetensors file")


def test_files_that_are_no_checkpoint(path: Path, tmp_path: Path) -> None:
    refused(tmp_path / "none", "no such checkpoint; train one with 'echelon train'")
    refused(tmp_path, "is truncated or not a safetensors file")
    path.write_bytes(b"PK\x03\x04 a pickle, perhaps" * 100)
    refused(path, "is truncated or not a safetensors file")
    torch.save({"weights": torch.zeros(2)}, path)
    refused(path, "is truncated or not a safetensors file")
    safetensors.torch.save_file({"weight": torch.zeros(2)}, path)
    refused(path, "is not an Echelon model checkpoint")
    safetensors.torch.save_file({"weight": torch.zeros(2)}, path, {"format": "pt"})
    refused(path, "is not an Echelon model checkpoint")
    checkpoint.write_tensors(path, {"weight": torch.zeros(2)}, "training", {"format": 3})
    refused(path, "is not an Echelon model checkpoint")


def rewrite(path: Path, change: Callable[[dict[str, Any], Tensors], None]) -> None:
    header, tensors = checkpoint.read_tensors(path, "model")
    change(header, tensors)
    checkpoint.write_tensors(path, tensors, "model", header)


def newer(header: dict[str, Any], tensors: Tensors) -> None:
    header["format"] = 4


def older(header: dict[str, Any], tensors: Tensors) -> None:
    header["format"] = 1


def no_bank(header: dict[str, Any], tensors: Tensors) -> None:
    del tensors["_levels.1.bank"]


def only_the_bank(header: dict[str, Any], tensors: Tensors) -> None:
    for name in set(tensors) - {"_levels.1.bank"}:
        del tensors[name]


def extra(header: dict[str, Any], tensors: Tensors) -> None:
    tensors["_levels.7.bank"] = torch.zeros(1)


def other_shape(header: dict[str, Any], tensors: Tensors) -> None:
    tensors["_levels.1.bank"] = torch.zeros(64, 2)


def other_width(header: dict[str, Any], tensors: Tensors) -> None:
    header["model"]["levels"][0]["width"] = 17


def unknown_option(header: dict[str, Any], tensors: Tensors) -> None:
    header["model"]["levels"][1]["colour"] = "red"


def impossible_option(header: dict[str, Any], tensors: Tensors) -> None:
    header["model"]["levels"] = []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (newer, r"checkpoint format 4 is newer than this Echelon reads \(3\); update echelon"),
        (older, r"checkpoint format 1 is older than this Echelon reads \(3\); train it again"),
        (no_bank, r"lacks _levels\.1\.bank; it was not written for this model"),
        (only_the_bank, r"lacks _levels\.0\.action_bank, .* and \d+ more"),
        (extra, r"has unknown _levels\.7\.bank"),
        (other_shape, r"has other shapes of _levels\.1\.bank;"),
        (other_width, r"has other shapes of _levels\.0\.predictor"),
        (unknown_option, r"header: model: levels\.1: unknown field colour"),
    ],
)
def test_what_does_not_fit_is_named(
    path: Path, change: Callable[[dict[str, Any], Tensors], None], message: str
) -> None:
    checkpoint.load_model(path)
    rewrite(path, change)
    refused(path, message)


def test_impossible_options_are_an_echelon_error(path: Path) -> None:
    rewrite(path, impossible_option)
    with pytest.raises(EchelonError, match="at least one level"):
        checkpoint.load_model(path)


@pytest.mark.parametrize("header", ["{", "[]", "{}", '{"format": "x"}', '{"format": 3}'])
def test_a_header_that_is_damaged(path: Path, header: str) -> None:
    tensors = {"weight": torch.zeros(2)}
    path.write_bytes(safetensors.torch.save(tensors, {"echelon_model": header}))
    refused(path, "header")


def test_fill_changes_nothing_when_it_refuses() -> None:
    module = model()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    tensors = {name: value + 1 for name, value in before.items()}
    del tensors["_levels.1.bank"]
    with pytest.raises(EchelonError, match="lacks"):
        checkpoint.fill(module, tensors, Path("a"))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize(
    ("number", "message"), [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "could not be")]
)
@pytest.mark.parametrize("owner", [os, Path])
def test_a_failing_write_leaves_the_old_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, number: int, message: str
) -> None:
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(owner, "fsync" if owner is os else "replace", fail)
    with pytest.raises(EchelonError, match=message):
        checkpoint.save_model(path, model(1), {})
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_checkpoint_is_plain_json_and_numbers(path: Path) -> None:
    """No pickle: a length, that much JSON, and raw values to the end."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    assert json.loads(header.pop("__metadata__")["echelon_model"])["format"] == 3
    assert max(entry["data_offsets"][1] for entry in header.values()) == len(content) - 8 - size
    assert {entry["dtype"] for entry in header.values()} == {"F32"}
