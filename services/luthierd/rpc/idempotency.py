"""Same `request_id`, same answer: the first response to a mutating call is kept and returned again for 24 hours."""

from __future__ import annotations

import asyncio
import hashlib
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

from luthierd.errors import InvalidArgumentError
from luthierd.rpc.auth import current_principal
from luthierd.storage.replays import Replay


class RequestIdReusedError(InvalidArgumentError):
    """The id was already used for a different request."""

    reason = "REQUEST_ID_REUSED"


class ReplayStore(Protocol):
    """Where first responses are kept."""

    async def get(self, key: str) -> Replay | None:
        """What was kept under `key` in the last `RETENTION_S` seconds."""

    async def put(self, key: str, replay: Replay) -> None:
        """Keeps it."""


def replaying(store: ReplayStore) -> grpc.aio.ServerInterceptor:  # type: ignore[type-arg] # generic in the stubs only
    """An interceptor, innermost, that answers a repeated `request_id` from `store`."""
    return _Replaying(store)


class _Replaying(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    def __init__(self, store: ReplayStore) -> None:
        self._store = store
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """The method's handler; a unary one looks into the store first."""
        handler: Any = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler  # type: ignore[no-any-return]
        method = handler_call_details.method

        async def answer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            request_id = getattr(request, "request_id", "")
            if not request_id:
                return await handler.unary_unary(request, context)
            key = hashlib.sha256(f"{current_principal().tenant}\0{method}\0{request_id}".encode()).hexdigest()
            fingerprint = hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()
            lock = self._locks.setdefault(key, asyncio.Lock())
            async with lock:
                replay = await self._store.get(key)
                if replay is None:
                    response = await handler.unary_unary(request, context)
                    await self._store.put(key, Replay(fingerprint, handler.response_serializer(response)))
                    return response
            if replay.fingerprint != fingerprint:
                raise RequestIdReusedError(
                    f"request_id {request_id} was used before for another request; make a new one",
                    metadata={"request_id": request_id},
                )
            return _Serialized(replay.response)

        def serialize(response: Any) -> bytes:
            return response.content if isinstance(response, _Serialized) else handler.response_serializer(response)

        return grpc.unary_unary_rpc_method_handler(answer, handler.request_deserializer, serialize)


@dataclass(frozen=True)
class _Serialized:
    content: bytes
