"""Quotas: the limits of each tenant, which can change at runtime, and the rates they are enforced with."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Protocol

from luthierd.errors import LuthierError
from luthierd.inference.domain.errors import AdapterQuotaError, EtagMismatchError, QuotaExceededError
from luthierd.inference.domain.quota import Limits, Quota, RateMeter
from luthierd.paging import Page, PageRequest

log = logging.getLogger(__name__)

FOLLOW_S = 5.0
"""How late, at most, a changed quota takes effect in the other replicas."""
REQUESTS, TOKENS = "requests_per_minute", "tokens_per_minute"


class QuotaStore(Protocol):
    """The quotas that were set, durable."""

    async def quotas(self) -> list[Quota]:
        """All of them."""

    async def put_quota(self, quota: Quota, *, change: int) -> None:
        """EtagMismatchError unless the stored one is at `change`; 0: there is none."""


class Quotas:
    """Use cases of quotas. Rates are metered in this process: each replica allows the whole quota.

    With a share per replica, a tenant with one adapter, whose calls all reach one replica, could not use its quota.
    """

    def __init__(
        self,
        *,
        store: QuotaStore,
        defaults: Limits,
        clock: Callable[[], float] = time.time,
        meter_clock: Callable[[], float] = time.monotonic,
        count_replicas: Callable[[], Awaitable[int]] | None = None,
    ) -> None:
        """`count_replicas`: the live ones; None: this server is the only one."""
        self._count_replicas, self.replica_count = count_replicas, 1
        self._store, self._defaults, self._clock, self._meter_clock = store, defaults, clock, meter_clock
        self._table: dict[str, Quota] = {}
        self._limits: dict[str, Limits] = {}
        self._meters: dict[tuple[str, str], RateMeter] = {}
        self._lock = asyncio.Lock()

    async def read(self) -> None:
        """Reads the quotas, before the first request and when another replica may have changed them."""
        self._table = {quota.name: quota for quota in await self._store.quotas()}
        self._limits = {}
        if self._count_replicas is not None:
            self.replica_count = max(1, await self._count_replicas())

    async def run(self) -> None:
        """Follows changes by other replicas, until cancelled. While the store is unreachable the last limits hold."""
        while True:
            await asyncio.sleep(FOLLOW_S)
            try:
                async with self._lock:
                    await self.read()
            except (OSError, LuthierError) as error:
                log.warning("quotas cannot be read", extra={"error": type(error).__name__})

    def get(self, name: str) -> Quota:
        """The quota `tenants/{t}/quota`; every tenant has one."""
        return self._table.get(name) or Quota(name=name)

    def list(self, page: PageRequest, *, tenants: Iterable[str]) -> Page[Quota]:
        """By name: the quotas that were set, and those of `tenants`."""
        known = {*self._table, *(f"{tenant}/quota" for tenant in tenants)}
        names = sorted(name for name in known if name > page.after)[: page.limit]
        return page.page([self.get(name) for name in names], names)

    def limits(self, tenant: str) -> Limits:
        """The effective limits of a tenant, by its id."""
        limits = self._limits.get(tenant)
        if limits is None:
            quota = self._table.get(f"tenants/{tenant}/quota")
            if quota is None:
                return self._defaults
            limits = self._limits[tenant] = quota.limits(self._defaults)
        return limits

    async def update(self, name: str, changes: Mapping[str, float | None], *, etag: str = "") -> Quota:
        """Sets limits by name; None resets to the default. EtagMismatchError. Applies from the next request on."""
        async with self._lock:
            before = self.get(name)
            if etag and etag != before.etag:
                raise EtagMismatchError(name=name)
            after = before.changed(changes, self._clock())
            try:
                await self._store.put_quota(after, change=before.change)
            except EtagMismatchError:
                await self.read()  # another replica changed it
                raise
            self._table[name] = after
            self._limits = {}
            return after

    def take_request(self, tenant: str) -> None:
        """Counts a request. QuotaExceededError says when to retry."""
        self._take(tenant, REQUESTS, self.limits(tenant).requests_per_minute, 1)

    def take_tokens(self, tenant: str, token_count: int) -> None:
        """Counts an estimate of a request's tokens. QuotaExceededError says when so many are available."""
        self._take(tenant, TOKENS, self.limits(tenant).tokens_per_minute, token_count)

    def correct_tokens(self, tenant: str, token_count: int) -> None:
        """Adds what exceeded the estimate; a negative count returns unused tokens."""
        meter = self._meters.get((tenant, TOKENS))
        if meter is not None:
            meter.take(token_count)

    def _take(self, tenant: str, name: str, per_minute: int, amount: int) -> None:
        if not per_minute:
            self._meters.pop((tenant, name), None)
            return
        now = self._meter_clock()
        meter = self._meters.get((tenant, name))
        if meter is None:
            meter = self._meters[tenant, name] = RateMeter(now)
        wait_s = meter.wait_s(amount, per_minute, now)
        if wait_s > 0:
            raise QuotaExceededError(tenant=tenant, quota=name, limit=per_minute, retry_after_s=wait_s)
        meter.take(amount)

    def used(self, tenant: str, name: str) -> int:
        """Requests or tokens counted against this minute; 0 without a limit."""
        meter, per_minute = self._meters.get((tenant, name)), int(getattr(self.limits(tenant), name))
        return round(meter.debt(per_minute, self._meter_clock())) if meter and per_minute else 0

    def check_adapters(self, tenant: str, count: int) -> None:
        """AdapterQuotaError if `count` different adapters exceed the tenant's quota."""
        limit = self.limits(tenant).deployed_adapters
        if limit and count > limit:
            raise AdapterQuotaError(tenant=tenant, limit=limit)
