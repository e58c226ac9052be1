"""Telling a person how long work will take."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar


class Progress:
    """Bars with time left on a terminal, a line per task elsewhere; silent where asked."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, soft_wrap=True)

    def say(self, message: str) -> None:
        self.console.print(message, highlight=False)

    def warn(self, message: str) -> None:
        self.console.print(f"[yellow]warning:[/yellow] {message}", highlight=False)

    @contextmanager
    def task(
        self, name: str, total: int, start: int = 0
    ) -> Generator[Callable[[float | None], None]]:
        """A bar of `total` steps; the function given moves it on by one, and shows a loss if told."""
        bar = Bar(
            TextColumn("{task.description:<24}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            disable=self.console.quiet,
            refresh_per_second=4,
        )
        with bar:
            task = bar.add_task(name, total=total, completed=start, note="")

            def advance(loss: float | None = None) -> None:
                bar.advance(task)
                if loss is not None:
                    bar.update(task, note=f"loss {loss:.3f}")

            yield advance
