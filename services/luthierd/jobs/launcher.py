"""Starts workers for waiting jobs: processes of their own that outlive the API process."""

from __future__ import annotations

import asyncio
import logging
import pathlib
import sys
from collections.abc import Sequence

from luthierd.jobs.queue import JobQueue

log = logging.getLogger(__name__)

POLL_INTERVAL_S = 0.5


class Launcher:
    """Runs `python -m <module> <job name>` for each waiting job, at most `worker_count` at a time on this machine.

    The environment, and so the configuration, is the API process's. A worker's stderr goes to `log_folder`.
    """

    def __init__(self, queue: JobQueue, *, module: str, worker_count: int, log_folder: pathlib.Path) -> None:
        self._queue = queue
        self._command: Sequence[str] = (sys.executable, "-m", module)
        self._worker_count = worker_count
        self._log_folder = log_folder
        self._children: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """A job was submitted: do not wait for the next look."""
        self._wake.set()

    async def run(self) -> None:
        """Looks for waiting jobs until cancelled. Workers go on."""
        self._log_folder.mkdir(parents=True, exist_ok=True)
        while True:
            await self._launch()
            try:
                await asyncio.wait_for(self._wake.wait(), POLL_INTERVAL_S)
            except TimeoutError:
                continue
            self._wake.clear()

    async def _launch(self) -> None:
        busy = max(len(self._children), await self._queue.leased_count())
        if busy >= self._worker_count:
            return
        for name in await self._queue.claimable(self._worker_count):
            if name not in self._children and busy < self._worker_count:
                busy += 1
                self._children[name] = asyncio.create_task(self._supervise(name))

    async def _supervise(self, name: str) -> None:
        """Runs one worker to its end; if it died over the job, the job is free at once."""
        path = self._log_folder / f"{name.replace('/', '.')}.log"
        try:
            with path.open("ab") as output:
                process = await asyncio.create_subprocess_exec(
                    *self._command,
                    name,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            log.info("worker started", extra={"job": name, "pid": process.pid})
            code = await process.wait()
            log.info("worker ended", extra={"job": name, "pid": process.pid, "exit_code": code})
            if code != 0:
                await self._queue.expire_lease(name)
                await asyncio.sleep(
                    POLL_INTERVAL_S
                )  # a worker that cannot even start must not be restarted in a tight loop
        finally:
            del self._children[name]
            self._wake.set()
