"""Between a stream that is made and a caller who reads it: who does not read must not hold what others wait for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import TypeVar

from luthierd.inference.domain.errors import ReaderTooSlowError

T = TypeVar("T")

MAX_UNREAD = 64
"""Pieces, of one token or a few; before them the connection itself holds some 64 KiB."""


async def read_ahead(
    stream: AsyncGenerator[T, None], *, limit_s: float, max_unread: int = MAX_UNREAD
) -> AsyncGenerator[T, None]:
    """The same pieces, drawn before they are read: a lease or a seat inside of `stream` ends with its last piece.

    With `max_unread` pieces unread for `limit_s` the stream is closed, and the caller gets ReaderTooSlowError after
    them. Closing this iterator closes `stream`.
    """
    unread: asyncio.Queue[T | None] = asyncio.Queue()  # bounded by `room`: the end must always fit
    room = asyncio.Semaphore(max_unread)

    async def draw() -> None:
        try:
            async with contextlib.aclosing(stream):
                async for piece in stream:
                    if room.locked():
                        await _wait_for(room, limit_s)
                    else:
                        await room.acquire()  # at once
                    unread.put_nowait(piece)
        finally:
            unread.put_nowait(None)

    drawing = asyncio.create_task(draw())
    try:
        while (piece := await unread.get()) is not None:
            room.release()
            yield piece
        await drawing
    finally:
        drawing.cancel()
        await asyncio.wait([drawing])


async def _wait_for(room: asyncio.Semaphore, limit_s: float) -> None:
    try:
        async with asyncio.timeout(limit_s):
            await room.acquire()
    except TimeoutError:
        raise ReaderTooSlowError(limit_s) from None
