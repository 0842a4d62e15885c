"""Calls that need no token: health and reflection. They are bounded, and nobody can hold what others need.

Streams (Watch, reflection) have places that a newcomer always gets (`rpc/places.py`); so have the calls that are
answered at once, which a caller could otherwise hold by sending no message.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import grpc

from luthierd.errors import ResourceExhaustedError
from luthierd.rpc.contract import Context
from luthierd.rpc.places import Place, Places
from luthierd.rpc.status import abort_with


class PublicCallEndedError(ResourceExhaustedError):
    """A call without a token took too long, or a newcomer got its place. Call again."""

    reason = "PUBLIC_CALL_ENDED"


class PublicCalls:
    """Bounds the handlers of `/grpc.*`: so many streams at a time, and as many calls that are answered at once.

    `limit_s`: seconds for the request of any of these calls, and for the whole of one that is no Watch.
    """

    def __init__(self, count: int, *, domain: str, limit_s: float) -> None:
        self._streams, self._calls = Places(count), Places(count)
        self._domain, self._limit_s = domain, limit_s

    def bound(self, handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
        """`handler` with the bounds; see `Interceptor` for why it takes a stream."""
        places = self._streams if handler.response_streaming else self._calls
        behavior = next(filter(None, (handler.unary_unary, handler.unary_stream, handler.stream_stream)))

        async def answer(messages: Any, context: Context) -> Any:
            try:
                async with asyncio.timeout(self._limit_s) as limit:
                    now = asyncio.get_running_loop().time
                    place = Place(context.peer().rpartition(":")[0], lambda: limit.reschedule(now()))
                    places.enter(place)
                    try:
                        argument = messages if handler.request_streaming else await anext(messages)
                        if handler.response_streaming and not handler.request_streaming:
                            limit.reschedule(None)  # a Watch may last
                        return await _answered(behavior(argument, context), context)
                    finally:
                        places.leave(place)
            except TimeoutError:
                error = PublicCallEndedError("a call without a token ended to make room for others; call again")
                await abort_with(context, error, self._domain)
            except StopAsyncIteration:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the call carries no message")

        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                answer, handler.request_deserializer, handler.response_serializer
            )
        return grpc.stream_unary_rpc_method_handler(answer, handler.request_deserializer, handler.response_serializer)


async def _answered(answer: Any, context: Context) -> Any:
    """Health answers by itself (grpc#28728), reflection through a generator."""
    if not inspect.isasyncgen(answer):
        return await answer
    async for message in answer:
        await context.write(message)
    return None
