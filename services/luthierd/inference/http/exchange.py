"""One HTTP exchange: its response, its errors in OpenAI's format, and its limits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive

from luthierd import logs
from luthierd.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    LuthierError,
    RetryableError,
)
from luthierd.inference import metrics
from luthierd.inference.domain.completion import Origin, Target, TokenUsage
from luthierd.inference.domain.errors import ReaderTooSlowError
from luthierd.inference.http.outbox import Outbox
from luthierd.rpc.status import MAX_MESSAGE_BYTES, MAX_VALUE_BYTES, code_of, shortened

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
STATUS_OF_REASON = {
    "ROUTE_UNKNOWN": 404,
    "METHOD_UNKNOWN": 405,
    "BODY_TOO_LARGE": 413,
    "ENGINE_CANNOT_EMBED": 501,
    "ENGINE_SERVES_NO_HTTP": 501,
    "REQUEST_UNSUPPORTED": 501,
}
"""Reasons for which HTTP has a more exact status."""
CODE_OF_REASON = {
    "PROMPT_TOO_LONG": "context_length_exceeded",
    **dict.fromkeys(("DEPLOYMENT_NOT_FOUND", "BASE_MODEL_NOT_FOUND", "ADAPTER_REVISION_NOT_FOUND"), "model_not_found"),
}
"""OpenAI's own codes, which clients know."""


class RouteUnknownError(InvalidArgumentError):
    """No such route."""

    reason = "ROUTE_UNKNOWN"


class MethodUnknownError(InvalidArgumentError):
    """The route exists, but not with this method."""

    reason = "METHOD_UNKNOWN"

    def __init__(self, method: str, path: str, allowed: str) -> None:
        super().__init__(f"{path} takes {allowed}, not {method}", metadata={"path": path, "allow": allowed})


class BodyTooLargeError(InvalidArgumentError):
    """The body exceeds the limit."""

    reason = "BODY_TOO_LARGE"

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"the body is larger than {max_bytes} bytes", metadata={"limit": str(max_bytes)})


@dataclass(frozen=True, kw_only=True)
class Asked:
    """An authorised request with checked fields: whose weights should answer what."""

    route: str
    body: Mapping[str, Any]
    target: Target
    tenant: str
    session_id: str

    @property
    def model(self) -> str:
        """As the caller names it, and the answer."""
        return str(self.body["model"])


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The body. ClientDisconnect, BodyTooLargeError."""
    content = bytearray()
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > max_bytes:
        raise BodyTooLargeError(max_bytes)
    async for part in request.stream():
        content += part
        if len(content) > max_bytes:
            raise BodyTooLargeError(max_bytes)
    return bytes(content)


def origin_headers(origin: Origin, response_id: str) -> dict[str, str]:
    """Who answered."""
    return {
        "x-luthier-loaded-adapter": origin.loaded_adapter,
        "x-luthier-deployment-revision": str(origin.deployment_revision),
        "x-luthier-response-id": response_id,
    }


class Reply:
    """Sends a response, with additional `headers`; records whether and when it began."""

    def __init__(self, outbox: Outbox, clock: Callable[[], float] = time.monotonic) -> None:
        self.outbox, self._clock = outbox, clock
        self._arrived_s = clock()
        self._first_s: float | None = None
        self.status = 0
        self.is_complete = False
        self.byte_count = 0
        self.has_typed_events = False
        """/v1/responses has events with types and numbers."""
        self._event_count, self._is_event_stream = 0, False
        self.seen: dict[str, str] = {}
        """What the log says of the request, in addition."""
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
            self.byte_count += len(message.get("body", b""))
            self._event_count += 1
            if self._first_s is None and message.get("body"):
                self._first_s = self.elapsed_s
        await self.outbox.put(message)

    def observe(self, target: str, usage: TokenUsage) -> None:
        """Records the tokens of an answer, and its times if it was sent completely."""
        metrics.observe_tokens(target, prompt=usage.prompt_token_count, completion=usage.completion_token_count)
        if self._first_s is not None and self.is_complete:
            metrics.observe_times(target, ttft_s=self._first_s, latency_s=self.elapsed_s)

    async def send(self, status: int, content: Any, headers: Mapping[str, str] | None = None) -> None:
        """A whole response; `content` None has no body."""
        body = b"" if content is None else json.dumps(content).encode()
        response = Response(body, status, headers, media_type=None if content is None else "application/json")
        await self({"type": "http.response.start", "status": status, "headers": response.raw_headers})
        await self({"type": "http.response.body", "body": body})

    async def fail(self, error: LuthierError) -> None:
        """An error in OpenAI's format; in a stream that has begun, the last event. Other responses are cut off."""
        if self.is_complete:
            return
        status, described, headers = failure_of(error)
        if not self.status:
            self.headers = {}
            await self.send(status, {"error": described}, headers)
            return
        event: dict[str, Any] = {"error": described}
        if self.has_typed_events:
            event |= {**described, "type": "error", "sequence_number": self._event_count}
        name = "event: error\n" if self.has_typed_events else ""
        last = f"{name}data: {json.dumps(event)}\n\n".encode() if self._is_event_stream else b""
        await self.outbox.put({"type": "http.response.body", "body": last, "more_body": False})


class _Client:
    """What the client does after its request: it reads, or disconnects, or neither."""

    def __init__(self, receive: Receive, reply: Reply, deadline: asyncio.Timeout) -> None:
        self._receive, self._reply, self._deadline = receive, reply, deadline
        self.failure: Exception | None = None

    async def watch_connection(self) -> None:
        """Brings the deadline forward when the client disconnects."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._reply.is_complete:  # after a response, an ASGI server sends the same message
            self._fail(ClientDisconnect())

    async def watch_reading(self) -> None:
        """Brings the deadline forward when the client does not read."""
        await self._reply.outbox.is_stuck.wait()
        self._fail(ReaderTooSlowError(limit_s=self._reply.outbox.limit_s))

    def _fail(self, failure: Exception) -> None:
        self.failure = self.failure or failure
        self._deadline.reschedule(asyncio.get_running_loop().time())


@contextlib.asynccontextmanager
async def bounded(receive: Receive, reply: Reply, *, limit_s: float) -> AsyncIterator[None]:
    """Cancels its block if the client disconnects or does not read, or after `limit_s`: ClientDisconnect,
    ReaderTooSlowError, DeadlineExceededError.
    """
    deadline = asyncio.timeout(limit_s)
    client = _Client(receive, reply, deadline)
    async with contextlib.AsyncExitStack() as stack:
        try:
            async with deadline:
                for watch in (client.watch_connection(), client.watch_reading()):
                    stack.callback(asyncio.create_task(watch).cancel)
                yield
        except TimeoutError:
            if client.failure is not None:
                raise client.failure from None
            if not deadline.expired():
                raise
            raise DeadlineExceededError(
                f"the answer was not complete after its limit of {limit_s:g} s", metadata={"limit_s": f"{limit_s:g}"}
            ) from None


def failure_of(error: LuthierError) -> tuple[int, dict[str, object], dict[str, str]]:
    """Status, OpenAI error object and headers. `code` is OpenAI's own where it has one, `reason` is always ours."""
    status, kind = HTTP_STATUS.get(code_of(error).name, (500, "internal_error"))
    status = STATUS_OF_REASON.get(error.reason, status)
    headers = {"retry-after": str(max(1, math.ceil(error.retry_after_s)))} if isinstance(error, RetryableError) else {}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, MethodUnknownError):
        headers["allow"] = error.metadata["allow"]
    param = None
    if isinstance(error, InvalidArgumentError) and error.violations:
        param = shortened(error.violations[0].field, MAX_VALUE_BYTES)
    code, message = CODE_OF_REASON.get(error.reason, error.reason), shortened(str(error), MAX_MESSAGE_BYTES)
    return status, {"message": message, "type": kind, "code": code, "param": param, "reason": error.reason}, headers
