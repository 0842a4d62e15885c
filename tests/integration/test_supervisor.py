"""`luthier up` with the real services: processes of their own, on free ports, without an engine."""

from __future__ import annotations

import asyncio
import os
import pathlib
import signal
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from luthier.services import SERVICES
from luthierd import supervisor
from luthierd.supervisor import Installation, StartFailedError
from support.certificates import self_signed
from support.ports import free_ports
from support.waiting import until

ODD_NAME = "mein Zühause #1 %20?x=1&y 100%(home)s [a]*"
"""Characters with a meaning in URLs, in Alembic's configuration and in patterns."""


def installation(home: pathlib.Path, **settings: str) -> Installation:
    variables = [variable for spec in SERVICES.values() for variable in spec.port_by_variable]
    ports = dict(zip(variables, map(str, free_ports(len(variables))), strict=True))
    return Installation(home, {**os.environ, **ports, **settings}, lambda _event: None)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """All four services, in a home whose name is taken literally everywhere."""
    made = installation(tmp_path_factory.mktemp("homes") / ODD_NAME)
    try:
        made.up()
        yield made
    finally:
        made.down()


def health(status: dict[str, Any]) -> dict[str, str]:
    return {name: service["health"] for name, service in status["services"].items()}


def pids(status: dict[str, Any]) -> dict[str, int]:
    return {name: service["pid"] for name, service in status["services"].items()}


def test_up_starts_all_four_and_a_second_time_nothing(running: Installation) -> None:
    first = running.status()
    assert health(first) == dict.fromkeys(SERVICES, "SERVING")
    assert pids(running.up()) == pids(first)


def test_a_killed_service_is_dead_and_up_brings_back_that_one(running: Installation) -> None:
    before = pids(running.status())
    killed = psutil.Process(before["trainer"])
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait(timeout=20)
    assert health(running.status())["trainer"] == "DEAD"
    after = running.up()
    assert health(after) == dict.fromkeys(SERVICES, "SERVING")
    assert {name for name in SERVICES if pids(after)[name] != before[name]} == {"trainer"}


async def test_a_killed_service_is_started_again_by_up_watch_which_ends_with_down(
    running: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(running, "_report", lambda event: said.append(event["event"]))
    watching = asyncio.create_task(asyncio.to_thread(running.watch))
    try:
        await until(lambda: "watching" in said)
        before = pids(await asyncio.to_thread(running.status))
        os.kill(before["trainer"], signal.SIGKILL)
        after = await until(lambda: asyncio.to_thread(_all_serve, running, except_pid=before["trainer"]))
        assert {name for name in SERVICES if pids(after)[name] != before[name]} == {"trainer"}
        assert after["services"]["trainer"]["restart_count"] <= 1
    finally:
        await asyncio.to_thread(running.down)
        ended = await asyncio.wait_for(watching, timeout=30)
    assert health(ended) == dict.fromkeys(SERVICES, "STOPPED")
    assert said.count("ended") == 1


def _all_serve(running: Installation, *, except_pid: int) -> dict[str, Any]:
    """The status once all services serve, none of them with that process id."""
    status = running.status()
    all_serve = set(health(status).values()) == {"SERVING"}
    return status if all_serve and except_pid not in pids(status).values() else {}


def test_all_files_and_folders_are_for_their_owner_only(running: Installation) -> None:
    home = pathlib.Path(running.up()["home"])
    assert home.name == ODD_NAME
    assert not [path for path in [home, *home.rglob("*")] if path.stat().st_mode & 0o077]
    assert {path.name for path in home.glob("*.db")} == {f"{name}.db" for name in SERVICES}
    assert [path.name for path in home.parent.iterdir()] == [ODD_NAME]


def test_down_stops_all_four_and_leaves_no_process(running: Installation) -> None:
    processes = [psutil.Process(pid) for pid in pids(running.up()).values()]
    assert running.down() == {"stopped": sorted(SERVICES)}
    assert not any(process.is_running() for process in processes)
    assert health(running.status()) == dict.fromkeys(SERVICES, "STOPPED")


def test_a_service_that_cannot_start_says_why_and_not_what_an_earlier_run_said(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "SERVICES", {"curation": SERVICES["curation"]})
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/curation.log").write_text('{"event": "error", "reason": "X", "message": "an old fault"}\n')
    with pytest.raises(StartFailedError, match="LUTHIER_CURATION_GRACE_S='ten'") as caught:
        installation(tmp_path, LUTHIER_CURATION_GRACE_S="ten").up()
    assert "an old fault" not in str(caught.value)
    assert caught.value.metadata == {"service": "curation", "log": str(tmp_path / "logs/curation.log")}


def test_a_service_with_tls_is_seen_to_serve(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "SERVICES", {"curation": SERVICES["curation"]})
    files = self_signed(tmp_path, names=("luthier.example",), ip="")
    made = installation(
        tmp_path, LUTHIER_TLS_CERTIFICATE_PATH=str(files.certificate), LUTHIER_TLS_KEY_PATH=str(files.key)
    )
    try:
        assert health(made.up()) == {"curation": "SERVING"}
    finally:
        made.down()
