"""What every call goes through, for all four kinds of method: middlewares, written as context managers.

Order, outermost first: in flight, request id, log, metrics, errors, auth, places, deadline. Only then the call's first
message is read: a caller without a token holds nothing, and one without a message meets the deadline. `/grpc.*` methods
(health, reflection) need no token; `rpc/public.py` bounds them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import grpc

from luthierd import logs
from luthierd.errors import DeadlineExceededError, InternalError, LuthierError, NotFoundError, ResourceExhaustedError
from luthierd.files import disk_full_error
from luthierd.rpc import metrics
from luthierd.rpc.auth import TokenVerifier, current_principal, set_principal
from luthierd.rpc.contract import Context, Method
from luthierd.rpc.public import PublicCalls
from luthierd.rpc.requests import accept_each, accept_one
from luthierd.rpc.status import abort_with, code_of
from luthierd.storage.tombstones import Tombstones

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Call:
    """One call, as the middlewares see it."""

    service: str
    method: Method
    kind: str
    context: Context
    metadata: dict[str, str]
    code: grpc.StatusCode = grpc.StatusCode.OK


Middleware = Callable[[Call], AbstractAsyncContextManager[None]]


class InFlight:
    """Counts handlers that have not finished. `server.stop()` returns before aborted ones have (grpc#37239)."""

    def __init__(self) -> None:
        self._count = 0
        self.idle = asyncio.Event()
        self.idle.set()

    @contextlib.asynccontextmanager
    async def __call__(self, call: Call) -> AsyncIterator[None]:
        self._count += 1
        self.idle.clear()
        gauge = metrics.rpc_in_flight.labels(call.service)
        gauge.inc()
        try:
            yield
        finally:
            gauge.dec()
            self._count -= 1
            if self._count == 0:
                self.idle.set()


@contextlib.asynccontextmanager
async def with_request_id(call: Call) -> AsyncIterator[None]:
    """Uses the caller's `x-request-id` or makes one; every log line of the call and the trailer have it."""
    given = call.metadata.get("x-request-id", "")
    value = given if 0 < len(given) <= 64 and given.isascii() and given.isprintable() else uuid.uuid4().hex
    logs.request_id.set(value)
    call.context.set_trailing_metadata((("x-request-id", value),))
    yield


@contextlib.asynccontextmanager
async def logged(call: Call) -> AsyncIterator[None]:
    """Logs one line per call, at its end."""
    start = time.monotonic()
    try:
        yield
    finally:
        elapsed_ms = round((time.monotonic() - start) * 1000, 3)
        log.info("rpc", extra={"method": call.method.name, "code": call.code.name, "elapsed_ms": elapsed_ms})


@contextlib.asynccontextmanager
async def measured(call: Call) -> AsyncIterator[None]:
    """Records the duration and status of the call."""
    start = time.monotonic()
    try:
        yield
    finally:
        labels = (call.service, call.method.name, call.kind, call.code.name)
        metrics.rpc_seconds.labels(*labels).observe(time.monotonic() - start)


def translating_errors(domain: str) -> Middleware:
    """Ends a failing call with the status of its error.

    An unknown error becomes INTERNAL with an id under which the log has the trace.
    """

    @contextlib.asynccontextmanager
    async def around(call: Call) -> AsyncIterator[None]:
        try:
            yield
        except LuthierError as error:
            call.code = code_of(error)
            await abort_with(call.context, error, domain)
        except (asyncio.CancelledError, GeneratorExit):
            call.code = grpc.StatusCode.CANCELLED
            raise
        except grpc.aio.AbortError:
            call.code = _status_code(call.context)
            raise
        except Exception as error:
            if (full := disk_full_error(error)) is not None:
                call.code = code_of(full)
                await abort_with(call.context, full, domain)
            error_id = uuid.uuid4().hex[:12]
            call.code = grpc.StatusCode.INTERNAL
            log.exception("internal error", extra={"method": call.method.name, "error_id": error_id})
            message = f"internal error {error_id}; the server's log has the details under this id"
            await abort_with(call.context, InternalError(message, metadata={"error_id": error_id}), domain)

    return around


class TooManyCallsError(ResourceExhaustedError):
    """The server, or the tenant on this server, has too many calls in flight."""

    reason = "TOO_MANY_CALLS"


class CallPlaces:
    """Bounds the calls in flight: `count` in all, of which one tenant gets `count_per_tenant`.

    After `authenticating`: calls without a token take no place.
    """

    def __init__(self, count: int, count_per_tenant: int) -> None:
        self._count, self._count_per_tenant = count, count_per_tenant
        self._running: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def __call__(self, call: Call) -> AsyncIterator[None]:
        """TooManyCallsError."""
        tenant = current_principal().tenant
        for whose, running, limit in (
            (f"tenant {tenant}", self._running[tenant], self._count_per_tenant),
            ("the server", self._running.total(), self._count),
        ):
            if running >= limit:
                raise TooManyCallsError(
                    f"{whose} has {limit} calls in flight, which is the limit; try again later",
                    metadata={"limit": str(limit)},
                )
        self._running[tenant] += 1
        try:
            yield
        finally:
            self._running[tenant] -= 1
            self._running += Counter()  # forgets tenants without calls


def authenticating(verifier: TokenVerifier, authorised: Callable[[str], None]) -> Middleware:
    """Checks the token and the method's scope. `authorised` is told the peer of a call with a valid token."""

    @contextlib.asynccontextmanager
    async def around(call: Call) -> AsyncIterator[None]:
        principal = verifier.verify(call.metadata.get("authorization"))
        authorised(call.context.peer())
        principal.require_scope(call.method.scope)
        set_principal(principal)
        yield

    return around


def explaining_deletions(tombstones: Tombstones) -> Middleware:
    """Adds to NOT_FOUND what is known of a deleted resource."""

    @contextlib.asynccontextmanager
    async def around(call: Call) -> AsyncIterator[None]:
        try:
            yield
        except NotFoundError as error:
            raise await tombstones.explain(error, tenant=current_principal().tenant) from error.__cause__

    return around


@contextlib.asynccontextmanager
async def bounded_in_time(call: Call) -> AsyncIterator[None]:
    """Ends a call after its method's limit, whatever the deadline of the caller."""
    limit_s = call.method.limit_s
    try:
        async with asyncio.timeout(limit_s or None) as scope:
            yield
    except TimeoutError:
        if not scope.expired():  # the handler's own timeout
            raise
        raise DeadlineExceededError(
            f"{call.method.name} took longer than its limit of {limit_s:g} s", metadata={"limit_s": f"{limit_s:g}"}
        ) from None


def _status_code(context: Context) -> grpc.StatusCode:
    """The status that a handler aborted with; grpc.aio has it as a number."""
    number: Any = context.code()
    return next((code for code in grpc.StatusCode if number in {code, code.value[0]}), grpc.StatusCode.UNKNOWN)


class Interceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg] # generic in the stubs only
    """Runs every call of `methods` (by path) inside `middlewares`, outermost first, and bounds those of `/grpc.*`."""

    def __init__(
        self, service: str, methods: Mapping[str, Method], middlewares: Sequence[Middleware], public: PublicCalls
    ) -> None:
        self._service = service
        self._methods = methods
        self._middlewares = middlewares
        self._public = public

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """The method's handler, wrapped."""
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return handler  # type: ignore[return-value]
        if handler_call_details.method.startswith("/grpc."):
            return self._public.bound(handler)
        metadata = {
            key: value for key, value in handler_call_details.invocation_metadata or () if isinstance(value, str)
        }
        return self._wrap(handler, self._methods[handler_call_details.method], metadata)

    def _wrap(self, handler: Any, method: Method, metadata: dict[str, str]) -> grpc.RpcMethodHandler[Any, Any]:
        """A handler that takes a stream of bytes, whatever the method takes: grpc.aio would wait for the message of a
        unary call without a limit before it calls us.
        """
        kind = "_".join(
            "stream" if many else "unary" for many in (handler.request_streaming, handler.response_streaming)
        )
        behavior, deserialize = getattr(handler, kind), handler.request_deserializer

        async def enter(stack: contextlib.AsyncExitStack, messages: Any, context: Context) -> Any:
            """The behavior's first argument, inside all middlewares."""
            call = Call(service=self._service, method=method, kind=kind, context=context, metadata=metadata)
            for middleware in self._middlewares:
                await stack.enter_async_context(middleware(call))
            return (
                accept_each(messages, deserialize)
                if handler.request_streaming
                else await accept_one(messages, deserialize)
            )

        async def answer_once(messages: Any, context: Context) -> Any:
            async with contextlib.AsyncExitStack() as stack:
                return await behavior(await enter(stack, messages, context), context)

        async def answer_many(messages: Any, context: Context) -> AsyncIterator[Any]:
            counter = metrics.stream_messages.labels(self._service, method.name)
            async with contextlib.AsyncExitStack() as stack:
                argument = await enter(stack, messages, context)
                answers = await stack.enter_async_context(contextlib.aclosing(behavior(argument, context)))
                async for message in answers:
                    counter.inc()
                    yield message

        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(answer_many, None, handler.response_serializer)
        return grpc.stream_unary_rpc_method_handler(answer_once, None, handler.response_serializer)
