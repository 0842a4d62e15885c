"""Admission: who may ask, and whose request the engine takes next.

A call enters first (its tenant's quota, and the bounds on what may be in flight at all): a refusal comes at once and
says when to come back. Under its lease, when its tokens are known, each request waits for a seat in the engine's batch,
in the order of `fair_queue`. The engine never gets more than it can batch, so its own first-come order decides nothing.
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
from luthierd.inference.admission.retry_after import Returns
from luthierd.inference.config import InferenceConfig
from luthierd.inference.domain.errors import QueueFullError, QuotaExceededError, TenantQueueFullError


@dataclass(eq=False)
class Seat:
    """A request in the engine. Whoever runs it counts the tokens here; what stands here at the end is what is paid."""

    queue_s: float
    prompt_token_count: int
    answer_token_count: int = 0


@dataclass(frozen=True)
class Load:
    """What a tenant has in flight."""

    running_count: int
    waiting_count: int


class Visit:
    """A call that was let in."""

    def __init__(self, admission: Admission, tenant: str) -> None:
        self._admission, self.tenant = admission, tenant

    def seat(
        self, *, adapter: str, prompt_token_count: int, max_answer_token_count: int, seat_count: int = 1
    ) -> contextlib.AbstractAsyncContextManager[Seat]:
        """A place in the engine's batch, waited for. `adapter`: its name in the engine, empty for the base model.

        `max_answer_token_count`: of all `seat_count` choices together. QuotaExceededError for too many tokens a minute.
        """
        request = Request(
            tenant=self.tenant,
            adapter=adapter,
            prompt_token_count=prompt_token_count,
            max_answer_token_count=max_answer_token_count,
            seat_count=seat_count,
        )
        return self._admission.seated(request)


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
        self._returns = Returns(clock)

    @contextlib.contextmanager
    def entered(self, tenant: str) -> Iterator[Visit]:
        """Lets a call in for as long as the block runs. QueueFullError, TenantQueueFullError, QuotaExceededError."""
        mine = self._in_flight[tenant]
        if self._total >= self._max_in_flight:
            raise QueueFullError(self._max_in_flight, retry_after_s=self._returns.next_s("", count=self._total))
        if mine >= self._max_in_flight_per_tenant:
            retry_after_s = self._returns.next_s(tenant, count=mine)
            raise TenantQueueFullError(tenant, self._max_in_flight_per_tenant, retry_after_s=retry_after_s)
        limit = self._quotas.limits(tenant).concurrent_requests
        if limit and mine >= limit:
            retry_after_s = self._returns.next_s(tenant, count=mine)
            raise QuotaExceededError(tenant, "concurrent_requests", limit, retry_after_s=retry_after_s)
        self._quotas.take_request(tenant)
        began = self._clock()
        self._count(tenant, 1)
        try:
            yield Visit(self, tenant)
        finally:
            self._count(tenant, -1)
            self._returns.call_ended(self._clock() - began)

    def _count(self, tenant: str, change: int) -> None:
        self._total += change
        self._in_flight[tenant] += change
        if not self._in_flight[tenant]:
            del self._in_flight[tenant]
        metrics.answers_in_flight.set(self._total)

    @property
    def waiting_count(self) -> int:
        """Requests that wait for a seat."""
        return len(self._waiters)

    @contextlib.asynccontextmanager
    async def seated(self, request: Request) -> AsyncIterator[Seat]:
        """See `Visit.seat`. A waiter that is cancelled leaves at once and pays nothing."""
        tenant, estimate = request.tenant, request.prompt_token_count + request.max_answer_token_count
        self._quotas.take_tokens(tenant, estimate)
        request.weight = self._quotas.limits(tenant).weight
        try:
            queue_s = await self._wait(request)
        except BaseException:
            self._quotas.correct_tokens(tenant, -estimate)
            raise
        seat = Seat(queue_s, request.prompt_token_count)
        try:
            yield seat
        finally:
            used = seat.prompt_token_count + seat.answer_token_count
            self._quotas.correct_tokens(tenant, used - estimate)
            self._queue.finish(
                request, prompt_token_count=seat.prompt_token_count, answer_token_count=seat.answer_token_count
            )
            self._start_next()

    async def _wait(self, request: Request) -> float:
        """Seconds that the request waited for its seat."""
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
        """Out of the queue; or off the seat, if it came in the moment of the cancellation."""
        if self._waiters.pop(request, None) is not None:
            self._queue.remove(request)
        else:
            self._queue.finish(request, prompt_token_count=0, answer_token_count=0)
        self._start_next()

    def _start_next(self) -> None:
        """Seats whoever can be seated."""
        while (request := self._queue.take()) is not None:
            turn = self._waiters.pop(request)
            if not turn.done():  # a cancelled one gives its seat back in `_leave`
                turn.set_result(None)

    def load(self, tenant: str) -> Load:
        """What the tenant has in flight now; calls that are still being read count as running."""
        waiting_count = self._queue.waiting_count(tenant)
        return Load(max(0, self._in_flight[tenant] - waiting_count), waiting_count)


def make_admission(config: InferenceConfig, quotas: Quotas) -> Admission:
    """Admission to the one engine of this server."""
    queue = FairQueue(
        seat_count=config.max_num_seqs,
        spare_count=config.spare_batch,
        slot_count=config.max_loras,
        patience=config.adapter_patience,
    )
    return Admission(
        queue=queue,
        quotas=quotas,
        max_in_flight=config.max_in_flight,
        max_in_flight_per_tenant=config.max_in_flight_per_tenant,
    )
