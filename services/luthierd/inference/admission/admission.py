"""Admission: which calls are accepted, and which request the engine takes next.

A call is first checked against its tenant's quota and the limits on calls in flight; a refusal is immediate and says
when to retry. Once it holds a lease and its tokens are known, each of its requests waits for a slot in the engine's
batch for every answer that it makes, in the order of `fair_queue`. So a call with many prompts runs in parts. The
engine never has more than it can batch, so its own first-come order has no effect.
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


class Charge:
    """Tokens that a call takes from its tenant's quota: an estimate first, in the end what it `used`."""

    def __init__(self, quotas: Quotas, tenant: str, *, prompt_token_count: int, answer_token_count: int) -> None:
        """QuotaExceededError. Until the next estimate, reading the prompt is the work that is paid for."""
        self._quotas, self._tenant, self._taken = quotas, tenant, 0
        self.estimate(prompt_token_count + answer_token_count)
        self.used = prompt_token_count

    def estimate(self, token_count: int) -> None:
        """Replaces the estimate: the prompt was read, and nothing of the answer was used. QuotaExceededError."""
        self.used = 0
        self._quotas.correct_tokens(self._tenant, -self._taken)
        self._taken = 0
        self._quotas.take_tokens(self._tenant, token_count)
        self._taken = token_count

    def settle(self) -> None:
        """Charges what was used in place of the estimate."""
        self._quotas.correct_tokens(self._tenant, self.used - self._taken)


class Ticket:
    """An admitted call."""

    def __init__(self, admission: Admission, tenant: str) -> None:
        self._admission, self.tenant = admission, tenant

    @property
    def max_slot_count(self) -> int:
        """Slots that one request can get."""
        return self._admission.max_slot_count

    def charged(self, *, prompt_token_count: int, answer_token_count: int) -> contextlib.AbstractContextManager[Charge]:
        """Takes estimated tokens from the quota for the block; at its end, what was used. QuotaExceededError."""
        return self._admission.charged(
            self.tenant, prompt_token_count=prompt_token_count, answer_token_count=answer_token_count
        )

    def slot(
        self,
        charge: Charge,
        *,
        adapter: str,
        prompt_token_count: int,
        max_answer_token_count: int = 0,
        slot_count: int = 1,
    ) -> contextlib.AbstractAsyncContextManager[Slot]:
        """Waits for a slot in the engine's batch. `adapter`: its name in the engine, empty for the base model.

        `max_answer_token_count`: of all `slot_count` choices together. What the request used is added to `charge`.
        """
        request = Request(
            tenant=self.tenant,
            adapter=adapter,
            prompt_token_count=prompt_token_count,
            max_answer_token_count=max_answer_token_count,
            slot_count=slot_count,
        )
        return self._admission.slot_for(request, charge)


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
        self._running: dict[Request, Slot] = {}
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

    @property
    def max_slot_count(self) -> int:
        """Slots that one request can get."""
        return self._queue.slot_count

    def set_capacity(self, token_count: int) -> None:
        """Tokens of running requests that the engine can hold; 0: unknown."""
        self._queue.token_capacity = token_count

    @contextlib.contextmanager
    def charged(self, tenant: str, *, prompt_token_count: int, answer_token_count: int) -> Iterator[Charge]:
        """See `Ticket.charged`."""
        charge = Charge(
            self._quotas, tenant, prompt_token_count=prompt_token_count, answer_token_count=answer_token_count
        )
        try:
            yield charge
        finally:
            charge.settle()

    @contextlib.asynccontextmanager
    async def slot_for(self, request: Request, charge: Charge | None = None) -> AsyncIterator[Slot]:
        """See `Ticket.slot`; None: nobody is charged. A cancelled waiter leaves the queue at once."""
        request.weight = self._quotas.limits(request.tenant).weight
        queue_s = await self._wait(request)
        slot = self._running[request] = Slot(queue_s, request.prompt_token_count)
        try:
            yield slot
        finally:
            del self._running[request]
            if charge is not None:
                charge.used += slot.prompt_token_count + slot.answer_token_count
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
        for running, slot in self._running.items():
            self._queue.progress(running, answer_token_count=slot.answer_token_count)
        while (request := self._queue.take()) is not None:
            turn = self._waiters.pop(request)
            if not turn.done():  # a cancelled one frees its slot in `_leave`
                turn.set_result(None)

    def load(self, tenant: str) -> Load:
        """What the tenant has in flight now; calls that are still being read count as running."""
        waiting_count = self._queue.waiting_count(tenant)
        return Load(max(0, self._in_flight[tenant] - waiting_count), waiting_count)
