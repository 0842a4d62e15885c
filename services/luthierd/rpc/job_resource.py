"""`Get`, `List`, `Cancel` and `Watch` of a resource that is a job, for its servicer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

from google.protobuf import message_factory
from google.protobuf.message import Message

from luthierd.jobs.events import watch
from luthierd.jobs.queue import JobEvent, JobQueue, JobState
from luthierd.paging import Page
from luthierd.rpc.wire import enum_to_proto, page_to_proto, timestamp

M = TypeVar("M", bound=Message)
T = TypeVar("T")


class Jobs(Protocol[T]):
    """The use cases."""

    async def get(self, name: str) -> T: ...

    async def list(self, parent: str, page_size: int, page_token: str) -> Page[T]: ...

    async def cancel(self, name: str) -> T: ...


class JobResource(Generic[T]):
    """Answers the four methods; `response` is the type of the answer, whose field 1 is the resource (or the list)."""

    def __init__(
        self, jobs: Jobs[T], queue: JobQueue, stopping: asyncio.Event, *, to_proto: Callable[[T], Message]
    ) -> None:
        self._jobs = jobs
        self._queue = queue
        self._stopping = stopping
        self._to_proto = to_proto

    async def get(self, request: Any, response: type[M]) -> M:
        return self.answer(response, await self._jobs.get(request.name))

    async def list(self, request: Any, response: type[M], *, to_proto: Callable[[T], Message] | None = None) -> M:
        page = await self._jobs.list(request.parent, request.page_size, request.page_token)
        return page_to_proto(response, page, to_proto or self._to_proto)

    async def cancel(self, request: Any, response: type[M]) -> M:
        return self.answer(response, await self._jobs.cancel(request.name))

    async def watch(
        self, request: Any, response: type[M], event_to_proto: Callable[[JobEvent | None], Message | None]
    ) -> AsyncIterator[M]:
        """Events after `after_event_id` until the job is final or the server stops, with heartbeats in between."""
        await self._jobs.get(request.name)  # raises the resource's own error for a name that does not exist
        after = request.after_event_id
        async for event in watch(self._queue, request.name, after_event_id=after, stopping=self._stopping):
            if (message := event_to_proto(event)) is not None:
                yield response(event=message)

    def answer(self, response: type[M], job: T) -> M:
        """The answer that contains the resource."""
        return response(**{response.DESCRIPTOR.fields_by_number[1].name: self._to_proto(job)})


def event_to_proto(
    kind: type[M],
    event: JobEvent | None,
    *,
    progress: Callable[[Mapping[str, Any]], Message] | None = None,
    state: Callable[[JobState], int] | None = None,
) -> M | None:
    """`event` as a message of type `kind`; None is a heartbeat. None for an event that `kind` has no field for.

    `state`: the value of the job's state, where its name is another one.
    """
    fields: Any = kind.DESCRIPTOR.fields_by_name
    if event is None:
        heartbeat = message_factory.GetMessageClass(fields["heartbeat"].message_type)
        return kind(heartbeat=heartbeat(), create_time=timestamp(time.time()))
    if event.kind not in fields:
        return None
    if event.kind == "state":
        reached = JobState(event.data["state"])
        value: Any = state(reached) if state else enum_to_proto(fields["state"].enum_type, reached)
    else:
        value = progress(event.data) if progress and event.kind == "progress" else event.data["message"]
    return kind(event_id=event.event_id, create_time=timestamp(event.create_time), **{event.kind: value})
