"""Progress of a job: a bar on a terminal, an occasional line elsewhere, nothing with --json."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from luthier.cli.session import Session

PLAIN_INTERVAL_S = 5.0


class Progress:
    """Use with `with`. The form depends on the session and on whether stderr is a terminal."""

    def __init__(self, session: Session, title: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._session = session
        self._title = title
        self._clock = clock
        self._bar: RichProgress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._printed: tuple[str, float] = ("", 0.0)

    def __enter__(self) -> Self:
        if not self._session.as_json and self._session.stderr.is_terminal:
            self._bar = RichProgress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[detail]}"),
                console=self._session.stderr,
            )
            self._bar.start()
            self.update(self._title)
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, phase: str, *, done: int = 0, total: int = 0, detail: str = "") -> None:
        """Reports on one phase; each phase has its own bar. total 0: not known."""
        if self._bar is not None:
            if phase not in self._tasks:
                self._finish_others()
                self._tasks[phase] = self._bar.add_task(phase, total=total or None, detail=detail)
            self._bar.update(self._tasks[phase], completed=done, total=total or None, detail=detail)
        elif not self._session.as_json:
            self._print(phase, done, total, detail)

    def note(self, text: str) -> None:
        """Prints a remark above the bar."""
        if self._bar is not None:
            self._bar.console.print(text)
        else:
            self._session.note(text)

    def _finish_others(self) -> None:
        assert self._bar is not None
        for name, task in list(self._tasks.items()):
            found = self._bar.tasks[self._bar.task_ids.index(task)]
            if name == self._title and not found.completed:
                self._bar.remove_task(task)
                del self._tasks[name]
            else:
                self._bar.update(task, total=found.total or max(found.completed, 1), completed=found.total or 1)

    def _print(self, phase: str, done: int, total: int, detail: str) -> None:
        last_phase, last_time = self._printed
        now = self._clock()
        if phase == last_phase and now - last_time < PLAIN_INTERVAL_S and (done < total or not total):
            return
        self._printed = (phase, now)
        count = f" {done}/{total}" if total else ""
        self._session.note(f"{phase}{count}{'  ' + detail if detail else ''}")
