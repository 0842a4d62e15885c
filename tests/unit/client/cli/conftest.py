"""The command against canned services."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from luthier.cli import main
from luthier.services import SERVICES
from support.canned import Canned, serving


@dataclass
class Run:
    """What a command line did."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Its output as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


Luthier = Callable[..., Awaitable[Run]]


@pytest.fixture
async def services(tmp_path, monkeypatch) -> AsyncIterator[Canned]:
    """Canned services, and an installation file that leads to them."""
    canned = Canned()
    async with serving(canned) as address:
        _install(address, tmp_path, monkeypatch)
        yield canned


def _install(address, tmp_path, monkeypatch) -> None:
    home = tmp_path / "home"
    (home / "run").mkdir(parents=True)
    found = {"services": {name: {"pid": 1, "address": address} for name in SERVICES}}
    (home / "run" / "installation.json").write_text(json.dumps(found))
    for variable in ("LUTHIER_ENDPOINT", "LUTHIER_TENANT", "LUTHIER_PROFILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("LUTHIER_HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("LUTHIER_TENANT", "acme")
    monkeypatch.setenv("LUTHIER_TOKEN", "a-token")


@pytest.fixture
def luthier(capsys) -> Luthier:
    """Runs a command line in this process, on a thread: the services are on this test's loop."""

    async def run(*arguments: object) -> Run:
        capsys.readouterr()
        code = await asyncio.to_thread(main.run, [str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Run(code, captured.out, captured.err)

    return run
