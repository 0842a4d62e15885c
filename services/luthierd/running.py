"""What runs of an installation: the record `run/installation.json`, and the processes of this machine.

The record can be lost, garbled or older than a reboot; processes are then found by their command and their home.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psutil
from luthier.services import SERVICES

from luthierd.errors import UnavailableError
from luthierd.files import write_atomically

LOCK_POLL_INTERVAL_S = 0.1


class InstallationBusyError(UnavailableError):
    """Another command is starting, stopping or watching the services of this home."""

    reason = "INSTALLATION_BUSY"

    def __init__(self, home: pathlib.Path, holder: str) -> None:
        super().__init__(
            f"{holder or 'another command'} is at work on the services of {home}; wait until it has ended, or stop it",
            metadata={"home": str(home), "holder": holder},
        )


@dataclass(frozen=True, kw_only=True)
class Running:
    """A service of this machine as the record has it."""

    pid: int
    process_start_time: float
    address: str
    metrics_address: str
    http_address: str = ""
    log_offset_bytes: int = 0
    """Where the log of this run begins; earlier runs wrote what is before."""
    restart_count: int = 0
    """Times in a row that it died soon and was started again by `up --watch`."""

    def process(self) -> psutil.Process | None:
        """Its process, unless it has ended or the id belongs to another process now."""
        try:
            process = psutil.Process(self.pid)
            alive = process.status() != psutil.STATUS_ZOMBIE
            return process if alive and abs(process.create_time() - self.process_start_time) < 1.0 else None
        except (psutil.Error, ValueError, OverflowError):  # what a garbled record says is no process
            return None


class Record:
    """The record of one home."""

    def __init__(self, home: pathlib.Path) -> None:
        self._home = home
        self._file = home / "run/installation.json"

    def read(self) -> dict[str, Running]:
        """The services that run, as recorded or as found; of the others those that are recorded, which have died."""
        recorded = self._recorded()
        lost = [name for name in SERVICES if name not in recorded or recorded[name].process() is None]
        return recorded | dict(_found(self._home, lost)) if lost else recorded

    def write(self, running: Mapping[str, Running]) -> None:
        """Replaces it."""
        services = {name: asdict(service) for name, service in running.items()}
        content = {"services": services, "signing_key": str(self._home / "keys/private.pem")}
        write_atomically(self._file, iter([json.dumps(content, indent=2).encode()]))

    def remove(self) -> None:
        """Nothing runs any more."""
        self._file.unlink(missing_ok=True)

    @contextlib.contextmanager
    def locked(self, lock: str, holder: str, *, wait_s: float = 0.0) -> Iterator[None]:
        """Keeps other commands out, by the file `run/<lock>`. InstallationBusyError after `wait_s`.

        The lock ends with the process, however that ends.
        """
        path = self._file.with_name(lock)
        path.parent.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + wait_s
        with path.open("a+") as file:
            while not _lock(file.fileno()):
                if time.monotonic() >= deadline:
                    file.seek(0)
                    raise InstallationBusyError(self._home, file.read(200))
                time.sleep(LOCK_POLL_INTERVAL_S)
            file.truncate(0)
            file.write(f"`luthier {holder}` (process {os.getpid()})")
            file.flush()
            yield

    def _recorded(self) -> dict[str, Running]:
        try:
            services = json.loads(self._file.read_text())["services"].items()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}
        parsed = {name: _parse(service) for name, service in services if name in SERVICES}
        return {name: service for name, service in parsed.items() if service is not None}


def processes_of(home: pathlib.Path, modules: Collection[str]) -> Iterator[tuple[str, psutil.Process]]:
    """The processes that run `python -m <module>` for this home, each with its module."""
    home = home.resolve()
    for process in psutil.process_iter():
        try:
            module = next((part for part in process.cmdline() if part in modules), None)
            # A fork has the command of its parent, but leads no session.
            leads = module is not None and os.getsid(process.pid) == process.pid
            if module and leads and _is_of(process, home) and process.status() != psutil.STATUS_ZOMBIE:
                yield module, process
        except (psutil.Error, OSError):
            continue


def kill_session(home: pathlib.Path, pid: int) -> None:
    """Kills what a service that died has left running, such as its engine. Workers lead other sessions."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            # The id may be another program's by now.
            if os.getsid(process.pid) == pid != process.pid and _is_of(process, home.resolve()):
                process.kill()


def _is_of(process: psutil.Process, home: pathlib.Path) -> bool:
    theirs = process.environ().get("LUTHIER_HOME")
    return bool(theirs) and pathlib.Path(theirs).resolve() == home


def _found(home: pathlib.Path, names: Collection[str]) -> Iterator[tuple[str, Running]]:
    """Services of these names that run without being in the record."""
    for module, process in processes_of(home, {f"luthierd.{name}" for name in names}):
        name = module.rpartition(".")[2]
        with contextlib.suppress(psutil.Error):
            environment = process.environ()
            host = environment.get(f"LUTHIER_{name.upper()}_HOST") or environment.get("LUTHIER_HOST") or "127.0.0.1"
            ports = SERVICES[name].port_by_variable
            addresses = [f"{host}:{environment.get(variable, default)}" for variable, default in ports.items()]
            yield name, running_of(process, addresses)


def running_of(process: psutil.Process, addresses: Sequence[str], *, log_offset_bytes: int = 0) -> Running:
    """A service whose process runs; `addresses` in the order of its ports."""
    address, metrics_address, *http_address = addresses
    return Running(
        pid=process.pid,
        process_start_time=process.create_time(),
        address=address,
        metrics_address=metrics_address,
        http_address="".join(http_address),
        log_offset_bytes=log_offset_bytes,
    )


def _parse(service: Any) -> Running | None:
    """None for what is no service; what a newer release recorded as well is left out."""
    kinds = {"str": str, "int": int, "float": (int, float)}
    fields = {field.name: kinds[str(field.type)] for field in dataclasses.fields(Running)}
    try:
        given = {name: value for name, value in service.items() if name in fields}
        valid = all(isinstance(value, fields[name]) for name, value in given.items())  # type: ignore[arg-type]
        return Running(**given) if valid else None
    except (TypeError, AttributeError):
        return None


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
