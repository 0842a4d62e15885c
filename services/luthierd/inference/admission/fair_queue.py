"""Which waiting request the engine takes next: weighted fair queueing over tokens and over adapter slots.

Between tenants: start-time fair queueing (Goyal, Vin, Cheng; SIGCOMM 1996) for a server that works on several requests
at once, SFQ(D) (Jin, Chase, Kaur; SIGMETRICS 2004). A request's cost is its tokens, those of the answer twice (VTC:
Sheng et al., OSDI 2024): when it starts, its prompt and the answer that its tenant's last ones make likely; when it
ends, what it really was. For any two tenants that both wait, costs divided by weight differ by at most (D + 1) times
the sum of their largest ones divided by weight, D being the seats.

Seats: an engine that is full answers a newcomer only after somebody's last token. `spare_count` seats more are for
tenants below their share of the seats, so that a flood which holds every ordinary seat delays nobody else's start.

Adapter slots: one batch takes `slot_count` different adapters. A request whose adapter finds no slot is passed over
until `patience` others have started, or not at all if its tenant holds less than its share of the slots. Then one slot
of the tenant with the most of them takes no new requests; when it is empty, the one that was passed over starts with
the next free seat. Such requests have their turn in the order in which they got stuck, one of each tenant at a time. So
a stuck request starts within 2 n + `patience` times the longest run of a request, n being the tenants that wait:
`patience` starts (a run without one leaves slots free), and for each tenant a run for the slot and one for the seat.

Knows no time and no event loop: the same sequence of calls gives the same sequence of requests.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

FIRST_ANSWER_TOKENS = 128.0
"""Expected length of a tenant's first answer; from the second on its own mean counts."""
ANSWER_TOKEN_COST = 2.0
"""Of a token of the prompt, as in VTC. With 1, a tenant of short answers pays more for the same time of the engine."""
MEAN_DECAY = 0.2
"""Weight of the last answer in that mean: about the last ten count."""
MAX_IDLE_FLOWS = 1024
"""Tenants without a request whose account is kept while others are busy."""


@dataclass(eq=False, kw_only=True)
class Request:
    """One request for the engine. `adapter` is empty for the base model; `seat_count` is its number of choices."""

    tenant: str
    adapter: str
    prompt_token_count: int
    max_answer_token_count: int
    seat_count: int = 1
    weight: float = 1.0
    number: int = 0
    charged: float = 0.0
    stuck_since: int = 0
    """How many requests had started when it first lacked a slot; 0: it never did."""


@dataclass(eq=False)
class _Flow:
    """A tenant's account. `tag`: virtual time at which its next request starts."""

    weight: float
    tag: float = 0.0
    waiting: dict[str, deque[Request]] = field(default_factory=dict)
    waiting_count: int = 0
    seat_count: int = 0
    mean_answer_tokens: float = FIRST_ANSWER_TOKENS

    @property
    def oldest(self) -> Request:
        return min((queue[0] for queue in self.waiting.values()), key=lambda request: request.number)

    def cost(self, request: Request) -> float:
        """What it will probably take, in tokens of a prompt."""
        answer_tokens = min(float(request.max_answer_token_count), self.mean_answer_tokens)
        return request.prompt_token_count + ANSWER_TOKEN_COST * answer_tokens


@dataclass(eq=False)
class _Slot:
    """An adapter in the batch, held by the tenant that brought it."""

    tenant: str
    weight: float
    running_count: int = 0
    is_draining: bool = False


class FairQueue:
    """`push` and `take` until nothing comes; `finish` what was taken, `remove` what gave up waiting."""

    def __init__(self, *, seat_count: int, spare_count: int, slot_count: int, patience: int) -> None:
        self._seat_count, self._spare_count = seat_count, spare_count
        self._slot_count, self._patience = slot_count, patience
        self._flows: dict[str, _Flow] = {}
        self._backlog: dict[str, _Flow] = {}
        self._slots: dict[str, _Slot] = {}
        self._now = 0.0
        self._pushed_count = 0
        self._taken_count = 1
        self._stuck: dict[Request, None] = {}  # tenants' oldest that lacked a slot, in the order in which they did
        self._taken_seats = 0
        self._reserved: Request | None = None  # has the next free slot

    def waiting_count(self, tenant: str) -> int:
        """Requests of the tenant that were pushed and not yet taken."""
        flow = self._flows.get(tenant)
        return flow.waiting_count if flow else 0

    def push(self, request: Request) -> None:
        """Puts a request at its tenant's end. More seats than there are count as all of them."""
        flow = self._flows.get(request.tenant)
        if flow is None:
            flow = self._flows[request.tenant] = _Flow(request.weight)
        if flow.waiting_count == 0:
            flow.tag = max(flow.tag, self._now)
            self._backlog[request.tenant] = flow
        self._pushed_count += 1
        request.number, request.seat_count = self._pushed_count, min(request.seat_count, self._seat_count)
        flow.weight = request.weight
        flow.waiting_count += 1
        flow.waiting.setdefault(request.adapter, deque()).append(request)

    def remove(self, request: Request) -> None:
        """Takes a waiting request out, at no cost for its tenant."""
        self._pop(self._flows[request.tenant], request)
        self._forget(request.tenant)

    def take(self) -> Request | None:
        """The request that starts now, if one can."""
        if not self._backlog:
            return None
        order = list(self._backlog.values())
        if len(order) > 1:
            order.sort(key=lambda flow: flow.tag)
        chosen = self._chosen(order)
        if chosen is not None:
            self._taken_count += 1
            self._now = max(self._now, order[0].tag)
            self._start(chosen, self._flows[chosen.tenant])
        if self._stuck and self._reserved is None and len(self._slots) >= self._slot_count:
            self._reserve()
        return chosen

    def _chosen(self, order: list[_Flow]) -> Request | None:
        """The first in order that has a seat and a slot, but before all the one that a slot was cleared for."""
        are_kept = False
        if self._reserved is not None and self._fits(self._reserved):
            if self._taken_seats + self._reserved.seat_count <= self._seat_count:
                return self._reserved
            are_kept = True
        for flow in order:
            request = flow.oldest
            if not self._fits(request):
                if not request.stuck_since:
                    request.stuck_since = self._taken_count
                    self._stuck[request] = None
                younger = self._younger(flow)
                if younger is None:
                    continue
                request = younger
            if self._has_seat(flow, request, order[0], are_kept=are_kept):
                return request
            are_kept = True  # what is first in order gets the next seats; later ones can only take spare ones
        return None

    def _younger(self, flow: _Flow) -> Request | None:
        """The oldest request of the flow that fits."""
        heads = [queue[0] for queue in flow.waiting.values() if self._fits(queue[0])]
        return min(heads, key=lambda request: request.number) if heads else None

    def _fits(self, request: Request) -> bool:
        """Its adapter has a slot, or may have a free one."""
        if not request.adapter:
            return True
        slot = self._slots.get(request.adapter)
        if slot is not None:
            return not slot.is_draining
        kept = 0 if self._reserved is None or self._reserved is request else 1
        return len(self._slots) + kept < self._slot_count

    def _has_seat(self, flow: _Flow, request: Request, first: _Flow, *, are_kept: bool) -> bool:
        """There is an ordinary seat that is not kept for another; or, when none is left, a spare one.

        That is for tenants below their share of the seats, and ahead of the first by no more than all seats take at
        once. By their own share of that, a tenant that asks for just its share would wait for each of its longer runs.
        """
        taken = self._taken_seats + request.seat_count
        if taken <= self._seat_count:
            return not are_kept
        if taken > self._seat_count + self._spare_count:
            return False
        weights = sum(one.weight for one in self._flows.values() if one.waiting_count or one.seat_count)
        share = max(1.0, self._seat_count * flow.weight / weights)
        if flow.seat_count + request.seat_count > share:
            return False
        return (flow.tag - first.tag) * flow.weight <= self._seat_count * flow.cost(request)

    def _start(self, request: Request, flow: _Flow) -> None:
        self._pop(flow, request)
        request.charged = flow.cost(request)
        flow.tag += request.charged / request.weight
        flow.seat_count += request.seat_count
        self._taken_seats += request.seat_count
        if request.adapter:
            slot = self._slots.get(request.adapter)
            if slot is None:
                slot = self._slots[request.adapter] = _Slot(request.tenant, request.weight)
            slot.running_count += 1

    def finish(self, request: Request, *, prompt_token_count: int, answer_token_count: int) -> None:
        """Frees the seats of a request that was taken, and corrects what its tenant was charged."""
        flow = self._flows[request.tenant]
        cost = prompt_token_count + ANSWER_TOKEN_COST * answer_token_count
        flow.tag += (cost - request.charged) / request.weight
        flow.mean_answer_tokens += MEAN_DECAY * (answer_token_count / request.seat_count - flow.mean_answer_tokens)
        flow.seat_count -= request.seat_count
        self._taken_seats -= request.seat_count
        if request.adapter:
            slot = self._slots[request.adapter]
            slot.running_count -= 1
            if slot.running_count == 0:
                del self._slots[request.adapter]
        self._forget(request.tenant)

    def _pop(self, flow: _Flow, request: Request) -> None:
        """Out of the queue; a slot that was kept for it is nobody's now, or the one it just got."""
        queue = flow.waiting[request.adapter]
        if queue[0] is request:
            queue.popleft()
        else:
            queue.remove(request)
        if not queue:
            del flow.waiting[request.adapter]
        flow.waiting_count -= 1
        if flow.waiting_count == 0:
            del self._backlog[request.tenant]
        self._stuck.pop(request, None)
        if self._reserved is request:
            self._reserved = None
            for slot in self._slots.values():
                slot.is_draining = False

    def _reserve(self) -> None:
        """Keeps the next slot for the first stuck request that is due, and clears one.

        Due: `patience` requests have started since it got stuck, or its tenant holds less than its share of the slots.
        """
        held: Counter[str] = Counter(slot.tenant for slot in self._slots.values())
        richest = max(self._slots.values(), key=lambda slot: held[slot.tenant] / slot.weight)
        for request in self._stuck:
            has_less = (held[request.tenant] + 1) / request.weight <= held[richest.tenant] / richest.weight
            if (has_less or self._taken_count - request.stuck_since >= self._patience) and not self._fits(request):
                self._reserved = request
                of_richest = [slot for slot in self._slots.values() if slot.tenant == richest.tenant]
                min(of_richest, key=lambda slot: slot.running_count).is_draining = True
                return

    def _forget(self, tenant: str) -> None:
        """Drops accounts that say no more than none would: all of them when nobody waits or runs."""
        flow = self._flows[tenant]
        if flow.waiting_count or flow.seat_count:
            return
        if not self._backlog and self._taken_seats == 0:
            self._flows.clear()
            self._now = 0.0
        elif flow.tag <= self._now or len(self._flows) > MAX_IDLE_FLOWS:
            del self._flows[tenant]
