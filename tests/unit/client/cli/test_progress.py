"""Progress on a terminal and elsewhere."""

from __future__ import annotations

import io

from luthier.cli.progress import Progress
from luthier.cli.session import Session
from rich.console import Console


def session_on(terminal: bool) -> tuple[Session, io.StringIO]:
    written = io.StringIO()
    session = Session()
    session.__dict__["stderr"] = Console(file=written, force_terminal=terminal, width=120)
    return session, written


def test_a_terminal_gets_a_bar_for_each_phase():
    session, written = session_on(True)
    with Progress(session, "waiting") as progress:
        progress.update("clean", done=10, total=10)
        progress.update("pii", done=3, total=9, detail="slow")
        progress.note("something worth knowing")
    shown = written.getvalue()
    assert "clean" in shown
    assert "3/9" in shown
    assert "something worth knowing" in shown


def test_elsewhere_a_line_comes_now_and_then(capsys):
    session, _ = session_on(False)
    now = [0.0]
    with Progress(session, "waiting", clock=lambda: now[0]) as progress:
        for step in range(1, 11):
            now[0] += 1
            progress.update("train", done=step, total=100)
        progress.update("train", done=100, total=100)
        progress.note("done")
    assert capsys.readouterr().err.splitlines() == ["train 1/100", "train 6/100", "train 100/100", "done"]


def test_with_json_nothing_is_shown(capsys):
    session, written = session_on(True)
    session.as_json = True
    with Progress(session, "waiting") as progress:
        progress.update("train", done=1, total=2)
        progress.note("x")
    assert capsys.readouterr() == ("", "")
    assert written.getvalue() == ""
