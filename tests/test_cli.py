"""The command line, above all what it says to a mistake: one line, exit 2, and nothing harmed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from matplotlib.image import imsave
from safetensors.torch import save_file
from tiny import frame, model_config, write_episodes

from echelon import __version__, checkpoint, experiment
from echelon.cli import main
from echelon.cli.data import Inspect
from echelon.config import ModelConfig, PlannerConfig, TrainConfig, to_dict
from echelon.envs import layouts
from echelon.envs.mazes import MazeTask
from echelon.envs.point_maze import draw, draw_background
from echelon.images import read_png
from echelon.models.hierarchy import Hierarchy
from echelon.presets import planner_for, settings_for
from echelon.records import load
from echelon.runlog import RunLog
from echelon.schema import read

COMMANDS = (
    *("demo", "collect", "train", "evaluate", "plan", "decoder", "report", "scales", "inspect"),
    "bench",
)
TRAIN = [
    option
    for line in (
        "--model.image-size 16 --model.bank-size 32",
        "--model.levels.0.width 8 --model.levels.0.depth 1 --model.levels.0.lift-width 4",
        "--model.levels.0.rollout 3 --model.levels.0.landmarks.count 6",
        "--model.levels.1.width 8 --model.levels.1.stride 4 --model.levels.1.rollout 2",
        "--train.accelerator cpu --train.checkpoint-seconds 0",
        "--train.stages.0.steps 3 --train.stages.0.batch-size 8",
        "--train.stages.1.steps 3 --train.stages.1.batch-size 8",
    )
    for option in line.split()
]
Capture = pytest.CaptureFixture[str]


def refused(capsys: Capture, *arguments: object) -> str:
    """What a mistake is answered with. Models here are trained for so few steps that they know no
    horizon; that may be told too.
    """
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = (x for x in err.splitlines() if not x.startswith("echelon: warning: planner: "))
    assert line.startswith("echelon: ")
    return line


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_episodes(tmp_path_factory.mktemp("data") / "dots.h5")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, episodes: Path) -> Path:
    """The run folder of a training on dots."""
    out = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", str(episodes), "--out", str(out), *TRAIN]) == 0
    return out


@pytest.fixture(scope="module")
def maze(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as of a training in a maze, though its weights are random."""
    path = tmp_path_factory.mktemp("maze") / "maze.safetensors"
    torch.manual_seed(0)
    config = ModelConfig(model_config(2).levels, image_size=32, bank_size=16)
    model = Hierarchy(config, 2)
    about = {
        "data": {"name": "none", "transitions": 10, "sha256": "0" * 64},
        "meta": MazeTask().meta([layouts.generate(3, seed=0)]),
        "train": to_dict(TrainConfig()),
    }
    checkpoint.save_model(path, model, about)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """now.png and goal.png for both models, and files that aren't."""
    folder = tmp_path_factory.mktemp("images")
    for name, x in (("now", 0.2), ("goal", 0.8)):
        imsave(folder / f"{name}.png", frame(x))
    layout = layouts.generate(3, seed=0)
    places = np.array([[1.5, 1.5], [5.5, 5.5]])
    for name, image in zip(
        ("maze-now", "maze-goal"), draw(draw_background(layout, 32), places, layout), strict=True
    ):
        imsave(folder / f"{name}.png", image)
    imsave(folder / "large.png", np.zeros((24, 24, 3), np.uint8))
    (folder / "text.png").write_text("no picture")
    whole = (folder / "now.png").read_bytes()
    (folder / "half.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    return folder


# ---------------------------------------------------------------------------- help


@pytest.mark.parametrize(
    ("command", "documented"),
    [
        ((), "Collect, train"),
        (("demo",), "environment steps a trial"),
        (("collect",), "in a world of images"),
        (("collect", "maze"), "actions an episode"),
        (("collect", "four-room"), "of the expert's actions"),
        (("collect", "push-t"), "of an action that pushes"),
        (("collect", "cube"), "share of episodes by the oracle"),
        (("collect", "ant-maze"), "steps in one direction"),
        (("train",), "hidden units of the predictor"),
        (("evaluate",), "level 0 first"),
        (("plan",), "PNG of the goal"),
        (("decoder",), "numbers that a patch is drawn from"),
        (("report",), "report.html"),
        (("scales",), "depth and strides"),
        (("inspect",), "checksum"),
        (("bench",), "committed numbers"),
    ],
)
def test_help(command: tuple[str, ...], documented: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    if command:
        assert documented in " ".join(out.replace("│", " ").split())
    else:
        for name in COMMANDS:
            assert name in out


def test_version(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"echelon {__version__}\n"


def test_what_is_unknown_is_refused(capsys: Capture, tmp_path: Path) -> None:
    for arguments in (
        ("collect", "maze", str(tmp_path / "x.h5"), "--no-such-option", "1"),
        ("collect", "maze", str(tmp_path / "x.h5"), "--episodes", "many"),
        ("no-such-command",),
        ("collect",),
        ("collect", "no-such-world", str(tmp_path / "x.h5")),
        ("collect", "maze"),
        (),
    ):
        with pytest.raises(SystemExit) as caught:
            main(list(arguments))
        assert caught.value.code == 2
        assert "Traceback" not in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------- data


def without_actions(file: h5py.File) -> None:
    del file["action"]


def nan_action(file: h5py.File) -> None:
    file["action"][33] = np.nan


def one_frame(file: h5py.File) -> None:
    lengths = file["ep_len"][:]
    lengths[:2] += (lengths[1] - 1, 1 - lengths[1])
    file["ep_len"][:] = lengths
    file["ep_offset"][:] = np.concatenate([[0], np.cumsum(lengths)[:-1]])


def newer(file: h5py.File) -> None:
    file.attrs["echelon_version"] = 99


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (nan_action, "episode 1, step 2 is NaN"),
        (without_actions, "has no column 'action'"),
        (one_frame, "1 episodes have one frame"),
        (newer, "format 99 is newer"),
    ],
)
def test_spoilt_episodes(
    spoil: Callable[[h5py.File], None],
    told: str,
    episodes: Path,
    trained: Path,
    tmp_path: Path,
    capsys: Capture,
) -> None:
    bad = tmp_path / "bad.h5"
    shutil.copy(episodes, bad)
    with h5py.File(bad, "r+") as file:
        spoil(file)
    before = contents(trained)
    assert told in refused(capsys, "train", bad, "--out", trained, *TRAIN)
    assert told in refused(capsys, "inspect", bad)
    assert contents(trained) == before


def test_files_that_are_no_episodes(episodes: Path, tmp_path: Path, capsys: Capture) -> None:
    half, text = tmp_path / "half.h5", tmp_path / "text.h5"
    half.write_bytes(episodes.read_bytes()[: episodes.stat().st_size // 2])
    text.write_text("nothing")
    for path, told in (
        (half, "truncated"),
        (text, "HDF5"),
        (tmp_path / "absent.h5", "no such file"),
    ):
        line = refused(capsys, "train", path, "--out", tmp_path / "run", *TRAIN)
        assert told in line
        assert path.name in line
    assert not (tmp_path / "run").exists()


def test_episodes_that_were_changed_are_found_out(
    episodes: Path, tmp_path: Path, capsys: Capture
) -> None:
    bad = tmp_path / "bad.h5"
    shutil.copy(episodes, bad)
    assert main(["inspect", str(bad), "--verify"]) == 0
    with h5py.File(bad, "r+") as file:
        file["pixels"][7, 3, 3, 0] ^= 1
    assert main(["inspect", str(bad)]) == 0
    assert "checksum" in refused(capsys, "inspect", bad, "--verify")


def test_being_asked_to_terminate_is_ctrl_c(
    episodes: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def asked(_: Inspect) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Inspect, "__call__", asked)
    assert main(["inspect", str(episodes)]) == 130
    assert "stopped" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--model.image-size", "24"), "--model.image-size 16"),
        (("--model.levels.1.stride", "20"), "the longest episode has 30"),
        (("--model.levels.0.stride", "2"), "its stride must be 1"),
        (("--model.levels.1.action-dim", "None"), "levels.1.action_dim"),
        (("--model.levels.0.landmarks.gaps", "9", "4"), "landmarks.gaps: (9, 4) must be"),
        (("--train.stages.1.levels", "0", "2"), "level 2 is to be trained"),
    ],
)
def test_training_that_cannot_be(
    options: tuple[str, ...], told: str, episodes: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "run"
    assert told in refused(capsys, "train", episodes, "--out", out, *TRAIN, *options)
    # Nothing is left there that would stand in the way of the mended command.
    assert not out.exists()


def test_a_run_folder_of_other_options(episodes: Path, trained: Path, capsys: Capture) -> None:
    before = contents(trained)
    line = refused(capsys, "train", episodes, "--out", trained, *TRAIN, "--train.seed", "3")
    assert "train.seed: 0 there, 3 here" in line
    assert contents(trained) == before


def test_training_again_returns_what_is_there(
    episodes: Path, trained: Path, capsys: Capture
) -> None:
    before = contents(trained)
    assert main(["train", str(episodes), "--out", str(trained), *TRAIN]) == 0
    assert capsys.readouterr().out.strip() == str(trained / "checkpoint.safetensors")
    assert contents(trained) == before


# ---------------------------------------------------------------------------- collect


def test_collect(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "deep" / "maze.h5"
    small = ["--episodes", "2", "--steps", "5", "--maze-size", "2", "--image-size", "16"]
    assert main(["collect", "maze", str(path), *small]) == 0
    assert capsys.readouterr().out.strip() == str(path)
    assert main(["inspect", str(path), "--verify"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["episodes"], shown["transitions"], shown["action_dim"]) == (2, 10, 2)
    assert shown["meta"]["task"] == "point-maze"
    before = contents(tmp_path)
    assert "is there already" in refused(capsys, "collect", "maze", path, *small)
    assert contents(tmp_path) == before


def test_collect_four_rooms(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "rooms.h5"
    small = ["--episodes", "2", "--steps", "5", "--image-size", "16"]
    assert main(["collect", "four-room", str(path), *small]) == 0
    assert capsys.readouterr().out.strip() == str(path)
    assert main(["inspect", str(path), "--verify"]) == 0
    assert json.loads(capsys.readouterr().out)["transitions"] == 10
    assert "is there already" in refused(capsys, "collect", "four-room", path, *small)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("maze", "--maze-size", "1"), "a maze of 1 junctions has no path"),
        (("maze", "--episodes", "1"), "at least two episodes"),
        (("maze", "--steps", "0"), "at least one step"),
        (("maze", "--image-size", "20"), "multiple of 8"),
        (("maze", "--image-size", "0"), "multiple of 8"),
        (("maze", "--action-repeat", "0"), "action-repeat"),
        (("maze", "--maze-loops", "1.5"), "maze-loops"),
        (("maze", "--correlations", "0.5", "1.5"), "correlations"),
        (("maze", "--correlations"), "correlations"),
        (("maze", "--mazes", "0"), "at least 1 layout"),
        (("maze", "--mazes", "9", "--episodes", "8"), "one in each maze"),
        (("maze", "--kind", "open", "--maze-size", "2"), "too few for walls"),
        (("maze", "--speed", "-1"), "speed"),
        (("four-room", "--episodes", "1"), "at least two episodes"),
        (("four-room", "--image-size", "20"), "multiple of 8"),
        (("four-room", "--expert", "2"), "a share"),
    ],
)
def test_collecting_that_cannot_be(
    options: tuple[str, ...], told: str, tmp_path: Path, capsys: Capture
) -> None:
    assert told in refused(capsys, "collect", *options[:1], tmp_path / "x.h5", *options[1:])
    assert not list(tmp_path.iterdir())


def test_a_full_disk(
    episodes: Path, trained: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "checkpoint.safetensors").unlink()
    before = contents(tmp_path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    small = ("--episodes", "2", "--steps", "2", "--maze-size", "2", "--image-size", "16")
    for arguments in (
        ("collect", "maze", tmp_path / "x.h5", *small),
        ("train", episodes, "--out", tmp_path / "run", *TRAIN),
        ("train", episodes, "--out", tmp_path / "new", *TRAIN),
    ):
        assert main([str(a) for a in arguments]) == 2
        # A progress bar may stand before it.
        told = capsys.readouterr().err.splitlines()
        assert [line for line in told if "echelon:" in line] == told[-1:]
        assert "the disk is full" in told[-1]
        assert "Traceback" not in "".join(told)
    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before
    assert not [name for name in after if name.endswith((".h5", ".part", "checkpoint.safetensors"))]


def test_what_the_system_refuses_elsewhere(
    episodes: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "log.jsonl")

    monkeypatch.setattr(RunLog, "add", full)
    assert main(["train", str(episodes), "--out", str(tmp_path / "run"), *TRAIN]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[-1].startswith("echelon: ")
    assert "No space left on device: 'log.jsonl'" in told[-1]
    assert "Traceback" not in "".join(told)


def test_a_file_that_may_not_be_written(episodes: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("in the way")
    line = refused(capsys, "train", episodes, "--out", tmp_path / "file" / "run", *TRAIN)
    assert str(tmp_path / "file") in line


# ---------------------------------------------------------------------------- checkpoints


def test_files_that_are_no_checkpoints(
    trained: Path, images: Path, tmp_path: Path, capsys: Capture
) -> None:
    whole = (trained / "checkpoint.safetensors").read_bytes()
    for name, content, told in (
        ("half", whole[: len(whole) // 2], "truncated"),
        ("head", whole[:4], "truncated"),
        ("empty", b"", "truncated"),
        ("text", b"no checkpoint at all", "not a safetensors file"),
    ):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        both = ("--observation", images / "now.png", "--goal", images / "goal.png")
        for command in (
            ("inspect", path),
            ("plan", path, *both),
            ("evaluate", path, "--out", tmp_path / "out"),
        ):
            line = refused(capsys, *command)
            assert told in line
            assert path.name in line
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, foreign)
    assert "is not an Echelon model checkpoint" in refused(capsys, "inspect", foreign)
    assert "no such checkpoint" in refused(capsys, "inspect", tmp_path / "absent.safetensors")
    assert not (tmp_path / "out").exists()


def test_checkpoints_of_another_model_or_version(
    trained: Path, images: Path, tmp_path: Path, capsys: Capture
) -> None:
    header, tensors = checkpoint.read_tensors(trained / "checkpoint.safetensors", "model")
    path = tmp_path / "other.safetensors"

    def planned() -> str:
        both = ("--observation", images / "now.png", "--goal", images / "goal.png")
        return refused(capsys, "plan", path, *both)

    checkpoint.write_tensors(path, tensors, "model", header | {"format": 99})
    assert "format 99 is newer" in planned()
    fewer = dict(list(tensors.items())[1:])
    checkpoint.write_tensors(path, fewer, "model", header)
    assert "lacks" in planned()
    checkpoint.write_tensors(path, tensors | {"more": torch.zeros(1)}, "model", header)
    assert "unknown more" in planned()
    model = header["model"] | {"extra": 1}
    checkpoint.write_tensors(path, tensors, "model", header | {"model": model})
    assert "unknown field extra" in planned()


def test_a_checkpoint_without_a_task(trained: Path, tmp_path: Path, capsys: Capture) -> None:
    path = trained / "checkpoint.safetensors"
    assert "not trained on episodes of a maze" in refused(
        capsys, "evaluate", path, "--out", tmp_path / "out"
    )
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------- planning


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[{", "not readable as JSON"),
        ('"fast"', "must be a JSON list"),
        ("[]", "must be a JSON list"),
        ('{"horizon": 4}', "must be a JSON list"),
        ("[4]", "level 0: expected an object"),
        ('[{"horizon": 4}]', "missing field replan"),
        ('[{"horizon": 4, "replan": 1, "speed": 2}]', "level 0: unknown field speed"),
        ('[{"horizon": 0, "replan": 1}]', "level 0: horizon: 0 plans nothing"),
        ('[{"horizon": 4, "replan": 0}]', "level 0: replan: 0"),
        ('[{"horizon": 4, "replan": 5}]', "a plan of level 0 has only 4"),
        ('[{"horizon": 4.5, "replan": 1}]', "horizon: expected a whole number"),
        (
            '[{"horizon": 4, "replan": 1, "optimizer": {"candidates": 4, "elites": 5}}]',
            "optimizer: elites: 5 must be between 1 and candidates (4)",
        ),
        ('[{"horizon": 4, "replan": 1, "optimizer": {"kind": "lqr"}}]', "expected one of"),
        ('[{"horizon": 4, "replan": 1, "minimum": 2}]', "minimum"),
        (
            '[{"horizon": 4, "replan": 1}, {"horizon": 4, "replan": 1, "cost": "graph"}]',
            "levels.1: has no landmark graph; set levels.1.landmarks.count",
        ),
        (json.dumps([{"horizon": 4, "replan": 1}] * 3), "3 levels to plan at, but the model has 2"),
    ],
)
def test_planner_settings_that_cannot_be(
    text: str, told: str, trained: Path, images: Path, maze: Path, tmp_path: Path, capsys: Capture
) -> None:
    settings = tmp_path / "planner.json"
    settings.write_text(text)
    both = ("--observation", images / "now.png", "--goal", images / "goal.png")
    path = trained / "checkpoint.safetensors"
    assert told in refused(capsys, "plan", path, *both, "--planner", settings)
    small = ("--trials", "1", "--budget", "1")
    # A progress bar is no part of the answer, so nothing may have begun.
    line = refused(
        capsys, "evaluate", maze, "--out", tmp_path / "out", "--planner", settings, *small
    )
    assert told in line
    assert not (tmp_path / "out" / "records.json").exists()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("large.png", "resize it"),
        ("text.png", "cannot be read as a PNG"),
        ("half.png", "cannot be read as a PNG"),
        ("empty.png", "cannot be read as a PNG"),
        ("absent.png", "cannot be read as a PNG"),
    ],
)
def test_images_that_cannot_be(
    name: str, told: str, trained: Path, images: Path, capsys: Capture
) -> None:
    path, good = trained / "checkpoint.safetensors", images / "now.png"
    for now, goal in ((good, images / name), (images / name, good)):
        assert told in refused(capsys, "plan", path, "--observation", now, "--goal", goal)


def untimed(printed: str) -> list[dict[str, Any]]:
    """The levels of a plan that was printed, without how long they took."""
    levels: list[dict[str, Any]] = json.loads(printed)["levels"]
    assert all(level["spent"].pop("seconds") > 0 for level in levels)
    return levels


def test_plan_prints_a_plan(trained: Path, images: Path, capsys: Capture) -> None:
    arguments = ["plan", str(trained / "checkpoint.safetensors")]
    arguments += ["--observation", str(images / "now.png"), "--goal", str(images / "goal.png")]

    def printed(*more: str) -> list[dict[str, Any]]:
        capsys.readouterr()
        assert main([*arguments, *more]) == 0
        return untimed(capsys.readouterr().out)

    first = printed()
    coarse, fine = first
    settings = planner_for(ModelConfig(**_levels(trained)))
    assert (coarse["level"], fine["level"]) == (1, 0)
    assert len(fine["actions"]) == settings[0].horizon
    assert len(coarse["actions"]) == len(coarse["left"]) == settings[1].horizon
    assert coarse["spent"]["predictor_calls"] > 0
    assert printed() == first
    assert printed("--seed", "1") != first
    # A budget scales the searches.
    whole = sum(level["spent"]["gflops"] for level in first) / 1e3
    less = printed("--budget-tflops", f"{0.5 * whole:.4g}")
    assert 0.3 * whole < sum(level["spent"]["gflops"] for level in less) / 1e3 <= 0.5 * whole
    line = refused(capsys, *arguments, "--budget-tflops", "1e-9")
    assert "too small for one round of every level; the least that works is" in line
    assert "budget-ms: 0.0 buys nothing" in refused(capsys, *arguments, "--budget-ms", "0")
    assert "too short for one round" in refused(capsys, *arguments, "--budget-ms", "1e-3")


def test_plan_by_the_landmarks_of_training(
    trained: Path, images: Path, tmp_path: Path, capsys: Capture
) -> None:
    path, settings = trained / "checkpoint.safetensors", tmp_path / "graph.json"
    graph = checkpoint.load_model(path).levels[0].graph
    assert graph is not None
    assert graph.used.all()
    assert len(graph.used) == 6
    both = ["--observation", str(images / "now.png"), "--goal", str(images / "goal.png")]
    found: list[list[dict[str, Any]]] = []
    for cost in ("graph", "latent"):
        settings.write_text(json.dumps([{"horizon": 4, "replan": 1, "cost": cost}]))
        capsys.readouterr()
        assert main(["plan", str(path), *both, "--planner", str(settings)]) == 0
        found.append(untimed(capsys.readouterr().out))
    assert found[0][0]["cost"] != found[1][0]["cost"]


def test_plan_draws_a_plan(
    trained: Path, images: Path, episodes: Path, tmp_path: Path, capsys: Capture
) -> None:
    arguments = ["plan", str(trained / "checkpoint.safetensors")]
    arguments += ["--observation", str(images / "now.png"), "--goal", str(images / "goal.png")]
    assert "give --picture too" in refused(capsys, *arguments, "--episodes", episodes)
    sizes: list[tuple[int, ...]] = []
    for more in ([], ["--episodes", str(episodes)]):
        out = tmp_path / f"{len(more)}.png"
        assert main([*arguments, "--picture", str(out), *more]) == 0
        picture = read_png(out)
        assert picture.std() > 10
        sizes.append(picture.shape)
    assert sizes[1][1] > sizes[0][1]  # a column a predicted state


def _levels(trained: Path) -> dict[str, Any]:
    model = checkpoint.describe(trained / "checkpoint.safetensors")["model"]
    config = read(ModelConfig, model, "model")
    return {"levels": config.levels, "image_size": config.image_size}


# ---------------------------------------------------------------------------- inspect, evaluate, report


def test_inspect_prints_json(episodes: Path, trained: Path, capsys: Capture) -> None:
    capsys.readouterr()
    assert main(["inspect", str(episodes)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["episodes"], shown["transitions"], shown["image_size"]) == (12, 360, 16)
    path = trained / "checkpoint.safetensors"
    assert main(["inspect", str(path)]) == 0
    header = json.loads(capsys.readouterr().out)
    assert header == checkpoint.describe(path)
    assert header["about"]["data"]["sha256"] == shown["sha256"]
    assert header["about"]["meta"]["task"] == "dot"


def test_settings_that_inspect_prints_are_taken(
    maze: Path, images: Path, tmp_path: Path, capsys: Capture
) -> None:
    capsys.readouterr()
    assert main(["inspect", str(maze), "--planner"]) == 0
    text = capsys.readouterr().out
    settings = tmp_path / "mine.json"
    settings.write_text(text)
    levels = [read(PlannerConfig, level, "level") for level in json.loads(text)]
    assert len(levels) == 2
    both = ["--observation", str(images / "maze-now.png"), "--goal", str(images / "maze-goal.png")]
    assert main(["plan", str(maze), *both]) == 0
    own = untimed(capsys.readouterr().out)
    assert main(["plan", str(maze), *both, "--planner", str(settings)]) == 0
    assert untimed(capsys.readouterr().out) == own
    flat = tmp_path / "alone.json"
    flat.write_text(json.dumps(json.loads(text)[:1]))
    out = tmp_path / "out"
    arguments = ["evaluate", str(maze), "--out", str(out), "--trials", "1", "--budget", "3"]
    arguments += ["--planner", str(settings), str(flat)]
    assert main(arguments) == 0
    assert "9+" in capsys.readouterr().out
    records = load(out / "records.json")
    assert {(r.method, r.setting, r.levels) for r in records} == {
        ("hierarchical", "mine", 2),
        ("flat", "alone", 1),
    }
    for record in records:
        assert record.planner is not None
        assert record.planner["levels"] == json.loads(text)[: record.levels]
    page = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    assert main(["report", str(out)]) == 0
    assert (out / "report.html").read_bytes() == page
    before = contents(out)
    line = refused(capsys, *arguments[:4], "--trials", "2", *arguments[6:])
    assert "choose another --out" in line
    assert contents(out) == before


def test_settings_of_the_same_name(maze: Path, tmp_path: Path, capsys: Capture) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.json").write_text('[{"horizon": 4, "replan": 1}]')
    both = (tmp_path / "one" / "mine.json", tmp_path / "two" / "mine.json")
    line = refused(capsys, "evaluate", maze, "--out", tmp_path / "out", "--planner", *both)
    assert "names" in line


@pytest.mark.parametrize("option", ["--trials", "--budget"])
def test_an_evaluation_of_nothing(option: str, maze: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    assert option[2:] in refused(capsys, "evaluate", maze, "--out", out, option, "0")
    assert not out.exists()


def test_a_layout_without_a_path(maze: Path, tmp_path: Path, capsys: Capture) -> None:
    header, tensors = checkpoint.read_tensors(maze, "model")
    (walled,) = MazeTask.layouts_of(header["about"]["meta"])
    walled[3] = 1
    header["about"]["meta"] = MazeTask().meta([walled])
    path = tmp_path / "walled.safetensors"
    checkpoint.write_tensors(path, tensors, "model", header)
    line = refused(capsys, "evaluate", path, "--out", tmp_path / "out", "--trials", "1")
    assert "path" in line or "apart" in line
    assert not (tmp_path / "out" / "records.json").exists()


def test_reports_of_nothing(tmp_path: Path, capsys: Capture) -> None:
    assert "records.json: no such file" in refused(capsys, "report", tmp_path)
    (tmp_path / "records.json").write_text("[1]")
    (tmp_path / "report.html").write_text("what was there")
    assert "object" in refused(capsys, "report", tmp_path)
    assert (tmp_path / "report.html").read_text() == "what was there"


# ---------------------------------------------------------------------------- as a process


def _process(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "echelon.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_exit_codes_of_a_process(tmp_path: Path) -> None:
    done = _process("inspect", str(tmp_path / "absent.h5"))
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("echelon: ")


def test_training_as_a_process_says_nothing_odd(episodes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = _process("train", str(episodes), "--out", str(out), *TRAIN)
    assert done.returncode == 0
    assert done.stdout.strip() == str(out / "checkpoint.safetensors")
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr


def test_a_planner_chosen_by_measurement(
    maze: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment, "TUNING", 3)
    out = tmp_path / "out"
    arguments = ["evaluate", str(maze), "--out", str(out), "--trials", "1", "--budget", "3"]
    assert main([*arguments, "--planner", "auto", "--success", "0.01"]) == 0
    said = capsys.readouterr()
    assert "planner: " in said.out + said.err
    assert "TFLOPs an episode, of 7 settings" in said.out + said.err
    records = load(out / "records.json")
    assert {r.setting for r in records} == {"auto"}
    levels = [
        to_dict(read(PlannerConfig, level, "level"))
        for level in json.loads((out / "planner.json").read_text())
    ]
    config = read(ModelConfig, checkpoint.describe(maze)["model"], "model")
    known = settings_for(config)
    assert levels in [[to_dict(level) for level in known[name]] for name in known]
    assert records[0].planner["levels"] == levels
    assert "not a share above 0" in refused(
        capsys, *arguments, "--planner", "auto", "--success", "0"
    )
