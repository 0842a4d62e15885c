"""Starting and stopping the services of a machine: what goes wrong is named, and no stranger's process is touched."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from luthier.services import SERVICES
from luthierd import supervisor
from luthierd.config import ConfigError, ServerConfig
from luthierd.process import HomeNotWritableError, open_home
from luthierd.rpc.server import PortInUseError
from luthierd.running import InstallationBusyError, Record, Running, running_of
from luthierd.supervisor import Installation
from support.certificates import CertificateFiles, self_signed
from support.ports import free_port
from support.scripted import scripted
from support.serving import serving


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """The commands change it for their whole process, which here is pytest."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def home(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "home"


@pytest.fixture
def reports() -> list[dict[str, Any]]:
    return []


def installation(home: pathlib.Path, reports: list[dict[str, Any]], **environment: str) -> Installation:
    return Installation(home, {"PATH": os.environ["PATH"], **environment}, reports.append)


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that another program listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def record(home: pathlib.Path, **services: Running) -> None:
    """Writes what an earlier `up` would have."""
    file = home / "run/installation.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"services": {name: dataclasses.asdict(running) for name, running in services.items()}}))


def this_process(**changes: Any) -> Running:
    """A service that runs under the id of this very process."""
    own = psutil.Process()
    running = Running(
        pid=own.pid, process_start_time=own.create_time(), address="127.0.0.1:1", metrics_address="127.0.0.1:2"
    )
    return dataclasses.replace(running, **changes)


# --- ports ---


@pytest.mark.parametrize(
    "variable",
    ["LUTHIER_TRAINER_PORT", "LUTHIER_CURATION_METRICS_PORT", "LUTHIER_INFERENCE_HTTP_PORT"],
)
def test_a_port_in_use_is_named_with_the_variable_that_moves_it_and_nothing_starts(
    home: pathlib.Path, reports: list[dict[str, Any]], taken_port: int, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = {variable: str(free_port()) for spec in SERVICES.values() for variable in spec.port_by_variable}
    monkeypatch.setattr(supervisor.subprocess, "Popen", None)
    with pytest.raises(PortInUseError, match=variable) as caught:
        installation(home, reports, **free | {variable: str(taken_port)}).up()
    assert caught.value.metadata["address"] == f"127.0.0.1:{taken_port}"
    assert caught.value.metadata["variable"] == variable
    assert reports == []
    assert not (home / "run/installation.json").exists()


@pytest.mark.parametrize("variable", ["LUTHIER_TRAINER_PORT", "LUTHIER_INFERENCE_HTTP_PORT"])
def test_a_port_that_is_no_number_is_named(home: pathlib.Path, reports: list[dict[str, Any]], variable: str) -> None:
    free = {variable: str(free_port()) for spec in SERVICES.values() for variable in spec.port_by_variable}
    with pytest.raises(ConfigError, match=variable):
        installation(home, reports, **free | {variable: "seventy"}).up()


# --- what is recorded and what is true ---


def test_nothing_recorded_is_stopped(home: pathlib.Path, reports: list[dict[str, Any]]) -> None:
    status = installation(home, reports).status()
    assert {service["health"] for service in status["services"].values()} == {"STOPPED"}


def test_a_process_id_that_another_program_has_now_is_not_our_service(
    home: pathlib.Path, reports: list[dict[str, Any]]
) -> None:
    record(home, trainer=this_process(process_start_time=psutil.Process().create_time() - 60))
    ours = installation(home, reports)
    assert ours.status()["services"]["trainer"]["health"] == "DEAD"
    assert ours.down() == {"stopped": []}  # and this process goes on
    assert reports == []


def test_a_process_that_is_gone_is_dead(home: pathlib.Path, reports: list[dict[str, Any]]) -> None:
    record(home, trainer=this_process(pid=2**22 + 1))
    assert installation(home, reports).status()["services"]["trainer"]["health"] == "DEAD"


def test_a_process_that_does_not_answer_is_unreachable(home: pathlib.Path, reports: list[dict[str, Any]]) -> None:
    record(home, trainer=this_process(address=f"127.0.0.1:{free_port()}"))
    assert installation(home, reports).status()["services"]["trainer"]["health"] == "UNREACHABLE"


@pytest.mark.parametrize(
    "content",
    ["", "no json", "[]", "{}", '{"services": []}', '{"services": {"trainer": {"pid": 1}}}', "\xff", "[" * 100_000],
)
def test_a_damaged_record_counts_as_none(home: pathlib.Path, reports: list[dict[str, Any]], content: str) -> None:
    (home / "run").mkdir(parents=True)
    (home / "run/installation.json").write_text(content)
    assert installation(home, reports).status()["services"]["trainer"] == {"health": "STOPPED"}


@pytest.mark.parametrize("pid", ["1", "null", "-1", "1.5", str(2**70), "[]"])
def test_a_record_whose_values_make_no_sense_is_no_running_service(
    home: pathlib.Path, reports: list[dict[str, Any]], pid: str
) -> None:
    record(home, trainer=this_process(pid=99))
    file = home / "run/installation.json"
    file.write_text(file.read_text().replace("99", pid))
    assert installation(home, reports).status()["services"]["trainer"]["health"] in {"STOPPED", "DEAD"}


def test_what_a_newer_release_records_as_well_does_not_lose_the_record(home: pathlib.Path) -> None:
    record(home, trainer=this_process())
    file = home / "run/installation.json"
    file.write_text(file.read_text().replace('"pid"', '"colour": "red", "pid"'))
    assert Record(home).read() == {"trainer": this_process()}


class Programs:
    """Programs with the command line of a service; they end with the test."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, home: pathlib.Path, module: str = "luthierd.trainer") -> int:
        command = [sys.executable, "-c", "import signal; print(flush=True); signal.pause()", "-m", module]
        environment = {"LUTHIER_HOME": str(home), "LUTHIER_TRAINER_PORT": "71"}
        program = subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.PIPE)
        self.started.append(program)
        assert program.stdout is not None
        program.stdout.readline()  # it runs
        return program.pid


@pytest.fixture
def programs() -> Iterator[Programs]:
    made = Programs()
    yield made
    for program in made.started:
        program.kill()
        program.communicate()


@pytest.mark.parametrize("content", ["", "no json", "stale"])
def test_a_service_that_runs_is_found_although_its_record_is_lost_or_of_an_earlier_process(
    home: pathlib.Path, reports: list[dict[str, Any]], programs: Programs, content: str
) -> None:
    record(home, trainer=this_process(pid=2**22 + 1))
    if content != "stale":
        (home / "run/installation.json").write_text(content)
    pid = programs.start(home)
    programs.start(home.with_name("another home"))
    ours = installation(home, reports)
    found = ours.status()["services"]["trainer"]
    assert (found["pid"], found["address"], found["metrics_address"]) == (pid, "127.0.0.1:71", "127.0.0.1:7202")
    assert ours.down() == {"stopped": ["trainer"]}
    assert [psutil.pid_exists(program.pid) for program in programs.started] == [False, True]


def test_down_also_stops_workers_and_a_second_process_of_a_service(
    home: pathlib.Path, reports: list[dict[str, Any]], programs: Programs
) -> None:
    pids = [programs.start(home), programs.start(home), programs.start(home, "luthierd.trainer.worker")]
    stopped = installation(home, reports).down()["stopped"]
    assert len(stopped) == 3
    assert {"trainer", f"worker {pids[2]}"} < set(stopped)
    assert not [pid for pid in pids if psutil.pid_exists(pid)]


# --- one command at a time ---


@pytest.mark.parametrize("verb", ["up", "down"])
def test_of_two_commands_at_once_the_second_says_who_is_first_and_does_nothing(
    home: pathlib.Path, reports: list[dict[str, Any]], verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "LOCK_WAIT_S", 0.0)
    ours = installation(home, reports)
    with Record(home).locked("lock", "up"), pytest.raises(InstallationBusyError) as caught:
        getattr(ours, verb)()
    assert caught.value.metadata["holder"] == f"`luthier up` (process {os.getpid()})"
    assert reports == []
    ours.down()  # the lock is free again


def test_a_second_watcher_says_who_watches(home: pathlib.Path, reports: list[dict[str, Any]]) -> None:
    watching = Record(home).locked("watch.lock", "up --watch")
    with watching, pytest.raises(InstallationBusyError, match="up --watch"):
        installation(home, reports).watch()


# --- a service that dies ---


def test_a_service_that_dies_is_started_again_and_one_that_keeps_dying_later_and_later(
    home: pathlib.Path, reports: list[dict[str, Any]], programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "SERVICES", {"trainer": SERVICES["trainer"]})
    monkeypatch.setattr(Installation, "_start", lambda self, name, running: started())
    ours = installation(home, reports)

    def started() -> Running:
        programs.start(home)
        return running_of(psutil.Process(programs.started[-1].pid), ["127.0.0.1:71", "127.0.0.1:72"])

    def die(after_s: float) -> float:
        programs.started[-1].kill()
        programs.started[-1].wait()
        return Record(home).read()["trainer"].process_start_time + after_s

    def restarts() -> tuple[int, int]:
        return len(programs.started) - 1, Record(home).read()["trainer"].restart_count

    Record(home).write({"trainer": started()})
    assert ours.mend(die(after_s=3600.0))
    assert restarts() == (1, 0)  # at once
    for count, delay_s in ((1, 1.0), (2, 2.0), (3, 4.0)):
        now = die(after_s=5.0)
        assert ours.mend(now)
        assert ours.mend(now + delay_s - 0.1)
        assert restarts() == (count, count - 1)
        assert ours.mend(now + delay_s)
        assert restarts() == (count + 1, count)
    assert ours.mend(die(after_s=3600.0))
    assert restarts() == (5, 0)
    assert [one["restart_in_s"] for one in reports if one["event"] == "ended"] == [0, 1, 2, 4, 0]
    ours.down()
    assert not ours.mend(time.time())
    assert len(programs.started) == 6


@pytest.mark.parametrize("is_ours", [True, False])
def test_what_a_dead_service_left_running_ends_and_what_is_not_of_this_home_goes_on(
    home: pathlib.Path, reports: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, *, is_ours: bool
) -> None:
    monkeypatch.setattr(supervisor, "SERVICES", {"trainer": SERVICES["trainer"]})
    monkeypatch.setattr(Installation, "_start", lambda self, name, running: this_process())
    script = "import os, subprocess; subprocess.Popen(['sh', '-c', 'echo $$; sleep 600']); os.kill(os.getpid(), 9)"
    environment = {"LUTHIER_HOME": str(home if is_ours else home.with_name("another")), "PATH": os.environ["PATH"]}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True, env=environment
    ) as service:
        assert service.stdout is not None
        engine = psutil.Process(int(service.stdout.readline()))
        service.wait()
        record(home, trainer=this_process(pid=service.pid))
        assert installation(home, reports).mend(time.time() + 3600.0)
        gone, _ = psutil.wait_procs([engine], timeout=10 if is_ours else 0)
        ended = bool(gone) or engine.status() == psutil.STATUS_ZOMBIE
        assert ended == is_ours
        if not ended:
            for process in [*engine.children(), engine]:
                process.kill()


# --- the home ---


@pytest.mark.parametrize("home", ["/proc/luthier", "/dev/null/luthier"])
def test_a_home_that_cannot_be_written_is_named(home: str, reports: list[dict[str, Any]]) -> None:
    for act in (Installation.up, Installation.watch):
        with pytest.raises(HomeNotWritableError, match="set LUTHIER_HOME") as caught:
            act(installation(pathlib.Path(home), reports))
        assert caught.value.metadata["home"] == home


def test_a_home_on_a_read_only_file_system_is_named(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthierd.process.os.access", lambda path, mode: False)  # root may write to any other
    with pytest.raises(HomeNotWritableError, match="read-only"):
        open_home(tmp_path)


def test_a_file_where_a_folder_belongs_is_named(command: Any, home: pathlib.Path) -> None:
    home.mkdir()
    (home / "run").touch()
    code, (line,) = command("up")
    assert (code, line["event"], line["reason"]) == (1, "error", "HOME_NOT_WRITABLE")
    assert str(home / "run") in line["message"]


def test_what_an_earlier_release_let_others_read_becomes_private(
    home: pathlib.Path, reports: list[dict[str, Any]]
) -> None:
    for folder in ("keys", "blobs", "logs"):
        (home / folder).mkdir(parents=True, mode=0o755)
    (home / "trainer.db").touch(mode=0o644)
    (home / "run").symlink_to(home.parent)
    before = home.parent.stat().st_mode
    installation(home, reports)._make_private()
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in home.iterdir() if not path.is_symlink()} == {
        "keys": "0o700",
        "blobs": "0o700",
        "logs": "0o700",
        "trainer.db": "0o600",
    }
    assert home.parent.stat().st_mode == before


# --- last words ---


def words(home: pathlib.Path, reports: list[dict[str, Any]], log: bytes, *, offset_bytes: int = 0) -> str:
    (home / "logs").mkdir(parents=True, exist_ok=True)
    (home / "logs/trainer.log").write_bytes(log)
    return installation(home, reports)._last_words("trainer", this_process(log_offset_bytes=offset_bytes))


ERROR = b'{"event": "error", "reason": "X", "message": "the old fault"}\n'


def test_the_error_line_is_what_a_service_said_last(home: pathlib.Path, reports: list[dict[str, Any]]) -> None:
    assert words(home, reports, b"noise\n" + ERROR + b"more noise\n") == "the old fault"


def test_without_an_error_line_the_last_line_is(home: pathlib.Path, reports: list[dict[str, Any]]) -> None:
    assert words(home, reports, b"[1]\nSegmentation fault\xff\n").startswith("Segmentation fault")


def test_a_fault_of_an_earlier_run_is_not_reported_again(home: pathlib.Path, reports: list[dict[str, Any]]) -> None:
    assert words(home, reports, ERROR, offset_bytes=len(ERROR)).startswith("it printed nothing")
    assert words(home, reports, ERROR + b"killed\n", offset_bytes=len(ERROR)).startswith("killed")


# --- health over TLS ---


@pytest.fixture
def files(tmp_path: pathlib.Path) -> CertificateFiles:
    return self_signed(tmp_path, names=("luthier.example",), ip="")


async def health_over_tls(served: CertificateFiles, expected: pathlib.Path | None) -> str:
    config = ServerConfig(tls_certificate_path=served.certificate, tls_key_path=served.key)
    async with serving(scripted(), config) as bound:
        return await asyncio.to_thread(supervisor._health, bound.address, expected)


async def test_a_service_with_tls_is_asked_over_tls_whatever_name_it_has(files: CertificateFiles) -> None:
    assert await health_over_tls(files, files.certificate) == "SERVING"


async def test_a_service_with_tls_does_not_answer_in_plain_text(files: CertificateFiles) -> None:
    assert await health_over_tls(files, None) == "UNREACHABLE"


async def test_a_server_with_another_certificate_is_not_ours(files: CertificateFiles, tmp_path: pathlib.Path) -> None:
    (tmp_path / "other").mkdir()
    other = self_signed(tmp_path / "other", names=("luthier.example",), ip="")
    assert await health_over_tls(other, files.certificate) == "UNREACHABLE"


def test_a_certificate_that_cannot_be_read_is_left_to_the_service_to_name(tmp_path: pathlib.Path) -> None:
    assert supervisor._health(f"127.0.0.1:{free_port()}", tmp_path / "none.pem") == "UNREACHABLE"


# --- the command ---


@pytest.fixture
def command(home: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command; gives its exit code and its JSON lines."""
    monkeypatch.setenv("LUTHIER_HOME", str(home))

    def run(*arguments: str) -> tuple[int, list[dict[str, Any]]]:
        monkeypatch.setattr(supervisor.sys, "argv", ["supervisor", *arguments])
        code = supervisor.main()
        return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


@pytest.mark.parametrize("arguments", [(), ("start",), ("up", "down")])
def test_wrong_usage_is_64(command: Any, arguments: tuple[str, ...]) -> None:
    assert command(*arguments) == (64, [])


def test_the_last_line_is_the_result(command: Any, home: pathlib.Path) -> None:
    code, (line,) = command("status", "--json")
    assert (code, line["event"], line["home"]) == (0, "result", str(home))


def test_a_refusal_is_a_line_and_1(command: Any, monkeypatch: pytest.MonkeyPatch, taken_port: int) -> None:
    for name in SERVICES:
        monkeypatch.setenv(f"LUTHIER_{name.upper()}_PORT", str(taken_port))
    code, (line,) = command("up")
    assert (code, line["event"], line["reason"]) == (1, "error", "PORT_IN_USE")
    assert line["metadata"]["service"] == "curation"


def test_a_wrong_setting_of_the_supervisors_own_is_a_line_too(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_GRACE_S", "ten")
    code, (line,) = command("status")
    assert (code, line["reason"]) == (1, "INVALID_CONFIGURATION")
