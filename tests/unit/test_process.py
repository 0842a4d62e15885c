"""The border of a server process: one line says why it ended, and the exit code that it did."""

from __future__ import annotations

import asyncio
import json
import pathlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from luthierd.config import ServerConfig
from luthierd.errors import UnavailableError
from luthierd.process import EXIT_REFUSED, run


class EngineAwayError(UnavailableError):
    reason = "TEST_ENGINE_AWAY"


@pytest.fixture
def run_main(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> Callable[..., dict[str, Any]]:
    """Runs a server's main that fails, and gives the last line on stderr."""
    monkeypatch.setattr(
        "luthierd.process.configure_logging", lambda *_, **__: None
    )  # would take pytest's handlers away
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path))

    def run_and_read(main: Callable[[ServerConfig], Awaitable[None]]) -> dict[str, Any]:
        with pytest.raises(SystemExit) as caught:
            run("trainer", ServerConfig, main)
        assert caught.value.code == EXIT_REFUSED
        line: dict[str, Any] = json.loads(capsys.readouterr().err.splitlines()[-1])
        return line

    return run_and_read


def test_an_error_of_ours_is_one_line_with_reason_and_message(run_main: Callable[..., dict[str, Any]]) -> None:
    async def main(_config: ServerConfig) -> None:
        raise EngineAwayError("start the engine")

    assert run_main(main) == {
        "event": "error",
        "service": "trainer",
        "reason": "TEST_ENGINE_AWAY",
        "message": "start the engine",
    }


def test_an_error_out_of_a_task_group_is_found(run_main: Callable[..., dict[str, Any]]) -> None:
    async def fail() -> None:
        raise EngineAwayError("deep down")

    async def main(_config: ServerConfig) -> None:
        async with asyncio.TaskGroup() as outer, asyncio.TaskGroup() as inner:
            inner.create_task(fail())
            outer.create_task(asyncio.Event().wait())

    assert run_main(main)["message"] == "deep down"


def test_a_wrong_setting_is_said_before_anything_is_started(
    run_main: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUTHIER_TRAINER_PROT", "1")

    async def main(_config: ServerConfig) -> None:
        raise AssertionError("started")

    line = run_main(main)
    assert line["reason"] == "INVALID_CONFIGURATION"
    assert "LUTHIER_TRAINER_PORT" in line["message"]


def test_an_unknown_fault_has_an_id_and_its_trace_in_the_log(
    run_main: Callable[..., dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    async def main(_config: ServerConfig) -> None:
        raise ValueError("internal detail")

    line = run_main(main)
    assert line["reason"] == "INTERNAL"
    assert "internal detail" not in line["message"]
    (record,) = [record for record in caplog.records if record.message == "the server failed"]
    assert record.__dict__["error_id"] in line["message"]
    assert record.exc_info is not None


def test_a_server_that_ends_well_exits_with_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthierd.process.configure_logging", lambda *_, **__: None)
    seen = []

    async def main(config: ServerConfig) -> None:
        seen.append(config)

    run("trainer", ServerConfig, main)
    assert len(seen) == 1
