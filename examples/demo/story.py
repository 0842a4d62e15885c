"""Terminal output of the demo: headings, progress bars, tables. Works in a terminal and in a log file."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

LOG_INTERVAL_S = 15.0
"""Interval between lines that replace a progress bar without a terminal."""


@dataclass
class Bar:
    """One progress bar; without a terminal, an occasional line."""

    progress: Progress
    task_id: int
    title: str
    console: Console
    printed_time: float = field(default_factory=time.monotonic)

    def update(self, done: float, total: float, note: str) -> None:
        """Shows `done` of `total` and a note."""
        self.progress.update(self.task_id, completed=done, total=total, note=note)  # type: ignore[arg-type]
        if not self.console.is_terminal and time.monotonic() - self.printed_time > LOG_INTERVAL_S:
            self.printed_time = time.monotonic()
            self.console.print(f"  {self.title}: {done:g}/{total:g} {note}", highlight=False)


class Story:
    """Prints the steps and records their durations."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        self.step_seconds: dict[str, float] = {}
        self._number = 0

    @contextlib.contextmanager
    def step(self, key: str, title: str) -> Iterator[None]:
        """A numbered step; its duration is recorded under `key`."""
        self._number += 1
        self.console.print(f"\n[bold]{self._number}. {title}[/bold]")
        start = time.monotonic()
        try:
            yield
        finally:
            self.step_seconds[key] = round(time.monotonic() - start, 2)
            self.console.print(f"   [dim]{self.step_seconds[key]:.1f} s[/dim]")

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(f"   {text}")

    @contextlib.contextmanager
    def bars(self) -> Iterator[BarFactory]:
        """A group of progress bars, live while the block runs."""
        columns = (
            TextColumn("   {task.description}"),
            BarColumn(bar_width=28),
            TaskProgressColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console) as progress:
            yield BarFactory(progress, self.console)

    def table(self, title: str, columns: list[str], rows: list[list[str]]) -> None:
        """A table; the first column is left-aligned, the others right."""
        table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
        for index, column in enumerate(columns):
            table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
        for row in rows:
            table.add_row(*row)
        self.console.print(table)


@dataclass(frozen=True)
class BarFactory:
    """Adds bars to a group."""

    progress: Progress
    console: Console

    def add(self, title: str) -> Bar:
        """A new bar."""
        task_id = self.progress.add_task(title, total=None, note="")
        return Bar(self.progress, task_id, title, self.console)
