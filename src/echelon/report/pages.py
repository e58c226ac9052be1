"""Pages and what they show of results: a section of text between two markers, a picture beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from echelon.files import write_atomically
from echelon.types import EchelonError


@dataclass(frozen=True)
class Page:
    """A page, and the results that its sections and its picture are made of."""

    path: Path
    results: Path
    """a folder, or a file"""
    sections: Mapping[str, Callable[[Path], str]]
    """by name, each a function of the results that is empty where there are none"""
    picture: Callable[[Path, Path], object] | None = None
    """draws the results into a PNG, which stands beside the page under its name"""

    def check(self) -> None:
        """EchelonError if the page cannot be read, or lacks the markers of a section."""
        for name in self.sections:
            read_section(self.path, name)

    def write(self) -> None:
        """Bring the page, and the picture where there are results, up to date."""
        for name, text in self.sections.items():
            write_section(self.path, name, text(self.results))
        if self.picture and self.results.exists():
            self.picture(self.results, self.path.with_suffix(".png"))


def write_section(path: Path, name: str, text: str) -> None:
    """Put `text` between ``<!-- results:NAME -->`` and ``<!-- /results:NAME -->``, in place of what
    stands there.
    """
    before, _, after = _parts(path, name)
    write_atomically(path, (before + (f"\n{text}\n" if text else "\n") + after).encode())


def read_section(path: Path, name: str) -> str:
    """What stands between the markers of `name`."""
    return _parts(path, name)[1].strip("\n")


def _parts(path: Path, name: str) -> tuple[str, str, str]:
    begin, end = f"<!-- results:{name} -->", f"<!-- /results:{name} -->"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise EchelonError(f"{path}: cannot be read ({error.strerror})") from None
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise EchelonError(f"{path}: needs one {begin} and, after it, one {end}")
    first, last = text.index(begin) + len(begin), text.index(end)
    return text[:first], text[first:last], text[last:]
