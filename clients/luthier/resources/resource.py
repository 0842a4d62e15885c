"""What all nouns share: unary calls, lists, blobs, and waiting."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Generic, Self, TypeVar

import grpc
from google.protobuf.message import Message

from luthier.display import state_of
from luthier.errors import DataLossError, JobCancelledError, JobFailedError, UnavailableError
from luthier.status import error_from_status
from luthier.transport import Patience, Transport

FINAL_STATES = frozenset({"SUCCEEDED", "READY", "FAILED", "CANCELLED"})

Stub = TypeVar("Stub")
Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
Item = TypeVar("Item")
Found = TypeVar("Found", bound=Message)


@dataclass(frozen=True)
class Deletion:
    """deleted: the names that went, the one asked for first. kept: finished work that refers to them and stays."""

    deleted: tuple[str, ...]
    kept: tuple[str, ...]


class Resource(Generic[Stub]):
    """A noun of one service."""

    _make_stub: ClassVar[type[Any]]

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @classmethod
    def service(cls) -> str:
        """The service that has the noun: its stub is in `luthier.{service}.v1`."""
        return cls._make_stub.__module__.split(".")[1]

    @classmethod
    def over(cls, transports: Mapping[str, Transport]) -> Self:
        """The noun over the channel of its service."""
        return cls(transports[cls.service()])

    @cached_property
    def _stub(self) -> Stub:
        stub: Stub = self._make_stub(self._transport.channel)
        return stub

    async def _call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        timeout_s: float | None = None,
    ) -> Response:
        return await self._transport.unary(method, request, timeout_s=timeout_s)

    async def _delete(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        timeout_s: float | None = None,
    ) -> Deletion:
        answer: Any = await self._call(method, request, timeout_s)
        return Deletion(tuple(answer.deleted_names), tuple(answer.kept_names))

    async def _pages(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        items: Callable[[Response], Sequence[Item]],
    ) -> AsyncIterator[Item]:
        """Yields the items of all pages of a List method."""
        paged: Any = request
        while True:
            page: Any = await self._call(method, request)
            for item in items(page):
                yield item
            if not page.next_page_token:
                return
            paged.page_token = page.next_page_token

    async def _blob(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        *,
        what: str,
        sha256: str = "",
    ) -> AsyncIterator[bytes]:
        """Yields the bytes of a Read method; `DataLossError` if the whole has another digest than `sha256`, or, if that
        is empty, than the answers promise.
        """
        ranged: Any = request
        digest = hashlib.sha256()
        while True:
            piece: Any = await self._call(method, request)
            if piece.data:
                digest.update(piece.data)
                ranged.offset_bytes += len(piece.data)
                yield piece.data
            if ranged.offset_bytes >= piece.size_bytes or not piece.data:
                break
        expected = sha256 or piece.sha256
        if ranged.offset_bytes != piece.size_bytes or digest.hexdigest() != expected:
            raise DataLossError(
                f"{what} arrived damaged: sha256 {digest.hexdigest()} over {ranged.offset_bytes} bytes, expected "
                f"{expected} over {piece.size_bytes}; read it again, and if it happens again check the service's "
                "blob store",
                reason="DIGEST_MISMATCH",
                metadata={"what": what, "expected_sha256": expected},
            )

    async def _final(
        self, get: Callable[[], Awaitable[Found]], *, timeout_s: float | None, poll_interval_s: float
    ) -> Found:
        """Polls until the state is final; `TimeoutError` after `timeout_s`. Tolerates an unavailable service for
        `retry.reconnect_s`.
        """
        patience = Patience(self._transport.retry.reconnect_s)
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    found = await get()
                    patience.renew()
                    if state_of(found) in FINAL_STATES:
                        return found
                except UnavailableError as error:
                    patience.spend(error)
                await asyncio.sleep(poll_interval_s)


class DeletableResource(Resource[Stub], Generic[Stub]):
    """A noun with a Delete method. _delete_request: its request, whose name is that of the method."""

    _delete_request: ClassVar[type[Message]]

    async def delete(
        self,
        name: str,
        *,
        cascade: bool = False,
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> Deletion:
        """Deletes what nothing needs; `cascade`: also what belongs to it, although finished work names it.

        `validate_only`: only returns what would go. See docs/storage.md.
        """
        kind: Any = self._delete_request
        request = kind(name=name, cascade=cascade, validate_only=validate_only, request_id=request_id)
        method = getattr(self._stub, kind.DESCRIPTOR.name.removesuffix("Request"))
        return await self._delete(method, request, timeout_s)


def finished(job: Found) -> Found:
    """The job itself, or the error that says how it ended."""
    named: Any = job
    if state_of(job) == "CANCELLED":
        raise JobCancelledError(f"{named.name} was cancelled", job=job)
    if state_of(job) == "FAILED":
        message, reason, metadata = error_from_status(named.error)
        raise JobFailedError(f"{named.name} failed: {message}", job=job, reason=reason, metadata=metadata)
    return job


async def joined(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])
