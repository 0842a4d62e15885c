"""Reading long things: pages of a list, pieces of a blob, states of a job."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from google.rpc import status_pb2

from luthier.errors import DataLossError, JobCancelledError, JobFailedError, UnavailableError
from luthier.status import error_from_status
from luthier.transport import Patience, RetryPolicy

Item = TypeVar("Item")
Job = TypeVar("Job", bound="JobMessage")


class JobMessage(Protocol):
    """What all resources with a life share."""

    @property
    def name(self) -> str: ...
    @property
    def error(self) -> status_pb2.Status: ...


class Piece(Protocol):
    """Answer of the Read methods."""

    @property
    def data(self) -> bytes: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def sha256(self) -> str: ...


async def pages(fetch: Callable[[str], Awaitable[tuple[Sequence[Item], str]]]) -> AsyncIterator[Item]:
    """Yields the items of all pages. fetch(page_token) returns a page and the next token, empty at the end."""
    token = ""
    while True:
        items, token = await fetch(token)
        for item in items:
            yield item
        if not token:
            return


async def pieces(fetch: Callable[[int], Awaitable[Piece]], *, what: str) -> AsyncIterator[bytes]:
    """Yields the bytes of something that is read by offset; `DataLossError` if the whole has another digest."""
    digest, offset = hashlib.sha256(), 0
    while True:
        piece = await fetch(offset)
        if piece.data:
            digest.update(piece.data)
            offset += len(piece.data)
            yield piece.data
        if offset >= piece.size_bytes or not piece.data:
            break
    if offset != piece.size_bytes or digest.hexdigest() != piece.sha256:
        raise DataLossError(
            f"{what} arrived damaged: sha256 {digest.hexdigest()} over {offset} bytes, expected {piece.sha256} over "
            f"{piece.size_bytes}; read it again, and if it happens again check the service's blob store",
            reason="DIGEST_MISMATCH",
            metadata={"what": what, "expected_sha256": piece.sha256},
        )


async def wait_for(
    get: Callable[[], Awaitable[Item]],
    is_final: Callable[[Item], bool],
    *,
    poll_interval_s: float,
    timeout_s: float | None,
    retry: RetryPolicy,
) -> Item:
    """Polls until final; `TimeoutError` after `timeout_s`. A silent service is borne with for `retry.reconnect_s`."""
    patience = Patience(retry.reconnect_s)
    async with asyncio.timeout(timeout_s):
        while True:
            try:
                found = await get()
                patience.renew()
                if is_final(found):
                    return found
            except UnavailableError as error:
                patience.spend(error)
            await asyncio.sleep(poll_interval_s)


def finished(job: Job, *, failed: bool, cancelled: bool) -> Job:
    """The job itself, or the error that says how it ended."""
    if cancelled:
        raise JobCancelledError(f"{job.name} was cancelled", job=job)
    if failed:
        message, reason, metadata = error_from_status(job.error)
        raise JobFailedError(f"{job.name} failed: {message}", job=job, reason=reason, metadata=metadata)
    return job


async def joined(chunks: AsyncIterator[bytes]) -> bytes:
    parts: list[bytes] = [chunk async for chunk in chunks]
    return b"".join(parts)


async def lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Splits bytes into lines without their ends; an empty last line is left out."""
    rest = b""
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line
    if rest:
        yield rest
