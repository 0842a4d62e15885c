"""Decouples a stream from its reader: a client that does not read must not hold what other requests wait for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import TypeVar

from luthierd.inference.domain.errors import ReaderTooSlowError

T = TypeVar("T")

MAX_UNREAD = 64
"""Messages, of one token or a few; the connection itself buffers about 64 KiB before them."""


async def read_ahead(
    stream: AsyncGenerator[T, None], *, limit_s: float, max_unread: int = MAX_UNREAD
) -> AsyncGenerator[T, None]:
    """The same items, drawn before they are read: a lease or slot inside of `stream` ends with its last item.

    With `max_unread` items unread for `limit_s` the stream is closed, and the reader gets ReaderTooSlowError after
    them. Closing this iterator closes `stream`.
    """
    unread: asyncio.Queue[T | None] = asyncio.Queue()  # bounded by `room`: the end must always fit
    room = asyncio.Semaphore(max_unread)

    async def draw() -> None:
        try:
            async with contextlib.aclosing(stream):
                async for item in stream:
                    try:
                        async with asyncio.timeout(limit_s if room.locked() else None):
                            await room.acquire()
                    except TimeoutError:
                        raise ReaderTooSlowError(limit_s=limit_s) from None
                    unread.put_nowait(item)
        finally:
            unread.put_nowait(None)

    drawing = asyncio.create_task(draw())
    try:
        while (item := await unread.get()) is not None:
            room.release()
            yield item
        await drawing
    finally:
        drawing.cancel()
        await asyncio.wait([drawing])
