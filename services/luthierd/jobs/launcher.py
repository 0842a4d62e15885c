"""Starts workers for waiting jobs: processes that outlive the API process."""

from __future__ import annotations

import asyncio
import logging
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy.exc import SQLAlchemyError

from luthierd.config import ServerConfig
from luthierd.jobs.queue import JobQueue
from luthierd.jobs.worker import LEASE_LOST_EXIT_CODE

log = logging.getLogger(__name__)

POLL_INTERVAL_S = 0.5
CHILD_POLL_INTERVAL_S = 0.1


class _Child(NamedTuple):
    """A worker process, and the job's fencing token before it was started."""

    process: subprocess.Popen[bytes]
    token_before: int


class Launcher:
    """Runs `python -m <module> <job name>` for each waiting job, at most `worker_count` at a time on this machine.

    The environment, and so the configuration, is the API process's. A worker's output goes to `log_folder`.
    """

    def __init__(self, queue: JobQueue, *, module: str, worker_count: int, log_folder: pathlib.Path) -> None:
        self._queue = queue
        self._command: Sequence[str] = (sys.executable, "-m", module)
        self._worker_count = worker_count
        self._log_folder = log_folder
        self._supervisors: dict[str, asyncio.Task[None]] = {}
        self._children: dict[str, _Child] = {}
        self._wake = asyncio.Event()

    @classmethod
    def of(cls, config: ServerConfig, service: str, queue: JobQueue) -> Launcher:
        """Runs `luthierd.<service>.worker`."""
        return cls(
            queue,
            module=f"luthierd.{service}.worker",
            worker_count=config.worker_count,
            log_folder=config.home / f"logs/{service}-workers",
        )

    def wake(self) -> None:
        """A job was submitted: start it without waiting for the next poll."""
        self._wake.set()

    async def run(self) -> None:
        """Starts workers for waiting jobs until cancelled; they outlive it. Keeps polling if the database is down."""
        self._log_folder.mkdir(parents=True, exist_ok=True)
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    await self._kill_hung()
                    await self._launch(group)
                except (SQLAlchemyError, OSError):
                    log.warning("the queue cannot be read; retrying", exc_info=True)
                try:
                    await asyncio.wait_for(self._wake.wait(), POLL_INTERVAL_S)
                except TimeoutError:
                    continue
                self._wake.clear()

    async def _kill_hung(self) -> None:
        """Kills our workers that are alive but have lost their lease: they would block the next worker."""
        for name, child in tuple(self._children.items()):
            if await self._queue.has_lost(name, child.token_before + 1):
                log.warning("killing a worker that lost its lease", extra={"job": name, "pid": child.process.pid})
                child.process.kill()

    async def _launch(self, group: asyncio.TaskGroup) -> None:
        busy = max(len(self._supervisors), await self._queue.leased_count())
        if busy >= self._worker_count:
            return
        for name in await self._queue.claimable(self._worker_count):
            if name not in self._supervisors and busy < self._worker_count:
                busy += 1
                self._supervisors[name] = group.create_task(self._supervise(name))

    async def _supervise(self, name: str) -> None:
        """Runs one worker until it exits; if it died, releases the job immediately."""
        try:
            token_before = (await self._queue.get(name)).fencing_token
            process = self._start(name)
            self._children[name] = _Child(process, token_before)
            log.info("worker started", extra={"job": name, "pid": process.pid})
            # Not asyncio's subprocess, which kills the child when the loop closes.
            while (code := process.poll()) is None:  # noqa: ASYNC110
                await asyncio.sleep(CHILD_POLL_INTERVAL_S)
            del self._children[name]
            log.info("worker ended", extra={"job": name, "pid": process.pid, "exit_code": code})
            if code not in {0, LEASE_LOST_EXIT_CODE}:
                await self._queue.worker_died(name, token_before=token_before)
                # A worker that cannot even start must not be restarted in a tight loop.
                await asyncio.sleep(POLL_INTERVAL_S)
        except (SQLAlchemyError, OSError):  # the lease expires by itself
            log.warning("lost track of a worker", exc_info=True, extra={"job": name})
            await asyncio.sleep(POLL_INTERVAL_S)
        finally:
            del self._supervisors[name]
            self._wake.set()

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        path = self._log_folder / f"{name.replace('/', '.')}.log"
        with path.open("ab") as output:
            return subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [*self._command, name],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
