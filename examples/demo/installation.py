"""A separate installation for the demo: its own folder and free loopback ports."""

from __future__ import annotations

import json
import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from luthier.services import SERVICES

from examples.demo.tenants import LIBRARIES


class InstallationError(Exception):
    """The services could not be started; the message says which and what to do."""


class Installation:
    """The four services in `home`, started and stopped like `luthier up` and `luthier down`."""

    def __init__(self, home: pathlib.Path) -> None:
        self.home = home
        names = [variable for spec in SERVICES.values() for variable in spec.port_by_variable]
        self.environment = {
            **os.environ,
            "LUTHIER_HOME": str(home),
            "LUTHIER_WORKER_COUNT": str(len(LIBRARIES)),  # the tenants' jobs run at the same time
            **{name: str(port) for name, port in zip(names, _free_ports(len(names)), strict=True)},
        }

    def up(self, on_event: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Starts what is not running and waits until all four serve. Raises InstallationError."""
        return self._run("up", on_event)

    def down(self) -> dict[str, Any]:
        """Stops all of it."""
        return self._run("down", lambda event: None)

    def _run(self, verb: str, on_event: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        command = [sys.executable, "-m", "luthierd.supervisor", verb, "--json"]
        result: dict[str, Any] = {"event": "error", "message": "the supervisor said nothing"}
        with subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout or ():
                result = json.loads(line)
                on_event(result)
        if result["event"] == "error":
            raise InstallationError(result["message"])
        return result


def _free_ports(count: int) -> list[int]:
    """Distinct ports that are free now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()
