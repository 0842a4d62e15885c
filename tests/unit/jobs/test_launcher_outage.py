"""The launcher judges leases, but not those that nobody could renew."""

from __future__ import annotations

import asyncio
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import pytest
from luthierd.jobs import launcher as launcher_module
from luthierd.jobs.launcher import Launcher, _Child
from luthierd.storage.database_faults import DatabaseUnavailableError

LEASE_S = 0.4
JOB = "tenants/acme/trainingJobs/t1"


class OutageQueue:
    """Away at the first call; then it shows one job whose worker could not renew its lease meanwhile."""

    lease_s = LEASE_S

    def __init__(self) -> None:
        self.outage_time_s: float | None = None
        self.asked: list[bool] = []

    async def has_lost(self, name: str, fencing_token: int) -> bool:
        if self.outage_time_s is None:
            self.outage_time_s = time.monotonic()
            raise DatabaseUnavailableError("x", ConnectionError())
        return True

    async def cancelling(self) -> Sequence[Any]:
        return []

    async def leased_count(self, *, besides: Sequence[str] = ()) -> int:
        return 0

    async def claimable(self, limit: int, *, starting: Sequence[str] = (), with_expired: bool = True) -> Sequence[str]:
        self.asked.append(with_expired)
        return []


class Process:
    """A worker that notes when it is killed."""

    pid = 1

    def __init__(self) -> None:
        self.killed = asyncio.Event()
        self.kill_time_s = 0.0

    def kill(self) -> None:
        self.kill_time_s = self.kill_time_s or time.monotonic()
        self.killed.set()


async def test_workers_get_a_lease_time_to_renew_their_leases_after_an_outage(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher_module, "POLL_INTERVAL_S", 0.01)
    queue, process = OutageQueue(), Process()
    any_queue: Any = queue
    any_process: Any = process
    launcher = Launcher(any_queue, module="none", worker_count=1, log_folder=tmp_path)
    launcher._children[JOB] = _Child(any_process, 0)
    running = asyncio.create_task(launcher.run())
    async with asyncio.timeout(10):
        await process.killed.wait()
    running.cancel()
    assert queue.outage_time_s is not None
    assert process.kill_time_s - queue.outage_time_s >= LEASE_S
    assert queue.asked[0] is False  # queued jobs are started at once, expired leases are left alone
