"""The frame of every worker process: claim, heartbeat, work, finish under the fencing token."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from luthierd.errors import LuthierError
from luthierd.jobs.queue import Job, JobQueue, JobState, Lease, LeaseLostError
from luthierd.rpc.status import code_of

log = logging.getLogger(__name__)

FLUSH_INTERVAL_S = 0.2
LEASE_LOST_EXIT_CODE = 75


class JobCancelled(Exception):  # noqa: N818 - not an error: the work was asked to stop and did
    """Raised by the work when it has seen `JobContext.cancelled()` and has stopped."""


class JobContext:
    """What the work sees of its job. Every method may be called from any thread."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._events: deque[tuple[str, dict[str, Any]]] = deque()
        self._cancel = threading.Event()

    def emit(self, kind: str, data: dict[str, Any]) -> None:
        """Tells watchers; `progress` replaces the job's progress. Written within `FLUSH_INTERVAL_S`."""
        self._events.append((kind, data))

    def cancelled(self) -> bool:
        """Whether the work should stop now and raise JobCancelled."""
        return self._cancel.is_set()

    def raise_if_cancelled(self) -> None:
        """JobCancelled if the work should stop now."""
        if self.cancelled():
            raise JobCancelled

    def take_events(self) -> list[tuple[str, dict[str, Any]]]:
        """The events not yet written; for the frame."""
        taken = []
        with contextlib.suppress(IndexError):
            while True:
                taken.append(self._events.popleft())
        return taken

    def request_cancel(self) -> None:
        """For the frame."""
        self._cancel.set()


Commit = Callable[[AsyncConnection], Awaitable[None]]
"""What the work writes in the same transaction as the job's final state."""


class Outcome:
    """What the work made: the job's `result`, and what to commit with it."""

    def __init__(self, result: dict[str, Any], commit: Commit | None = None) -> None:
        self.result = result
        self.commit = commit


async def run_job(queue: JobQueue, name: str, work: Callable[[JobContext], Awaitable[Outcome]]) -> None:
    """Claims `name` and does it; returns at once if another worker has it.

    An error of the work becomes the job's error. A lost lease ends the process without a further write:
    another worker is at it already.
    """
    lease = await queue.claim(name)
    if lease is None:
        return
    context = JobContext(lease.job)
    beat = asyncio.create_task(_keep(queue, lease, context))
    try:
        await _finish(queue, lease, context, work)
    except LeaseLostError:
        _leave(name)
    finally:
        beat.cancel()


async def _finish(
    queue: JobQueue, lease: Lease, context: JobContext, work: Callable[[JobContext], Awaitable[Outcome]]
) -> None:
    try:
        outcome = await work(context)
        await queue.emit(lease, context.take_events())
        async with queue.finishing(lease, JobState.SUCCEEDED, result=outcome.result) as connection:
            if outcome.commit:
                await outcome.commit(connection)
    except JobCancelled:
        await queue.emit(lease, context.take_events())
        async with queue.finishing(lease, JobState.CANCELLED):
            pass
    except LeaseLostError:
        raise
    except Exception as error:
        failure = describe_failure(error, lease.job.name)
        await queue.emit(lease, context.take_events())
        async with queue.finishing(lease, JobState.FAILED, error=failure):
            pass


def describe_failure(error: Exception, job: str) -> dict[str, Any]:
    """The job's `error`: ours as it is, anything else as INTERNAL with an id under which the log has the trace."""
    if isinstance(error, LuthierError):
        return {"code": code_of(error).name, "reason": error.reason, "message": str(error), "metadata": error.metadata}
    error_id = uuid.uuid4().hex[:12]
    log.error("the work failed", exc_info=error, extra={"job": job, "error_id": error_id})
    message = f"internal error {error_id} ({type(error).__name__}); the worker's log has the details under this id"
    return {"code": "INTERNAL", "reason": "INTERNAL", "message": message, "metadata": {"error_id": error_id}}


async def _keep(queue: JobQueue, lease: Lease, context: JobContext) -> None:
    """Renews the lease, writes events and hears of a cancel, until the work is done."""
    interval_s = min(queue.lease_s / 5, 2.0)
    loop = asyncio.get_running_loop()
    next_beat = loop.time()
    try:
        while True:
            if events := context.take_events():
                await queue.emit(lease, events)
            if loop.time() >= next_beat:
                next_beat = loop.time() + interval_s
                if await queue.heartbeat(lease) is JobState.CANCELLING:
                    context.request_cancel()
            await asyncio.sleep(FLUSH_INTERVAL_S)
    except LeaseLostError:
        _leave(lease.job.name)


def _leave(name: str) -> None:
    log.error("the lease is lost; another worker has the job", extra={"job": name})
    os._exit(LEASE_LOST_EXIT_CODE)
