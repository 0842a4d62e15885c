"""What every call goes through, for all four kinds of method: middlewares, written as context managers.

Order, outermost first: in flight, request id, log, metrics, errors, auth, deadline. `/grpc.*` methods (health,
reflection) are not wrapped: a wrapper around health's Watch breaks it (grpc#28728).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import grpc

from luthierd import logs
from luthierd.errors import DeadlineExceededError, InternalError, LuthierError, NotFoundError
from luthierd.rpc import metrics
from luthierd.rpc.auth import TokenVerifier, check_tenant, current_principal, set_principal
from luthierd.rpc.contract import Context, Method
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
    request: Any | None
    """The request of a unary call; None for a stream of requests."""
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
        except Exception:
            error_id = uuid.uuid4().hex[:12]
            call.code = grpc.StatusCode.INTERNAL
            log.exception("internal error", extra={"method": call.method.name, "error_id": error_id})
            message = f"internal error {error_id}; the server's log has the details under this id"
            await abort_with(call.context, InternalError(message, metadata={"error_id": error_id}), domain)

    return around


def authenticating(verifier: TokenVerifier) -> Middleware:
    """Checks the token, then the method's scope, then that the request names only resources of the caller's tenant."""

    @contextlib.asynccontextmanager
    async def around(call: Call) -> AsyncIterator[None]:
        principal = verifier.verify(call.metadata.get("authorization"))
        principal.require_scope(call.method.scope)
        if call.request is not None:
            check_tenant(call.request, principal)
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
            raise await tombstones.explain(error) from error.__cause__

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
    """Runs every call of `methods` (by path) inside `middlewares`, outermost first."""

    def __init__(self, service: str, methods: Mapping[str, Method], middlewares: Sequence[Middleware]) -> None:
        self._service = service
        self._methods = methods
        self._middlewares = middlewares

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """The method's handler, wrapped."""
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith("/grpc."):
            return handler
        metadata = {
            key: value for key, value in handler_call_details.invocation_metadata or () if isinstance(value, str)
        }
        return self._wrap(handler, self._methods[handler_call_details.method], metadata)

    def _wrap(self, handler: Any, method: Method, metadata: dict[str, str]) -> grpc.RpcMethodHandler[Any, Any]:
        kind = "_".join(
            "stream" if many else "unary" for many in (handler.request_streaming, handler.response_streaming)
        )
        behavior = getattr(handler, kind)

        def argument(request: Any) -> Any:
            return _checked(request) if handler.request_streaming else request

        async def enter_middlewares(stack: contextlib.AsyncExitStack, request: Any, context: Context) -> None:
            call = Call(
                service=self._service,
                method=method,
                kind=kind,
                context=context,
                request=None if handler.request_streaming else request,
                metadata=metadata,
            )
            for middleware in self._middlewares:
                await stack.enter_async_context(middleware(call))

        async def answer_once(request: Any, context: Context) -> Any:
            async with contextlib.AsyncExitStack() as stack:
                await enter_middlewares(stack, request, context)
                return await behavior(argument(request), context)

        async def answer_many(request: Any, context: Context) -> AsyncIterator[Any]:
            counter = metrics.stream_messages.labels(self._service, method.name)
            async with contextlib.AsyncExitStack() as stack:
                await enter_middlewares(stack, request, context)
                messages = await stack.enter_async_context(contextlib.aclosing(behavior(argument(request), context)))
                async for message in messages:
                    counter.inc()
                    yield message

        make = getattr(grpc, f"{kind}_rpc_method_handler")
        wrapped = answer_many if handler.response_streaming else answer_once
        made: grpc.RpcMethodHandler[Any, Any] = make(wrapped, handler.request_deserializer, handler.response_serializer)
        return made


async def _checked(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """A stream of requests, each checked against the caller's tenant."""
    async for request in requests:
        check_tenant(request, current_principal())
        yield request
