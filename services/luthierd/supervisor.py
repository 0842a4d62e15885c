"""The four services on this machine: `python -m luthierd.supervisor up | up --watch | down | status`, for `luthier up`.

Prints one JSON line per event, the last one `{"event": "result", ...}` or `{"event": "error", ...}`.
Processes are identified by id and start time, so that a reused id is never taken for a service.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import psutil
from cryptography import x509
from luthier.endpoints import TlsOptions
from luthier.health import health_of
from luthier.services import SERVICES

from luthierd.config import ConfigError, ServerConfig, load_config
from luthierd.errors import LuthierError, UnavailableError
from luthierd.process import HomeNotWritableError, open_home
from luthierd.rpc.keys import create_keys
from luthierd.rpc.server import PortInUseError
from luthierd.running import Record, Running, kill_session, processes_of, running_of

START_TIMEOUT_S = 240.0
"""Inference may load a base model and deployed adapters first, which takes about a minute on a small CPU."""
STOP_TIMEOUT_S = 45.0
LOCK_WAIT_S = 2.0
"""How long a command waits for another one; a watcher that starts a service again takes less than a second."""
WATCH_INTERVAL_S = 1.0
STABLE_S = 60.0
"""A service that ran for so long is started again at once when it dies, one that keeps dying later and later."""
MAX_BACKOFF_S = 60.0
PRIVATE = ("keys", "run", "logs", "blobs", "cache", "uploads", "trainer", "evaluator", "inference")
"""Folders of a home that earlier releases made readable by others."""

Report = Callable[[dict[str, Any]], None]


class StartFailedError(UnavailableError):
    """A service exited or did not become ready in time."""

    reason = "START_FAILED"


class Installation:
    """The services below one home folder."""

    def __init__(self, home: pathlib.Path, environment: Mapping[str, str], report: Report) -> None:
        self._home = home
        self._environment = dict(environment)
        self._report = report
        self._record = Record(home)
        self._due: dict[str, float] = {}

    def up(self) -> dict[str, Any]:
        """Starts what is not running and waits until all services serve.

        HomeNotWritableError, InstallationBusyError, PortInUseError, StartFailedError.
        """
        open_home(self._home)
        with self._record.locked("lock", "up", wait_s=LOCK_WAIT_S):
            self._make_private()
            create_keys(self._home / "keys")
            recorded = self._record.read()
            running = {name: service for name, service in recorded.items() if service.process()}
            for name in recorded.keys() - running.keys():
                kill_session(self._home, recorded[name].pid)
            missing = [name for name in SERVICES if name not in running]
            for name in missing:
                self._check_ports(name)
            for name in missing:
                running[name] = self._start(name, running)
                self._record.write(running)
            self._record.write(running)
            for name, service in running.items():
                self._await_serving(name, service)
        return self.status()

    def watch(self) -> dict[str, Any]:
        """`up`, then starts services that die again, until `down`."""
        open_home(self._home)
        with self._record.locked("watch.lock", "up --watch"):
            self.up()
            self._report({"event": "watching", "home": str(self._home)})
            while self.mend(time.time()):
                time.sleep(WATCH_INTERVAL_S)
        return self.status()

    def mend(self, now: float) -> bool:
        """Starts services that died, at once or when their time has come. `now`: seconds since the epoch.

        False: nothing runs any more, because `down` was here.
        """
        with self._record.locked("lock", "up --watch", wait_s=START_TIMEOUT_S):
            running = self._record.read()
            if not running:
                return False
            for name in SERVICES:
                service = running.get(name)
                if service is not None and service.process():
                    continue
                soon = service is not None and now - service.process_start_time < STABLE_S
                restart_count = service.restart_count + 1 if service is not None and soon else 0
                if name not in self._due:
                    delay_s = min(2.0 ** (restart_count - 1), MAX_BACKOFF_S) if restart_count else 0.0
                    self._due[name] = now + delay_s
                    said = self._last_words(name, service) if service is not None else ""
                    self._report({"event": "ended", "service": name, "restart_in_s": delay_s, "said": said})
                    if service is not None:
                        kill_session(self._home, service.pid)
                if self._due[name] <= now:
                    del self._due[name]
                    running[name] = replace(self._start(name, running), restart_count=restart_count)
                    self._record.write(running)
        return True

    def down(self) -> dict[str, Any]:
        """Stops services and workers; jobs continue after the next `up`.

        HomeNotWritableError, InstallationBusyError.
        """
        open_home(self._home)
        with self._record.locked("lock", "down", wait_s=LOCK_WAIT_S):
            recorded = self._record.read()
            processes = {name: process for name, service in recorded.items() if (process := service.process())}
            known = {process.pid for process in processes.values()}
            modules = {f"luthierd.{name}{part}": name + part for name in SERVICES for part in ("", ".worker")}
            for module, process in processes_of(self._home, modules):
                if process.pid not in known:
                    kind = "worker" if module.endswith(".worker") else modules[module]
                    processes[f"{kind} {process.pid}"] = process
            self._stop(processes)
            self._record.remove()
        return {"stopped": sorted(processes)}

    def _stop(self, processes: Mapping[str, psutil.Process]) -> None:
        for name, process in processes.items():
            self._report({"event": "stopping", "service": name, "pid": process.pid})
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        _, alive = psutil.wait_procs(list(processes.values()), timeout=STOP_TIMEOUT_S)
        for process in alive:
            self._report({"event": "killing", "pid": process.pid, "after_s": STOP_TIMEOUT_S})
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for process in processes.values():
            kill_session(self._home, process.pid)

    def status(self) -> dict[str, Any]:
        """Which services run, and their health."""
        recorded = self._record.read()
        services = {}
        for name in SERVICES:
            service = recorded.get(name)
            alive = bool(service and service.process())
            health = self._health(name, service) if service and alive else "DEAD" if service else "STOPPED"
            services[name] = {**(asdict(service) if service else {}), "health": health}
        return {"home": str(self._home), "services": services}

    def _make_private(self) -> None:
        """Takes from others what an earlier release let them read."""
        databases = self._home.glob("*.db*")
        for path in [*(self._home / name for name in PRIVATE), *databases]:
            with contextlib.suppress(OSError):  # it belongs to somebody else
                if not path.is_symlink() and path.stat().st_mode & 0o077:
                    path.chmod(0o700 if path.is_dir() else 0o600)

    def _start(self, name: str, running: Mapping[str, Running]) -> Running:
        """Starts one service as a process in a new session; its output goes to `logs/<name>.log`."""
        ports = self._ports(name)
        host = self._config(name).host
        environment = self._environment | {
            "LUTHIER_HOME": str(self._home),
            **{variable: str(port) for variable, port in ports.items()},
            **{f"LUTHIER_{peer.upper()}_ADDRESS": f"{host}:{self._port(peer)}" for peer in SERVICES},
        }
        log = self._log(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            log_offset_bytes = output.tell()
            child = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", f"luthierd.{name}"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )
        self._report({"event": "starting", "service": name, "pid": child.pid, "log": str(log)})
        addresses = [f"{host}:{port}" for port in ports.values()]
        return running_of(psutil.Process(child.pid), addresses, log_offset_bytes=log_offset_bytes)

    def _await_serving(self, name: str, service: Running) -> None:
        """StartFailedError if the service ends, or does not serve within `START_TIMEOUT_S`."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while (health := self._health(name, service)) != "SERVING":
            if service.process() is None:
                raise StartFailedError(
                    f"{name} ended during its start: {self._last_words(name, service)}",
                    metadata={"service": name, "log": str(self._log(name))},
                )
            if time.monotonic() > deadline:
                raise StartFailedError(
                    f"{name} is {health} after {START_TIMEOUT_S:g} s; see {self._log(name)}", metadata={"service": name}
                )
            time.sleep(0.1)
        self._report({"event": "serving", "service": name, **asdict(service)})

    def _check_ports(self, name: str) -> None:
        """PortInUseError names the port and the variable that changes it."""
        host = self._config(name).host
        for variable, port in self._ports(name).items():
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((host, port))
                except OSError as error:
                    raise PortInUseError(
                        f"{name} cannot listen on {host}:{port} ({error.strerror}); stop what listens there, "
                        f"or set {variable}",
                        metadata={"service": name, "address": f"{host}:{port}", "variable": variable},
                    ) from None

    def _config(self, name: str) -> ServerConfig:
        """The settings of a service that the supervisor also needs. ConfigError."""
        own = ("HOST", "TLS_CERTIFICATE_PATH", "TLS_KEY_PATH")
        known = {f"LUTHIER_{name.upper()}_{field}" for field in own}
        known |= {"LUTHIER_HOST", "LUTHIER_TLS_CERTIFICATE_PATH", "LUTHIER_TLS_KEY_PATH"}
        values = {key: value for key, value in self._environment.items() if key in known}
        return load_config(ServerConfig, name, environment=values)

    def _port(self, name: str) -> int:
        return self._ports(name)[f"LUTHIER_{name.upper()}_PORT"]

    def _ports(self, name: str) -> dict[str, int]:
        """gRPC, metrics, and HTTP if the service has it: the port by the variable that changes it. ConfigError."""
        ports = {}
        for variable, default in SERVICES[name].port_by_variable.items():
            text = self._environment.get(variable, "0")
            if not text.isdecimal():
                raise ConfigError(f"{variable}={text!r} is not a port", metadata={"variable": variable})
            ports[variable] = int(text) or default
        return ports

    def _health(self, name: str, service: Running) -> str:
        return _health(service.address, self._config(name).tls_certificate_path)

    def _log(self, name: str) -> pathlib.Path:
        return self._home / "logs" / f"{name}.log"

    def _last_words(self, name: str, service: Running) -> str:
        """The message of the error line of this run, else its last line."""
        content = self._log(name).read_bytes() if self._log(name).exists() else b""
        if len(content) >= service.log_offset_bytes:  # else it was rotated since
            content = content[service.log_offset_bytes :]
        lines = content.decode(errors="replace").splitlines()
        for line in reversed(lines[-20:]):
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and event.get("event") == "error" and "message" in event:
                return str(event["message"])
        return f"{lines[-1] if lines else 'it printed nothing'} (full log: {self._log(name)})"


def _health(address: str, tls_certificate: pathlib.Path | None) -> str:
    """SERVING, NOT_SERVING or UNREACHABLE. With TLS, the server must have that certificate."""
    return health_of({"": address}, _tls(tls_certificate))[""]


def _tls(certificate_path: pathlib.Path | None) -> TlsOptions | None:
    """None without a usable certificate: the service itself reports what is wrong with it."""
    try:
        pem = certificate_path.read_bytes() if certificate_path else b""
        certificate = x509.load_pem_x509_certificate(pem) if pem else None
    except (OSError, ValueError):
        certificate = None
    if certificate is None:
        return None
    # The certificate may be for a name that clients elsewhere use; here the address leads to our own process.
    return TlsOptions(ca_file=certificate_path, server_name=_names_in(certificate)[0])


def _names_in(certificate: x509.Certificate) -> list[str]:
    """The host names and addresses that a certificate is for; `localhost` if it names none."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ["localhost"]
    hosts = names.get_values_for_type(x509.DNSName)
    return [*hosts, *(str(ip) for ip in names.get_values_for_type(x509.IPAddress)), "localhost"]


def _print(event: dict[str, Any]) -> None:
    print(json.dumps(event), flush=True)


VERBS: Mapping[str, Callable[[Installation], dict[str, Any]]] = {
    "up": Installation.up,
    "up --watch": Installation.watch,
    "down": Installation.down,
    "status": Installation.status,
}


def main() -> int:
    """The command. Exit codes: 0 done, 1 error, 64 wrong usage."""
    verb = " ".join(argument for argument in sys.argv[1:] if argument != "--json")
    if verb not in VERBS:
        print(__doc__, file=sys.stderr)
        return 64
    try:
        home = load_config(ServerConfig, "supervisor").home
        try:
            _print({"event": "result", **VERBS[verb](Installation(home, os.environ, _print))})
        except OSError as problem:  # a file or folder below it
            raise HomeNotWritableError(home, str(problem)) from problem
    except LuthierError as error:
        _print({"event": "error", "reason": error.reason, "message": str(error), "metadata": error.metadata})
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
