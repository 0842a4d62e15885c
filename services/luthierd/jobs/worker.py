"""What every worker process does around its work: claim, heartbeat, events, finish under the fencing token."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
import signal
import sys
import threading
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from luthierd.config import ServerConfig
from luthierd.errors import InternalError, LuthierError, RetryableError
from luthierd.files import DiskFullError, disk_full_error
from luthierd.jobs.queue import Job, JobQueue, JobState, Lease, LeaseLostError
from luthierd.process import run
from luthierd.storage.blob_errors import BlobStoreUnavailableError
from luthierd.storage.database import Database
from luthierd.storage.database_faults import DatabaseUnavailableError

C = TypeVar("C", bound=ServerConfig)
T = TypeVar("T")

log = logging.getLogger(__name__)

FLUSH_INTERVAL_S = 0.2
HEARTBEAT_INTERVAL_S = 1.0
"""A cancel is heard with a heartbeat, and should leave the work some of `launcher.CANCEL_PATIENCE_S` to stop."""
MIN_PAUSE_S, MAX_PAUSE_S = 1.0, 60.0
"""Between two attempts at work that met a full disk or a store that is away: doubled each time."""
STORAGE_PATIENCE_S = ServerConfig.storage_patience_s
STORAGE_FAULTS = frozenset({DatabaseUnavailableError.reason, BlobStoreUnavailableError.reason, DiskFullError.reason})
"""Reasons of errors after which work is run again. Other services pass theirs on."""
LEASE_LOST_EXIT_CODE = 75
TERMINATED_EXIT_CODE = 143
"""128 + SIGTERM, as in shells."""


class JobCancelled(Exception):  # noqa: N818 - not an error: the work stopped on request
    """Raised by the work when it stops because of `JobContext.cancelled()`."""


class JobContext:
    """The work's view of its job. Methods are thread-safe."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._events: deque[tuple[str, dict[str, Any]]] = deque()
        self._cancel = threading.Event()
        self._emitted_count = self._written_count = 0
        self._written = threading.Condition()

    def emit(self, kind: str, data: dict[str, Any]) -> None:
        """Adds an event, written within `FLUSH_INTERVAL_S`; `progress` also replaces the job's progress.

        `data` is JSON without NaN or infinities, which PostgreSQL rejects; TypeError or ValueError otherwise.
        """
        json.dumps(data, allow_nan=False)
        self._emitted_count += 1
        self._events.append((kind, data))

    def settle(self) -> None:
        """Waits until all events so far are written. Call it from the work's thread before a checkpoint: a later worker
        continues from there and does not emit them again.
        """
        with self._written:
            self._written.wait_for(lambda: self._written_count >= self._emitted_count)

    def mark_written(self, count: int) -> None:
        """`count` more events are in the database; for `_Frame`."""
        with self._written:
            self._written_count += count
            self._written.notify_all()

    def cancelled(self) -> bool:
        """Whether the work should stop and raise JobCancelled."""
        return self._cancel.is_set()

    def raise_if_cancelled(self) -> None:
        """JobCancelled if the work should stop."""
        if self.cancelled():
            raise JobCancelled

    def take_events(self) -> list[tuple[str, dict[str, Any]]]:
        """Events that are not written yet; for `_Frame`."""
        taken = []
        with contextlib.suppress(IndexError):
            while True:
                taken.append(self._events.popleft())
        return taken

    def give_back_events(self, events: list[tuple[str, dict[str, Any]]]) -> None:
        """Puts events back that could not be written; for `_Frame`."""
        self._events.extendleft(reversed(events))

    def request_cancel(self) -> None:
        """For `_Frame`."""
        self._cancel.set()


Commit = Callable[[AsyncConnection], Awaitable[None]]
"""What the work writes in the same transaction as the job's final state."""


class Outcome:
    """The job's `result`, and what to commit with it."""

    def __init__(self, result: dict[str, Any], commit: Commit | None = None) -> None:
        self.result = result
        self.commit = commit


def run_worker(
    service: str,
    config_class: type[C],
    work: Callable[[JobContext, C, Database], Awaitable[Outcome]],
    *,
    prepare: Callable[[], object] = lambda: None,
) -> None:
    """The main function of a worker process: runs the job named on the command line. `prepare` runs before the claim,
    so it may block the event loop for longer than a lease.
    """

    async def main(config: C) -> None:
        prepare()
        database = Database.of(config, service)
        queue = JobQueue.of(config, database)
        await run_job(
            queue,
            sys.argv[1],
            lambda context: work(context, config, database),
            storage_patience_s=config.storage_patience_s,
        )
        await database.close()

    run(service, config_class, main)


async def run_job(
    queue: JobQueue,
    name: str,
    work: Callable[[JobContext], Awaitable[Outcome]],
    *,
    storage_patience_s: float = STORAGE_PATIENCE_S,
) -> None:
    """Claims and runs the job; returns immediately if another worker has it.

    An error of the work becomes the job's error, except that work which met one of STORAGE_FAULTS is run again, from
    its last checkpoint, until it has waited for `storage_patience_s` in all; that costs no attempt. A lost lease ends
    the process without another write, because another worker has the job. SIGTERM also ends the process, and returns
    the job to the queue.
    """
    lease = await queue.claim(name)
    if lease is None:
        return
    frame = _Frame(queue, lease, storage_patience_s=storage_patience_s)
    beat = asyncio.create_task(frame.keep())
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, frame.hand_back)
    try:
        await frame.finish(work)
    except LeaseLostError:
        _leave(name)
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        beat.cancel()


class _Frame:
    """Heartbeats, events and the end of one lease. Writes are serialized, so that events keep their order."""

    def __init__(self, queue: JobQueue, lease: Lease, *, storage_patience_s: float) -> None:
        self._queue = queue
        self._storage_patience_s = storage_patience_s
        self._lease = lease
        self._context = JobContext(lease.job)
        self._writing = asyncio.Lock()
        self._is_finished = False
        self._handing_back: asyncio.Task[None] | None = None

    async def keep(self) -> None:
        """Renews the lease, writes events and notices a cancel, until the work is done or the lease is lost."""
        interval_s = min(self._queue.lease_s / 5, HEARTBEAT_INTERVAL_S)
        loop = asyncio.get_running_loop()
        next_beat = loop.time()
        while not self._is_finished:
            pause_s = FLUSH_INTERVAL_S
            try:
                async with self._writing:
                    if not self._is_finished and loop.time() >= next_beat:
                        next_beat = loop.time() + interval_s
                        if await self._queue.heartbeat(self._lease) is JobState.CANCELLING:
                            self._context.request_cancel()
                    await self._flush()
            except LeaseLostError:
                _leave(self._lease.job.name)
            except (RetryableError, SQLAlchemyError, OSError):  # the database may be back before the lease expires
                log.warning("the job's state cannot be written; retrying", exc_info=True)
                next_beat, pause_s = loop.time(), interval_s
            await asyncio.sleep(pause_s)

    async def finish(self, work: Callable[[JobContext], Awaitable[Outcome]]) -> None:
        """Runs the work and writes how it ended. LeaseLostError; DatabaseUnavailableError if no end can be written."""
        try:
            outcome = await self._patiently(lambda: work(self._context), heeds_cancel=True)
            succeed = functools.partial(self._end, JobState.SUCCEEDED, result=outcome.result, commit=outcome.commit)
            await self._patiently(succeed)
        except JobCancelled:
            await self._patiently(functools.partial(self._end, JobState.CANCELLED))
        except LeaseLostError:
            raise
        except Exception as error:
            failure = describe_failure(error, self._lease.job.name)
            await self._patiently(functools.partial(self._end, JobState.FAILED, error=failure))

    async def _patiently(self, step: Callable[[], Awaitable[T]], *, heeds_cancel: bool = False) -> T:
        """The step's result. While storage is away or full the step is run again, after pauses that grow."""
        pause_s = MIN_PAUSE_S
        while True:
            try:
                return await step()
            except Exception as error:
                fault = storage_fault(error)
                if fault is None or self._storage_patience_s <= 0:
                    raise
                log.warning("waiting for storage", extra={"job": self._lease.job.name, "reason": fault.reason})
                if pause_s == MIN_PAUSE_S:
                    self._context.emit("message", {"message": f"waiting, then continuing by itself: {fault}"})
                del fault  # its trace holds the work's model
            await self._pause(pause_s, heeds_cancel=heeds_cancel)
            self._storage_patience_s -= pause_s
            pause_s = min(pause_s * 2, MAX_PAUSE_S)

    async def _pause(self, pause_s: float, *, heeds_cancel: bool) -> None:
        loop = asyncio.get_running_loop()
        end_s = loop.time() + pause_s
        while loop.time() < end_s:
            if heeds_cancel:
                self._context.raise_if_cancelled()
            await asyncio.sleep(FLUSH_INTERVAL_S)

    def hand_back(self) -> None:
        """Ends the process after releasing the lease."""
        self._handing_back = asyncio.create_task(self._release())

    async def _release(self) -> None:
        name = self._lease.job.name
        try:
            async with self._writing:
                if not self._is_finished:
                    await self._flush()
                    await self._queue.release(self._lease)
                    log.info("stopped by a signal; the next worker continues the job", extra={"job": name})
        finally:
            os._exit(TERMINATED_EXIT_CODE)  # the work may be in a thread, which nothing else stops

    async def _end(
        self,
        state: JobState,
        *,
        result: dict[str, Any] | None = None,
        error: dict[str, Any] | None = None,
        commit: Commit | None = None,
    ) -> None:
        async with self._writing:
            await self._flush()
            async with self._queue.finishing(self._lease, state, result=result, error=error) as connection:
                if commit:
                    await commit(connection)
            self._is_finished = True

    async def _flush(self) -> None:
        """Writes the pending events; they stay pending if it fails."""
        if events := self._context.take_events():
            try:
                await self._queue.emit(self._lease, events)
            except (RetryableError, SQLAlchemyError, OSError):
                self._context.give_back_events(events)
                raise
            self._context.mark_written(len(events))


def storage_fault(error: BaseException) -> LuthierError | None:
    """The storage fault that `error` is, or holds as a group of errors."""
    if isinstance(error, BaseExceptionGroup):
        return next((fault for one in error.exceptions if (fault := storage_fault(one))), None)
    if isinstance(error, LuthierError):
        return error if error.reason in STORAGE_FAULTS else None
    return disk_full_error(error)


def describe_failure(error: Exception, job: str) -> dict[str, Any]:
    """The job's `error`; an unknown exception becomes INTERNAL with an id under which the log has the trace."""
    known = error if isinstance(error, LuthierError) else storage_fault(error)
    if known is not None:
        return known.as_failure()
    error_id = uuid.uuid4().hex[:12]
    log.error("the work failed", exc_info=error, extra={"job": job, "error_id": error_id})
    message = f"internal error {error_id} ({type(error).__name__}); the worker's log has the details under this id"
    return InternalError(message, metadata={"error_id": error_id}).as_failure()


def _leave(name: str) -> None:
    log.error("the lease is lost; another worker has the job", extra={"job": name})
    os._exit(LEASE_LOST_EXIT_CODE)
