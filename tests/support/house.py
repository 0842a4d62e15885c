"""A whole installation: the four services as processes below one home folder."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
from collections.abc import AsyncIterator

import psutil
from luthier import AsyncClient, profiles, tokens
from luthier.services import SERVICES
from luthierd.running import processes_of
from luthierd.supervisor import Installation

from support.ports import free_ports


class House:
    """An installation with the means to kill it. `settings` are variables of its services."""

    def __init__(self, home: pathlib.Path, models: pathlib.Path, **settings: str) -> None:
        names = [variable for spec in SERVICES.values() for variable in spec.port_by_variable]
        self.home = home
        self.environment = {
            **dict(zip(names, map(str, free_ports(len(names))), strict=True)),
            "LUTHIER_HOME": str(home),
            "LUTHIER_TRAINER_IMPORT_ROOTS": str(models),
            "LUTHIER_LEASE_S": "5",
            **settings,
        }
        self.installation = Installation(home, {**inherited(), **self.environment}, lambda event: None)

    def kill(self) -> int:
        """SIGKILL to every process of the installation, workers and engine included; how many there were."""
        services = self.installation.status()["services"].values()
        workers = [process for _, process in processes_of(self.home, {f"luthierd.{name}.worker" for name in SERVICES})]
        roots = [psutil.Process(service["pid"]) for service in services] + workers
        processes = {child for root in roots for child in [root, *root.children(recursive=True)]}
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        psutil.wait_procs(list(processes), timeout=30)
        return len(processes)

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[AsyncClient]:
        profile = profiles.resolve(tenant="acme", env=self.environment)
        assert profile.signing_key is not None
        async with AsyncClient(profile.endpoints, tokens.local_source(profile.signing_key, tenant="acme")) as client:
            yield client


def inherited() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("LUTHIER_")}
