"""Admission: which calls are accepted, and which request the engine takes next.

A call is first checked against its tenant's quota and the limits on calls in flight; a refusal is immediate and says
when to retry. Once it holds a lease and its tokens are known, each of its requests waits for a slot in the engine's
batch, in the order of `fair_queue`. The engine never has more requests than it can batch, so its own first-come order
has no effect.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

from luthierd.inference import metrics
from luthierd.inference.admission.fair_queue import FairQueue, Request
from luthierd.inference.admission.quotas import Quotas
from luthierd.inference.admission.retry_after import RetryAfter
from luthierd.inference.domain.errors import QueueFullError, QuotaExceededError, TenantQueueFullError


@dataclass(eq=False)
class Slot:
    """A request in the engine. The token counts are updated while it runs; the final ones are charged."""

    queue_s: float
    prompt_token_count: int
    answer_token_count: int = 0


@dataclass(frozen=True)
class Load:
    """What a tenant has in flight."""

    running_count: int
    waiting_count: int


class Ticket:
    """An admitted call."""

    def __init__(self, admission: Admission, tenant: str) -> None:
        self._admission, self.tenant = admission, tenant

    def slot(
        self, *, adapter: str, prompt_token_count: int, max_answer_token_count: int = 0, slot_count: int = 1
    ) -> contextlib.AbstractAsyncContextManager[Slot]:
        """Waits for a slot in the engine's batch. `adapter`: its name in the engine, empty for the base model.

        `max_answer_token_count`: of all `slot_count` choices together. QuotaExceededError for too many tokens a minute.
        """
        request = Request(
            tenant=self.tenant,
            adapter=adapter,
            prompt_token_count=prompt_token_count,
            max_answer_token_count=max_answer_token_count,
            slot_count=slot_count,
        )
        return self._admission.slot_for(request)


class Admission:
    """At most `max_in_flight` calls at a time, of them `max_in_flight_per_tenant` of one tenant."""

    def __init__(
        self,
        *,
        queue: FairQueue,
        quotas: Quotas,
        max_in_flight: int,
        max_in_flight_per_tenant: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue, self._quotas, self._clock = queue, quotas, clock
        self._max_in_flight, self._max_in_flight_per_tenant = max_in_flight, max_in_flight_per_tenant
        self._in_flight: Counter[str] = Counter()
        self._total = 0
        self._waiters: dict[Request, asyncio.Future[None]] = {}
        self._retry_after = RetryAfter(clock)

    @contextlib.contextmanager
    def admit(self, tenant: str) -> Iterator[Ticket]:
        """Admits a call for the duration of the block. QueueFullError, TenantQueueFullError, QuotaExceededError."""
        mine = self._in_flight[tenant]
        if self._total >= self._max_in_flight:
            raise QueueFullError(
                limit=self._max_in_flight, retry_after_s=self._retry_after.next_s("", count=self._total)
            )
        limit = self._quotas.limits(tenant).concurrent_requests
        if mine >= self._max_in_flight_per_tenant:
            raise TenantQueueFullError(
                tenant=tenant,
                limit=self._max_in_flight_per_tenant,
                retry_after_s=self._retry_after.next_s(tenant, count=mine),
            )
        if limit and mine >= limit:
            retry_after_s = self._retry_after.next_s(tenant, count=mine)
            raise QuotaExceededError(
                tenant=tenant, quota="concurrent_requests", limit=limit, retry_after_s=retry_after_s
            )
        self._quotas.take_request(tenant)
        began = self._clock()
        self._count(tenant, 1)
        try:
            yield Ticket(self, tenant)
        finally:
            self._count(tenant, -1)
            self._retry_after.call_ended(self._clock() - began)

    def _count(self, tenant: str, change: int) -> None:
        self._total += change
        self._in_flight[tenant] += change
        if not self._in_flight[tenant]:
            del self._in_flight[tenant]
        metrics.answers_in_flight.set(self._total)

    @property
    def waiting_count(self) -> int:
        """Requests that wait for a slot."""
        return len(self._waiters)

    @contextlib.asynccontextmanager
    async def slot_for(self, request: Request) -> AsyncIterator[Slot]:
        """See `Ticket.slot`. A cancelled waiter leaves the queue at once and is charged nothing."""
        tenant, estimate = request.tenant, request.prompt_token_count + request.max_answer_token_count
        self._quotas.take_tokens(tenant, estimate)
        request.weight = self._quotas.limits(tenant).weight
        try:
            queue_s = await self._wait(request)
        except BaseException:
            self._quotas.correct_tokens(tenant, -estimate)
            raise
        slot = Slot(queue_s, request.prompt_token_count)
        try:
            yield slot
        finally:
            used = slot.prompt_token_count + slot.answer_token_count
            self._quotas.correct_tokens(tenant, used - estimate)
            self._queue.finish(
                request, prompt_token_count=slot.prompt_token_count, answer_token_count=slot.answer_token_count
            )
            self._start_next()

    async def _wait(self, request: Request) -> float:
        """Seconds that the request waited for its slot."""
        self._queue.push(request)
        began = self._clock()
        turn = self._waiters[request] = asyncio.get_running_loop().create_future()
        self._start_next()
        if not turn.done():
            try:
                await turn
            except BaseException:
                self._leave(request)
                raise
        queue_s = self._clock() - began
        metrics.queue_seconds.observe(queue_s)
        return queue_s

    def _leave(self, request: Request) -> None:
        """Leaves the queue, or frees the slot if it was assigned in the moment of the cancellation."""
        if self._waiters.pop(request, None) is not None:
            self._queue.remove(request)
        else:
            self._queue.finish(request, prompt_token_count=0, answer_token_count=0)
        self._start_next()

    def _start_next(self) -> None:
        while (request := self._queue.take()) is not None:
            turn = self._waiters.pop(request)
            if not turn.done():  # a cancelled one frees its slot in `_leave`
                turn.set_result(None)

    def load(self, tenant: str) -> Load:
        """What the tenant has in flight now; calls that are still being read count as running."""
        waiting_count = self._queue.waiting_count(tenant)
        return Load(max(0, self._in_flight[tenant] - waiting_count), waiting_count)
