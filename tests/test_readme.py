"""What the README says, kept true: its code runs, its commands exist, its tree is whole."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import model_config

from echelon import checkpoint, cli
from echelon.config import ModelConfig
from echelon.data.episodes import Episodes
from echelon.models.hierarchy import Hierarchy

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CODE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = re.findall(r"^echelon (.*)$", README, re.MULTILINE)


def run(code: str, **given: object) -> dict[str, object]:
    names = dict(given)
    exec(compile(code, "README.md", "exec"), names)
    return names


def test_drive_an_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = ModelConfig(levels=model_config().levels, bank_size=8)
    path = Path("runs/demo/checkpoint.safetensors")
    torch.manual_seed(0)
    checkpoint.save_model(path, Hierarchy(config, 2), {})
    steps = CODE[0].replace("range(500)", "range(3)")
    assert steps != CODE[0]
    names = run(steps)
    assert isinstance(names["observation"], np.ndarray)
    assert len(CODE[0].splitlines()) <= 14


def test_write_your_own_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    frames, actions = np.zeros((4, 64, 64, 3), np.uint8), np.ones((3, 5))
    run(CODE[1], recordings=[(frames, actions), (frames, actions)])
    episodes = Episodes.open("mine.h5")
    assert (len(episodes.lengths), episodes.action_dim) == (2, 5)
    assert cli.main(["inspect", "mine.h5", "--verify"]) == 0


def test_commands_parse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Each is understood, and stops at the first file that is not there."""
    monkeypatch.chdir(tmp_path)
    assert len(COMMANDS) == 3
    for command in COMMANDS:
        assert cli.main(command.split()) == 2
        assert "no such" in capsys.readouterr().err


def test_every_file_is_in_the_tree() -> None:
    tree = README[README.index("src/echelon/\n") :]
    for path in (ROOT / "src" / "echelon").iterdir():
        if path.name[0] not in "_." and path.name != "py.typed":
            assert path.name in tree, f"{path.name} is missing from the README's tree"
