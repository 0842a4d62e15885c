"""Starts workers for waiting jobs: processes that outlive the API process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import psutil
from sqlalchemy.exc import SQLAlchemyError

from luthierd.config import ServerConfig
from luthierd.errors import RetryableError
from luthierd.jobs.queue import JobQueue
from luthierd.jobs.worker import LEASE_LOST_EXIT_CODE

log = logging.getLogger(__name__)

POLL_INTERVAL_S = 0.5
CHILD_POLL_INTERVAL_S = 0.1
CANCEL_PATIENCE_S = 2.5
"""What a worker gets to stop by itself. It hears of a cancel with its next heartbeat, and a cancel is promised to take
at most five seconds. One that is inside a slow native call hears nothing, and may hold the interpreter's lock."""
OUTAGE_PAUSE_S = 5.0
"""Before a job is started again whose worker met a database that is away: its start costs seconds of a core."""


class _Child(NamedTuple):
    """A worker process, and the job's fencing token before it was started."""

    process: subprocess.Popen[bytes]
    token_before: int


class Launcher:
    """Runs `python -m <module> <job name>` for each waiting job, at most `worker_count` at a time on this machine.

    The environment, and so the configuration, is the API process's. A worker's output goes to `log_folder`.
    `clean_up` gets the name of a cancelled job whose worker was killed, and removes what it left on this machine.
    """

    def __init__(
        self,
        queue: JobQueue,
        *,
        module: str,
        worker_count: int,
        log_folder: pathlib.Path,
        clean_up: Callable[[str], None] = lambda job: None,
    ) -> None:
        self._queue = queue
        self._clean_up = clean_up
        self._command: Sequence[str] = (sys.executable, "-m", module)
        self._worker_count = worker_count
        self._log_folder = log_folder
        self._supervisors: dict[str, asyncio.Task[None]] = {}
        self._children: dict[str, _Child] = {}
        self._cancel_seen: dict[str, float] = {}
        self._wake = asyncio.Event()
        self._judges_leases_at_s = 0.0

    @property
    def _judges_leases(self) -> bool:
        """Not within a lease time after the database was away: no worker could renew its lease meanwhile."""
        return time.monotonic() >= self._judges_leases_at_s

    @classmethod
    def of(
        cls, config: ServerConfig, service: str, queue: JobQueue, *, clean_up: Callable[[str], None] = lambda job: None
    ) -> Launcher:
        """Runs `luthierd.<service>.worker`."""
        return cls(
            queue,
            module=f"luthierd.{service}.worker",
            worker_count=config.worker_count,
            log_folder=config.home / f"logs/{service}-workers",
            clean_up=clean_up,
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
                    await self._end_cancelled()
                    await self._launch(group)
                except (RetryableError, SQLAlchemyError, OSError):
                    log.warning("the queue cannot be read; retrying", exc_info=True)
                    self._judges_leases_at_s = time.monotonic() + self._queue.lease_s
                try:
                    await asyncio.wait_for(self._wake.wait(), POLL_INTERVAL_S)
                except TimeoutError:
                    continue
                self._wake.clear()

    async def _kill_hung(self) -> None:
        """Kills our workers that are alive but have lost their lease: they would block the next worker."""
        if not self._judges_leases:
            return
        for name, child in tuple(self._children.items()):
            if await self._queue.has_lost(name, child.token_before + 1):
                log.warning("killing a worker that lost its lease", extra={"job": name, "pid": child.process.pid})
                child.process.kill()

    async def _end_cancelled(self) -> None:
        """Ends cancelled jobs whose workers do not stop, or are gone: also workers that an earlier API process started.

        What such a worker wrote is whole: blobs appear when complete, and results are committed with the final state.
        """
        now, cancelling = time.monotonic(), await self._queue.cancelling()
        self._cancel_seen = {job.name: self._cancel_seen.get(job.name, now) for job in cancelling}
        for job in cancelling:
            if self._queue.is_here(job) and job.worker_pid is not None:
                if now - self._cancel_seen[job.name] < CANCEL_PATIENCE_S:
                    continue
                log.warning("ending a worker that did not stop", extra={"job": job.name, "pid": job.worker_pid})
                await asyncio.to_thread(_kill, job.worker_pid, job.name)
                await asyncio.to_thread(self._clean_up, job.name)
            await self._queue.end_cancelled(job)

    async def _launch(self, group: asyncio.TaskGroup) -> None:
        started = tuple(self._supervisors)
        free_count = self._worker_count - len(started) - await self._queue.leased_count(besides=started)
        if free_count <= 0:
            return
        names = await self._queue.claimable(free_count, starting=started, with_expired=self._judges_leases)
        for name in names:
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
        except (RetryableError, SQLAlchemyError, OSError):  # the lease expires by itself
            log.warning("lost track of a worker", exc_info=True, extra={"job": name})
            await asyncio.sleep(OUTAGE_PAUSE_S)
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
                env=worker_environment(self._worker_count),
            )


def worker_environment(worker_count: int) -> dict[str, str]:
    """The environment of this process; several workers share the cores, unless it sets OMP_NUM_THREADS.

    Two workers with a thread per core each, which spin while they wait for each other's threads, are slower than one.
    """
    environment = dict(os.environ)
    if worker_count > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // worker_count)))
    return environment


def _kill(pid: int, job: str) -> None:
    """Kills the worker of a job and what it started, unless the id belongs to another process by now."""
    with contextlib.suppress(psutil.Error):
        worker = psutil.Process(pid)
        if job in worker.cmdline():
            for process in [*worker.children(recursive=True), worker]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
