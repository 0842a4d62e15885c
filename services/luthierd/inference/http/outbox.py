"""Decouples a response from its client: a client that does not read must not hold what other requests wait for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.types import Message, Send

from luthierd.inference.completions.read_ahead import MAX_UNREAD


class Outbox:
    """Takes a response's messages at once, up to `MAX_UNREAD`, and sends them as fast as they are read."""

    def __init__(self, send: Send, *, limit_s: float) -> None:
        self._send, self.limit_s = send, limit_s
        self._unread: asyncio.Queue[Message] = asyncio.Queue(MAX_UNREAD)
        self.is_stuck = asyncio.Event()
        """There was no room for `limit_s`: the response must be given up. No message is taken any more."""

    async def put(self, message: Message) -> None:
        """Waits while there is no room. A message that finds none in time is lost."""
        if self.is_stuck.is_set():
            await asyncio.sleep(0)  # lets the cancellation that follows arrive
            return
        if not self._unread.full():
            self._unread.put_nowait(message)
            return
        try:
            async with asyncio.timeout(self.limit_s):
                await self._unread.put(message)
        except TimeoutError:
            self.is_stuck.set()

    @contextlib.asynccontextmanager
    async def sending(self, *, rest_limit_s: float) -> AsyncIterator[None]:
        """Sends while the block runs and, unless the client is stuck, for up to `rest_limit_s` after it."""
        pump = asyncio.create_task(self._pump())
        rest = None
        try:
            yield
            if not self.is_stuck.is_set():
                rest = asyncio.create_task(self._unread.join())
                await asyncio.wait([pump, rest], timeout=rest_limit_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in filter(None, (pump, rest)):
                task.cancel()
            await asyncio.wait([pump])

    async def _pump(self) -> None:
        while True:
            await self._send(await self._unread.get())
            self._unread.task_done()
