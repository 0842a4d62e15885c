"""Capture policies: whether a tenant's prompts and answers are kept. Read on the answer path, so held in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from luthierd.inference.domain.errors import EtagMismatchError
from luthierd.inference.domain.feedback import CapturePolicy, PolicyChange
from luthierd.names import CAPTURE_POLICY


class PolicyStore(Protocol):
    """Where policies are kept."""

    async def policies(self) -> dict[str, CapturePolicy]:
        """Every policy that was ever changed, by tenant."""

    async def put_policy(self, policy: CapturePolicy) -> None:
        """EtagMismatchError unless the stored one is of the change before. An opt-out takes all texts along."""


class CapturePolicies:
    """Use cases of policies. `on_opt_out` deletes the files that an opt-out doomed."""

    def __init__(self, store: PolicyStore, *, clock: Callable[[], float] = time.time) -> None:
        self._store, self._clock = store, clock
        self.on_opt_out: Callable[[], Awaitable[None]] | None = None
        self._table: dict[str, CapturePolicy] = {}
        self._lock = asyncio.Lock()

    async def read(self) -> None:
        """Reads what other servers changed. At the start, and again and again."""
        async with self._lock:
            self._table = await self._store.policies()

    def of(self, tenant: str) -> CapturePolicy:
        """The policy as this server knows it. The store's own look decides when a text is written."""
        return self._table.get(tenant) or CapturePolicy(tenant=tenant)

    async def get(self, name: str) -> CapturePolicy:
        """The policy as it is stored."""
        (tenant,) = CAPTURE_POLICY.parse(name)
        await self.read()
        return self.of(tenant)

    async def update(self, name: str, change: PolicyChange, *, etag: str = "") -> CapturePolicy:
        """Changes a policy. InvalidArgumentError, EtagMismatchError. Switched off, its texts are gone on return."""
        (tenant,) = CAPTURE_POLICY.parse(name)
        async with self._lock:
            self._table = await self._store.policies()
            before = self.of(tenant)
            if etag and etag != before.etag:
                raise EtagMismatchError(name)
            after = before.changed(change, self._clock())
            await self._store.put_policy(after)
            self._table[tenant] = after
        if not after.enabled and self.on_opt_out is not None:
            await self.on_opt_out()
        return after
