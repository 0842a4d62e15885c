"""Capture policies: whether a tenant's prompts and answers are kept. Read for every answer, so held in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from luthierd.inference.domain.errors import EtagMismatchError
from luthierd.inference.domain.feedback import CapturePolicy, PolicyChange
from luthierd.inference.feedback.store import SqlCaptureStore
from luthierd.names import CAPTURE_POLICY


class CapturePolicies:
    """Use cases of policies. `on_opt_out` deletes the files that an opt-out doomed."""

    def __init__(self, store: SqlCaptureStore, *, clock: Callable[[], float] = time.time) -> None:
        self._store, self._clock = store, clock
        self.on_opt_out: Callable[[], Awaitable[None]] | None = None
        self._table: dict[str, CapturePolicy] = {}
        self._lock = asyncio.Lock()

    async def read(self) -> None:
        """Reads what other servers changed. At the start, and regularly."""
        async with self._lock:
            self._table = await self._store.policies()

    def of(self, tenant: str) -> CapturePolicy:
        """The policy as this server knows it. The store checks the stored one when it writes a text."""
        return self._table.get(tenant) or CapturePolicy(tenant=tenant)

    async def get(self, name: str) -> CapturePolicy:
        (tenant,) = CAPTURE_POLICY.parse(name)
        await self.read()
        return self.of(tenant)

    async def update(self, name: str, change: PolicyChange, *, etag: str = "") -> CapturePolicy:
        """Changes a policy. InvalidArgumentError, EtagMismatchError. Once switched off, all texts are deleted."""
        (tenant,) = CAPTURE_POLICY.parse(name)
        async with self._lock:
            self._table = await self._store.policies()
            before = self.of(tenant)
            if etag and etag != before.etag:
                raise EtagMismatchError(name=name)
            after = before.changed(change, self._clock())
            await self._store.put_policy(after)
            self._table[tenant] = after
        if not after.enabled and self.on_opt_out is not None:
            await self.on_opt_out()
        return after
