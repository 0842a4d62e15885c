"""Waiting for what another process or task does: the one place where tests poll."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

POLL_INTERVAL_S = 0.02


async def until(
    condition: Callable[[], T | Awaitable[T]], *, timeout_s: float = 30.0, interval_s: float = POLL_INTERVAL_S
) -> T:
    """The first true value of `condition`, asked again and again. TimeoutError after `timeout_s` seconds."""
    async with asyncio.timeout(timeout_s):
        while True:
            found = condition()
            value: T = await found if inspect.isawaitable(found) else found  # type: ignore[assignment]
            if value:
                return value
            await asyncio.sleep(interval_s)
