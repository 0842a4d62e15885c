"""One HTTP exchange over ASGI: its response, its failures in OpenAI's form, its end before its time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

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
from luthierd.inference.domain.errors import ReaderTooSlowError
from luthierd.inference.http.outbox import Outbox
from luthierd.rpc.status import code_of

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

CLIENT_GONE = 499
"""Status in the log of a request whose client hung up; nobody gets it (nginx's convention)."""
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
    """Not one of `ROUTES`, or not with this method."""

    reason = "ROUTE_UNKNOWN"


class BodyTooLargeError(ResourceExhaustedError):
    """A body beyond the limit."""

    reason = "BODY_TOO_LARGE"


@dataclass
class Usage:
    """Tokens of an answer, as the engine's application counts them while it makes it."""

    prompt_token_count: int = 0
    completion_token_count: int = 0


class Response:
    """Sends a response; remembers whether and when it began, and adds headers to the engine's."""

    def __init__(self, outbox: Outbox, clock: Callable[[], float] = time.monotonic) -> None:
        self.outbox, self._clock = outbox, clock
        self._arrived = clock()
        self._first_s: float | None = None
        self.status = 0
        self.is_complete = False
        self._is_event_stream = False
        self.headers: list[tuple[bytes, bytes]] = []

    @property
    def elapsed_ms(self) -> float:
        """Since the request's arrival."""
        return round((self._clock() - self._arrived) * 1000, 3)

    @property
    def ttft_s(self) -> float:
        """From the arrival to the first part of the body; 0 before it."""
        return self._first_s or 0.0

    async def __call__(self, message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            request_id = (b"x-request-id", logs.request_id.get().encode())
            own = [pair for pair in message.get("headers", ()) if pair[0].lower() != b"x-request-id"]
            message = {**message, "headers": [*own, *self.headers, request_id]}
            self._is_event_stream = dict(own).get(b"content-type", b"").startswith(b"text/event-stream")
        else:
            self.is_complete = not message.get("more_body", False)
            if self._first_s is None and message.get("body"):
                self._first_s = self._clock() - self._arrived
        await self.outbox.put(message)

    def observe(self, target: str, usage: Usage) -> None:
        """Records the tokens of an answer, and its times if it was sent to its end."""
        metrics.observe_tokens(target, prompt=usage.prompt_token_count, completion=usage.completion_token_count)
        if self._first_s is not None and self.is_complete:
            metrics.observe_times(target, ttft_s=self._first_s, latency_s=self._clock() - self._arrived)

    async def json(self, status: int, content: object, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        fields = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
        encoded = [(name.encode(), value.encode()) for name, value in fields.items()]
        await self({"type": "http.response.start", "status": status, "headers": encoded})
        await self({"type": "http.response.body", "body": body})

    async def fail(self, status: int, error: Mapping[str, object], headers: Mapping[str, str]) -> None:
        """An error in OpenAI's form; in a stream that has begun, its last event. Any other response is cut off."""
        if self.is_complete:
            return
        if self.status:
            last = f"data: {json.dumps({'error': error})}\n\n".encode() if self._is_event_stream else b""
            await self.outbox.put({"type": "http.response.body", "body": last, "more_body": False})
            return
        self.headers = []
        await self.json(status, {"error": error}, headers)


class ClientGoneError(Exception):
    """The client hung up."""


class _Client:
    """What the client does after its request: it reads, or it hangs up, or it does neither."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.is_gone = asyncio.Event()
        self.failure: Exception | None = None

    def replay(self, content: bytes) -> Receive:
        """`receive` for the application: a body in place of the one that was read, then the client's hanging up."""
        bodies = [content]

        async def replayed() -> dict[str, Any]:
            if bodies:
                return {"type": "http.request", "body": bodies.pop(), "more_body": False}
            await self.is_gone.wait()
            return {"type": "http.disconnect"}

        return replayed

    async def watch(self, response: Response, deadline: asyncio.Timeout) -> None:
        """Brings the deadline forward when the client hangs up."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not response.is_complete:  # after a response an ASGI server says the same
            self.is_gone.set()
            self._fail(ClientGoneError(), deadline)

    async def watch_reading(self, outbox: Outbox, deadline: asyncio.Timeout) -> None:
        """Brings the deadline forward when the client does not read."""
        await outbox.is_stuck.wait()
        self._fail(ReaderTooSlowError(outbox.limit_s), deadline)

    def _fail(self, failure: Exception, deadline: asyncio.Timeout) -> None:
        self.failure = self.failure or failure
        deadline.reschedule(asyncio.get_running_loop().time())


@contextlib.asynccontextmanager
async def bounded(receive: Receive, response: Response, *, limit_s: float) -> AsyncIterator[Callable[[bytes], Receive]]:
    """Cancels its block when the client hangs up or does not read, or the time is over: ClientGoneError,
    ReaderTooSlowError, DeadlineExceededError.

    Gives what makes a `receive` for the application from the body that it should see.
    """
    client = _Client(receive)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(client.is_gone.set)
        try:
            async with asyncio.timeout(limit_s) as deadline:
                for watch in (client.watch(response, deadline), client.watch_reading(response.outbox, deadline)):
                    stack.callback(asyncio.create_task(watch).cancel)
                yield client.replay
        except TimeoutError:
            if client.failure is not None:
                raise client.failure from None
            if not deadline.expired():
                raise
            raise DeadlineExceededError(
                f"the answer was not complete after the {limit_s:g} s that it may take",
                metadata={"limit_s": f"{limit_s:g}"},
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
