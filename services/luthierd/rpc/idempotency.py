"""Same `request_id`, same answer: the first response to a mutating call is stored and returned again for 24 hours."""

from __future__ import annotations

import asyncio
import hashlib
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import Message

from luthierd.errors import InvalidArgumentError
from luthierd.rpc.auth import current_principal
from luthierd.storage.replays import Replay, SqlReplayStore


class RequestIdReusedError(InvalidArgumentError):
    """The id was already used for a different request."""

    reason = "REQUEST_ID_REUSED"
    field_name = "request_id"


class Replays:
    """First responses, by tenant, method and request id. Duplicates in flight wait for the first one."""

    def __init__(self, store: SqlReplayStore) -> None:
        self._store = store
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def once(self, method: str, request: Any, answer: Callable[[], Awaitable[Message]]) -> bytes:
        """The serialized response of `answer()`, or the stored one of an earlier call. RequestIdReusedError.

        A request without an id is answered every time.
        """
        request_id: str = getattr(request, "request_id", "")
        if not request_id:
            return (await answer()).SerializeToString()
        key = hashlib.sha256(f"{current_principal().tenant}\0{method}\0{request_id}".encode()).hexdigest()
        fingerprint = hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            replay = await self._store.get(key)
            if replay is None:
                response = (await answer()).SerializeToString()
                await self._store.put(key, Replay(fingerprint, response))
                return response
        if replay.fingerprint != fingerprint:
            raise RequestIdReusedError(
                f"request_id {request_id} was used before for another request; make a new one",
                metadata={"request_id": request_id},
            )
        return replay.response


class ReplayInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg] # generic in the stubs only
    """Innermost: answers repeated unary calls from the store."""

    def __init__(self, store: SqlReplayStore) -> None:
        self._replays = Replays(store)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """The method's handler, wrapped if it is unary."""
        handler: Any = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler  # type: ignore[no-any-return]
        method = handler_call_details.method

        async def answer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
            return await self._replays.once(method, request, lambda: handler.unary_unary(request, context))

        return grpc.unary_unary_rpc_method_handler(answer, handler.request_deserializer)
