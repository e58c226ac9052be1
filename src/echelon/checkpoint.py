"""Models on disk: one safetensors file with weights, statistics, configuration and version.

Action statistics, image normalisation and the bank of known states are buffers of the model, so
they travel with the weights. Loading is strict: what is missing or unknown is named. Nothing is
pickled.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from echelon import schema
from echelon.config import ModelConfig, to_dict
from echelon.files import write_atomically
from echelon.models.foreign import ForeignModel
from echelon.models.hierarchy import Hierarchy
from echelon.types import EchelonError

FORMAT_VERSION = 3


@dataclass(frozen=True)
class _Header:
    format: int
    model: ModelConfig
    action_dim: int
    proprio_dim: int
    about: dict[str, Any]


def save_model(path: Path, model: Hierarchy, about: dict[str, Any]) -> None:
    """Write a checkpoint atomically; `about` is any JSON that should stay with it. How far the model
    was measured to be good for joins it there.
    """
    if model.good_for:
        about = about | {"good_for": list(model.good_for)}
    header = {
        "format": FORMAT_VERSION,
        "model": to_dict(model.config),
        "action_dim": model.action_dim,
        "proprio_dim": model.proprio_dim,
        "about": about,
    }
    write_tensors(path, model.state_dict(), "model", header)


def load_model(
    path: Path | str,
    device: torch.device | str = "cpu",
    foreign: ForeignModel | None = None,
) -> Hierarchy:
    """The model of a checkpoint, in evaluation mode.

    foreign: the model it was trained on top of, if any; its weights are not in the checkpoint.
    """
    values, tensors = read_tensors(Path(path), "model")
    header = schema.read(_Header, values, f"{path}: header")
    _check_foreign(Path(path), header, foreign)
    model = Hierarchy(header.model, header.action_dim, header.proprio_dim, foreign)
    fill(model, tensors, Path(path))
    model.good_for = tuple(header.about.get("good_for", ()))
    return model.to(device).eval()


def _check_foreign(path: Path, header: _Header, foreign: ForeignModel | None) -> None:
    """The model below must be there where one is needed, and the one that was trained on."""
    below, size = header.model.encoder.kind == "foreign", header.model.image_size
    if foreign is None:
        if below:
            raise EchelonError(
                f"{path}: was trained on top of a model that is not in it; load it with "
                "echelon.load_on_top_of(path, model)"
            )
        return
    if not below:
        raise EchelonError(f"{path}: stands on no other model; load it with echelon.load(path)")
    if foreign.frames != header.model.encoder.frames:
        raise EchelonError(
            f"{path}: was trained on clips of {header.model.encoder.frames} frames, not "
            f"{foreign.frames}; give frames={header.model.encoder.frames}"
        )
    known = header.model.levels[0].latent_dim
    found = foreign.size(foreign.clips(size))
    if found != known:
        raise EchelonError(
            f"{path}: was trained on a model of {known} features, but this one has {found}; give the "
            "model, and the features, that it was trained on"
        )
    if header.about.get("foreign") != foreign.identity:
        raise EchelonError(
            f"{path}: was trained on a model with other weights; give the one it was trained on, or "
            "train again on top of this one"
        )


def describe(path: Path | str) -> dict[str, Any]:
    """The header of a checkpoint: configuration, format and what it was trained on."""
    return read_tensors(Path(path), "model")[0]


def fill(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load strictly, in one line of error instead of a listing."""
    own = module.state_dict()
    for problem, names in (
        ("lacks", sorted(set(own) - set(tensors))),
        ("has unknown", sorted(set(tensors) - set(own))),
        (
            "has other shapes of",
            [k for k in own if k in tensors and own[k].shape != tensors[k].shape],
        ),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise EchelonError(
                f"{path}: {problem} {', '.join(names[:3])}{more}; it was not written for this model"
            )
    module.load_state_dict(tensors)


def fill_lower(model: Hierarchy, path: Path) -> None:
    """Give the lower levels of a model those of a checkpoint; levels above them stay as they are, and
    so do heads of distances that the checkpoint does not have, and landmark graphs, which are fitted
    anew. All else must be there, and fit.
    """
    header, tensors = read_tensors(path, "model")
    count = len(header["model"]["levels"])
    heads = tuple(f"_levels.{i}.metric." for i in range(count))
    above = tuple(f"_levels.{i}." for i in range(count, len(model.levels)))
    graphs = tuple(f"_levels.{i}.graph." for i in range(count))
    own = {k: v for k, v in model.state_dict().items() if k.startswith(above + heads + graphs)}
    fill(model, own | {k: v for k, v in tensors.items() if not k.startswith(graphs)}, path)


def write_tensors(
    path: Path, tensors: dict[str, Tensor], kind: str, header: dict[str, Any]
) -> None:
    """One safetensors file with a JSON header."""
    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_atomically(path, save(whole, {f"echelon_{kind}": json.dumps(header)}))


def read_tensors(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a file of `write_tensors`; every fault is one EchelonError."""
    if not path.exists():
        raise EchelonError(f"{path}: no such checkpoint; train one with 'echelon train'")
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(f"echelon_{kind}")
            if header is None:
                raise EchelonError(f"{path}: is not an Echelon {kind} checkpoint")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise EchelonError(f"{path}: is truncated or not a safetensors file") from error
    try:
        about = json.loads(header)
        version = int(about["format"])
    except (ValueError, TypeError, KeyError) as error:
        raise EchelonError(f"{path}: its header is damaged; copy it again") from error
    if version != FORMAT_VERSION:
        newer = version > FORMAT_VERSION
        raise EchelonError(
            f"{path}: checkpoint format {version} is {'newer' if newer else 'older'} than this Echelon "
            f"reads ({FORMAT_VERSION}); {'update echelon' if newer else 'train it again'}"
        )
    return about, tensors
