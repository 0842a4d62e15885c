"""One HTTP exchange: its response, its errors in OpenAI's format, and its limits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import Message, Receive

from luthierd import logs
from luthierd.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    LuthierError,
    PermissionDeniedError,
    ResourceExhaustedError,
    RetryableError,
)
from luthierd.inference import metrics
from luthierd.inference.domain.completion import TokenUsage
from luthierd.inference.domain.errors import ReaderTooSlowError
from luthierd.inference.http.outbox import Outbox
from luthierd.rpc.status import code_of

HTTP_STATUS = {
    "INVALID_ARGUMENT": (400, "invalid_request_error"),
    "UNAUTHENTICATED": (401, "authentication_error"),
    "PERMISSION_DENIED": (403, "permission_error"),
    "NOT_FOUND": (404, "not_found_error"),
    "FAILED_PRECONDITION": (409, "conflict_error"),
    "ABORTED": (409, "conflict_error"),
    "RESOURCE_EXHAUSTED": (429, "rate_limit_error"),
    "UNAVAILABLE": (503, "service_unavailable_error"),
    "DEADLINE_EXCEEDED": (504, "timeout_error"),
}


class RouteUnknownError(PermissionDeniedError):
    """No such route, or not with this method."""

    reason = "ROUTE_UNKNOWN"


class BodyTooLargeError(ResourceExhaustedError):
    """The body exceeds the limit."""

    reason = "BODY_TOO_LARGE"


class Reply:
    """Sends a response, with additional `headers`; records whether and when it began."""

    def __init__(self, outbox: Outbox, clock: Callable[[], float] = time.monotonic) -> None:
        self.outbox, self._clock = outbox, clock
        self._arrived_s = clock()
        self._first_s: float | None = None
        self.status = 0
        self.is_complete = False
        self._is_event_stream = False
        self.headers: dict[str, str] = {}

    @property
    def elapsed_s(self) -> float:
        return self._clock() - self._arrived_s

    @property
    def ttft_s(self) -> float:
        """From the arrival to the first part of the body; 0 before it."""
        return self._first_s or 0.0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(raw=list(message.get("headers", ())))
            self._is_event_stream = headers.get("content-type", "").startswith("text/event-stream")
            headers.update({**self.headers, "x-request-id": logs.request_id.get()})
            message = {**message, "headers": headers.raw}
        else:
            self.is_complete = not message.get("more_body", False)
            if self._first_s is None and message.get("body"):
                self._first_s = self.elapsed_s
        await self.outbox.put(message)

    def observe(self, target: str, usage: TokenUsage) -> None:
        """Records the tokens of an answer, and its times if it was sent completely."""
        metrics.observe_tokens(target, prompt=usage.prompt_token_count, completion=usage.completion_token_count)
        if self._first_s is not None and self.is_complete:
            metrics.observe_times(target, ttft_s=self._first_s, latency_s=self.elapsed_s)

    async def send(self, response: JSONResponse) -> None:
        await self({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
        await self({"type": "http.response.body", "body": response.body})

    async def fail(self, status: int, error: Mapping[str, object], headers: Mapping[str, str]) -> None:
        """An error in OpenAI's format; in a stream that has begun, the last event. Other responses are cut off."""
        if self.is_complete:
            return
        if self.status:
            last = f"data: {json.dumps({'error': error})}\n\n".encode() if self._is_event_stream else b""
            await self.outbox.put({"type": "http.response.body", "body": last, "more_body": False})
            return
        self.headers = {}
        await self.send(JSONResponse({"error": error}, status, headers))


class _Client:
    """What the client does after its request: it reads, or disconnects, or neither."""

    def __init__(self, receive: Receive, reply: Reply, deadline: asyncio.Timeout) -> None:
        self._receive, self._reply, self._deadline = receive, reply, deadline
        self.is_gone = asyncio.Event()
        self.failure: Exception | None = None

    def replay(self, content: bytes) -> Receive:
        """`receive` for the engine's application: `content` in place of the body, then the disconnect."""
        bodies = [content]

        async def replayed() -> Message:
            if bodies:
                return {"type": "http.request", "body": bodies.pop(), "more_body": False}
            await self.is_gone.wait()
            return {"type": "http.disconnect"}

        return replayed

    async def watch_connection(self) -> None:
        """Brings the deadline forward when the client disconnects."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._reply.is_complete:  # after a response, an ASGI server sends the same message
            self.is_gone.set()
            self._fail(ClientDisconnect())

    async def watch_reading(self) -> None:
        """Brings the deadline forward when the client does not read."""
        await self._reply.outbox.is_stuck.wait()
        self._fail(ReaderTooSlowError(limit_s=self._reply.outbox.limit_s))

    def _fail(self, failure: Exception) -> None:
        self.failure = self.failure or failure
        self._deadline.reschedule(asyncio.get_running_loop().time())


@contextlib.asynccontextmanager
async def bounded(receive: Receive, reply: Reply, *, limit_s: float) -> AsyncIterator[Callable[[bytes], Receive]]:
    """Cancels its block if the client disconnects or does not read, or after `limit_s`: ClientDisconnect,
    ReaderTooSlowError, DeadlineExceededError.

    Yields what makes `receive` for the engine's application from the body that it should see.
    """
    deadline = asyncio.timeout(limit_s)
    client = _Client(receive, reply, deadline)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(client.is_gone.set)
        try:
            async with deadline:
                for watch in (client.watch_connection(), client.watch_reading()):
                    stack.callback(asyncio.create_task(watch).cancel)
                yield client.replay
        except TimeoutError:
            if client.failure is not None:
                raise client.failure from None
            if not deadline.expired():
                raise
            raise DeadlineExceededError(
                f"the answer was not complete after its limit of {limit_s:g} s", metadata={"limit_s": f"{limit_s:g}"}
            ) from None


def failure_of(error: LuthierError) -> tuple[int, dict[str, object], dict[str, str]]:
    """Status, OpenAI error object and headers."""
    if isinstance(error, RouteUnknownError):
        status, kind = 404, "not_found_error"
    else:
        status, kind = HTTP_STATUS.get(code_of(error).name, (500, "internal_error"))
    headers = {"retry-after": str(max(1, math.ceil(error.retry_after_s)))} if isinstance(error, RetryableError) else {}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    param = error.violations[0].field if isinstance(error, InvalidArgumentError) and error.violations else None
    return status, {"message": str(error), "type": kind, "code": error.reason, "param": param}, headers
