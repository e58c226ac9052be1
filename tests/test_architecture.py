"""The promises of docs/architecture.md that a reader of the source could check, kept by a machine.

Every check is a function from files to complaints, empty where all is well. Each is run on the
project, and on a small tree made to break it, since a check that cannot fail keeps nothing.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "echelon"

FLOORS = (
    ("types", "schema", "files", "config", "presets", "records", "distributed"),
    ("data", "models", "losses", "temporal", "geometry", "graph", "planning", "progress", "images"),
    (
        *("objective", "statistics", "checkpoint", "runlog", "signals", "trainer"),
        *("scales", "proposal", "on_top", "limits", "growth"),
    ),
    ("agent", "envs", "collect", "atlas", "nearest", "decoder"),
    ("evaluation", "auto", "experiment", "diagnostics", "measure", "truth", "report"),
    ("demo", "bench", "cli"),
)
"""Lowest first. A module imports from lower floors and from its own package only."""

STAIRS = {
    ("schema", "types"),  # EchelonError
    ("files", "types"),  # EchelonError
    ("config", "types"),  # EchelonError
    ("presets", "config"),  # what it sets
    ("records", "types"),  # EchelonError
    ("records", "schema"),  # strict reading
    ("records", "files"),  # a records file is whole or absent
    ("trainer", "objective"),  # what it minimises
    ("trainer", "statistics"),  # what it takes from the data at either end
    ("trainer", "checkpoint"),  # what it resumes from
    ("trainer", "runlog"),  # what it writes down
    ("trainer", "signals"),  # what it looks at on the way
    ("on_top", "trainer"),  # which trains the levels
    ("on_top", "checkpoint"),  # what it loads
    ("on_top", "signals"),  # what a task may add
    ("proposal", "scales"),  # what it goes by
    ("collect", "envs"),  # where the experience is made
    ("atlas", "envs"),  # what places look like
    ("auto", "evaluation"),  # the trials that settings are raced on
    ("auto", "report"),  # exact intervals
    ("experiment", "auto"),  # the setting to use, where nobody says one
    ("experiment", "evaluation"),  # the trials it runs
    ("truth", "evaluation"),  # the few trials of a model in training
    ("experiment", "report"),  # the page at its end
    ("bench", "demo"),  # which it varies, times and runs at full size
    ("cli", "demo"),  # a command
    ("cli", "bench"),  # a command
}
"""The imports between neighbours of one floor. Floor 1 has none and gets none: its packages are
mutually blind, so that each can be read, tested and replaced alone."""

HOMES = {
    "gymnasium": ("envs",),
    "gym_pusht": ("envs",),
    "gymnasium_robotics": ("envs",),
    "mujoco": ("envs",),
    "ogbench": ("envs",),
    "h5py": ("data",),
    "matplotlib": ("report", "images"),
    "tyro": ("cli", "bench"),
}
"""Third parties that few parts of Echelon may know."""

GROUND_MAY_IMPORT = {"torch"}
"""What floor 0 may import besides Python's own library."""

LIGHT = ("gymnasium", "matplotlib", "tensorboard", "h5py")
"""What `import echelon` must not bring in."""

PICKLERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
LONGEST = 400

FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}


def sources(package: Path) -> Iterator[tuple[Path, str, ast.Module]]:
    """Each file of a package: its path, the module of the package it belongs to, its syntax tree.

    The package's own `__init__` belongs to the module "".
    """
    for path in sorted(package.rglob("*.py")):
        first = path.relative_to(package).parts[0].removesuffix(".py")
        yield path, "" if first == "__init__" else first, ast.parse(path.read_text())


def imports(tree: ast.Module, where: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Line and full name of all that a file imports, wherever in it: at its top, inside functions,
    under TYPE_CHECKING, or by a literal name given to `import_module`.

    where: the package of the file, against which relative imports are read.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = where[: len(where) - node.level + 1] if node.level else ()
            names = (*base, *([node.module] if node.module else []))
            yield from ((node.lineno, ".".join((*names, alias.name))) for alias in node.names)
        elif isinstance(node, ast.Call) and last_name(node.func) in ("import_module", "__import__"):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield node.lineno, argument.value


def last_name(node: ast.expr) -> str:
    """`load` of ``a.b.load``, `load` of ``load``, and nothing of what has no name."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def imports_of(package: Path) -> Iterator[tuple[str, str, str]]:
    """For all imports of a package: file and line, the module it stands in, what is imported."""
    for path, module, tree in sources(package):
        inside = path.relative_to(package).parts[:-1]
        for line, name in imports(tree, (package.name, *inside)):
            yield f"{path.relative_to(package)}:{line}", module, name


def broken_floors(package: Path) -> list[str]:
    """Imports that go up, or sideways without a stair, and modules that have no floor."""
    floorless = {module for _, module, _ in sources(package)} - {"", *FLOOR_OF}
    found = [
        f"{module}: has no floor; give it one in FLOORS of {Path(__file__).name}, and a line in "
        "docs/architecture.md"
        for module in sorted(floorless)
    ]
    for place, module, name in imports_of(package):
        top, _, rest = name.partition(".")
        target = rest.partition(".")[0]
        if top != package.name or module not in FLOOR_OF or target == module:
            continue
        if target == "__version__" or target in floorless:
            continue
        if target not in FLOOR_OF:
            found.append(f"{place}: imports {name}; import from the module that defines it")
        elif FLOOR_OF[target] > FLOOR_OF[module]:
            found.append(f"{place}: {module} imports {target}, which stands on a higher floor")
        elif FLOOR_OF[target] == FLOOR_OF[module] and (module, target) not in STAIRS:
            found.append(
                f"{place}: {module} imports its neighbour {target}, which is not in STAIRS"
            )
    return list(dict.fromkeys(found))


def strangers(package: Path) -> list[str]:
    """Third parties imported outside of their home, or by the ground floor."""
    found: list[str] = []
    for place, module, name in imports_of(package):
        top = name.partition(".")[0]
        if top in HOMES and module not in HOMES[top]:
            homes = " and ".join(f"{package.name}.{home}" for home in HOMES[top])
            found.append(f"{place}: only {homes} may import {top}")
        known = top in GROUND_MAY_IMPORT or top in sys.stdlib_module_names or top == package.name
        if module in FLOORS[0] and not known:
            found.append(f"{place}: {module} is on the ground floor and may not import {top}")
    return found


def unsafe(package: Path) -> list[str]:
    """What reads or writes pickles, and what loads a model in part."""
    found = [
        f"{place}: imports {name}, which can run code that a file brings"
        for place, _, name in imports_of(package)
        if name.partition(".")[0] in PICKLERS or name in ("torch.load", "torch.save")
    ]
    for path, _, tree in sources(package):
        for node in ast.walk(tree):
            place = f"{path.relative_to(package)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Attribute) and node.attr in ("load", "save"):
                if last_name(node.value) in ("torch", "fabric"):
                    found.append(f"{place}: {ast.unparse(node)} uses pickle; use safetensors")
            elif isinstance(node, ast.Call):
                given = {k.arg: ast.unparse(k.value) for k in node.keywords if k.arg}
                if given.get("strict") == "False" and last_name(node.func) not in ("zip", "map"):
                    found.append(f"{place}: strict=False loads half a model silently")
                if given.get("allow_pickle", "False") != "False":
                    found.append(f"{place}: allow_pickle lets a file run code")
    return found


def too_long(package: Path) -> list[str]:
    """Files that are more than one concept."""
    lengths = {path: len(path.read_text().splitlines()) for path, _, _ in sources(package)}
    return [
        f"{path.relative_to(package)}: {length} lines, more than {LONGEST}; split it by concept"
        for path, length in lengths.items()
        if length > LONGEST
    ]


def heavy(package: Path) -> list[str]:
    """What importing the package brings in that it must not, found by importing it afresh."""
    program = f"import sys, {package.name}; print(*(m for m in {LIGHT!r} if m in sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(package.parent)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    return [f"import {package.name} imports {name}" for name in done.stdout.split()]


# Put together here, so that this file does not hold what it forbids.
MACHINE_PATH = re.compile(r"(?<![\w.~$}-])/(?:" + "|".join(["work", "tmp", "root", "home"]) + ")/")


def machine_paths(root: Path, files: list[Path]) -> list[str]:
    """Absolute paths of somebody's machine in text files, which mean nothing on another."""
    found: list[str] = []
    for path in files:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # not a text
        for number, line in enumerate(lines, 1):
            if match := MACHINE_PATH.search(line):
                found.append(f"{path.relative_to(root)}:{number}: a path under {match[0]}")
    return found


def committed(root: Path) -> list[Path]:
    """The files that git knows, or would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout, so nothing is committed")
    files = (root / name for name in done.stdout.split("\0") if name)
    return [path for path in files if path.is_file() and not path.is_symlink()]


@pytest.mark.parametrize("check", [broken_floors, strangers, unsafe, too_long, heavy])
def test_the_project_keeps(check: Callable[[Path], list[str]]) -> None:
    found = check(SOURCE)
    assert not found, "\n".join(found)


def test_committed_files_name_no_machine() -> None:
    files = committed(ROOT)
    assert Path(__file__) in files
    found = machine_paths(ROOT, files)
    assert not found, "\n".join(found)


# --- that every check can fail -------------------------------------------------------------------


def plant(folder: Path, files: dict[str, str]) -> Path:
    """A package `echelon` that holds the given files."""
    package = folder / "echelon"
    for name, text in {"__init__.py": "", **files}.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return package


def test_a_good_tree_has_no_complaints(tmp_path: Path) -> None:
    package = plant(
        tmp_path,
        {
            "types.py": "import torch\nfrom pathlib import Path",
            "config.py": "from echelon.types import EchelonError",
            "data/episodes.py": "import h5py\nfrom . import windows\nfrom ..types import Window",
            "data/windows.py": "from echelon import __version__, types\nzip(a, b, strict=False)",
            "trainer.py": "import echelon.objective\nmodel.load_state_dict(weights, strict=True)",
            "cli.py": "import tyro\ndef run():\n    from echelon.envs import point_maze",
        },
    )
    checks = (broken_floors, strangers, unsafe, too_long, heavy)
    assert [complaint for check in checks for complaint in check(package)] == []


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        ("models/level.py", "from echelon.trainer import Trainer", "higher floor"),
        ("models/level.py", "from echelon import agent", "higher floor"),
        ("models/level.py", "import echelon.agent", "higher floor"),
        ("models/level.py", "from ..agent import Agent", "higher floor"),
        ("models/level.py", "from .. import agent", "higher floor"),
        ("models/level.py", "def late():\n    from echelon import cli", "higher floor"),
        ("models/level.py", "if TYPE_CHECKING:\n    import echelon.cli", "higher floor"),
        ("models/level.py", "importlib.import_module('echelon.cli')", "higher floor"),
        ("models/level.py", "from echelon.planning.cem import CEM", "neighbour"),
        ("types.py", "from echelon.config import LossConfig", "neighbour"),
        ("report/plots.py", "from echelon import evaluation", "neighbour"),
        ("models/level.py", "import echelon", "module that defines it"),
        ("models/level.py", "from echelon import Agent", "module that defines it"),
        ("models/level.py", "from echelon import *", "module that defines it"),
        ("wizard.py", "", "has no floor"),
        ("wizards/spell.py", "", "has no floor"),
    ],
)
def test_floors_can_break(tmp_path: Path, file: str, text: str, complaint: str) -> None:
    found = broken_floors(plant(tmp_path, {file: text}))
    assert len(found) == 1
    assert complaint in found[0]
    assert file.partition("/")[0].removesuffix(".py") in found[0]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("types.py", "import numpy as np"),
        ("config.py", "def late():\n    import lightning_fabric"),
        ("agent.py", "import gymnasium as gym"),
        ("planning/cem.py", "from mujoco import mj_step"),
        ("trainer.py", "import matplotlib.pyplot as plt"),
        ("models/level.py", "import h5py"),
    ],
)
def test_strangers_can_be_found(tmp_path: Path, file: str, text: str) -> None:
    assert len(strangers(plant(tmp_path, {file: text}))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "def late():\n    from cloudpickle import dumps",
        "import torch\ntorch.load('weights.pt')",
        "import torch\ntorch.save({}, 'weights.pt')",
        "from torch import load",
        "self.fabric.load(path)",
        "model.load_state_dict(weights, strict=False)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=trusted)",
    ],
)
def test_unsafe_reading_can_be_found(tmp_path: Path, text: str) -> None:
    assert len(unsafe(plant(tmp_path, {"data/reader.py": text}))) == 1


def test_long_files_can_be_found(tmp_path: Path) -> None:
    package = plant(tmp_path, {"a.py": "x = 1\n" * LONGEST, "b.py": "x = 1\n" * (LONGEST + 1)})
    assert len(too_long(package)) == 1


def test_a_heavy_import_can_be_found(tmp_path: Path) -> None:
    package = plant(
        tmp_path, {"__init__.py": "from echelon import types", "types.py": "import h5py"}
    )
    (tmp_path / "h5py.py").touch()
    assert heavy(package) == ["import echelon imports h5py"]


@pytest.mark.parametrize("place", ["work", "tmp", "root", "home"])
def test_machine_paths_can_be_found(tmp_path: Path, place: str) -> None:
    record, prose, image = tmp_path / "record.json", tmp_path / "prose.md", tmp_path / "image.png"
    record.write_text('{\n"command": "echelon evaluate --out=' + f'/{place}/run"' + "\n}")
    prose.write_text(f"see example.org/{place}/page, results/{place}/a and ~/{place}/b")
    image.write_bytes(b"\x89PNG\xff" + f" /{place}/run".encode())
    found = machine_paths(tmp_path, [record, prose, image])
    assert found == [f"record.json:2: a path under /{place}/"]
