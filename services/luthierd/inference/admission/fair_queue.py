"""Which waiting request the engine takes next: weighted fair queueing over tokens and over adapter slots.

Between tenants: start-time fair queueing (Goyal, Vin, Cheng; SIGCOMM 1996) for a server that works on several requests
at a time, SFQ(D) (Jin, Chase, Kaur; SIGMETRICS 2004). The cost of a request is its tokens, with answer tokens counted
twice (VTC: Sheng et al., OSDI 2024). It is charged at the start with the answer length expected from the tenant's last
answers, corrected when it grows longer, and at the end. For any two tenants that both have waiting requests, their
costs divided by weight differ by at most (D + 1) times the sum of their largest costs divided by weight, where D is the
number of slots.

Slots: a full engine can start a new request only when a running one ends. `spare_count` additional slots are reserved
for tenants below their share of the slots, so a flood that fills every ordinary slot does not delay their start. The
same holds for the engine's memory: `token_capacity` is divided into an ordinary and a spare part as the slots are, and
a running request holds its prompt and the answer expected from its tenant. A request of several answers has a slot for
each, and starts when all of them are free.

Adapter slots: one batch holds `adapter_slot_count` different adapters. A request whose adapter has no slot is passed
over until `patience` others have started, or not at all if its tenant holds less than its share of the adapter slots.
Then one adapter slot of the tenant with the most of them takes no new requests; once it is empty, the request that was
passed over starts with the next free slot. Such requests are served in the order in which they got stuck, one per
tenant at a time. So a stuck request starts within 2 n + `patience` times the longest run of a request, where n is the
number of waiting tenants: `patience` starts (a run without one leaves adapter slots free), and for each tenant one run
for the adapter slot and one for the slot.

It has no clock and no event loop: the same sequence of calls gives the same sequence of requests.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

FIRST_ANSWER_TOKENS = 128.0
"""Expected length of a tenant's first answer; later ones use the tenant's own mean."""
ANSWER_TOKEN_COST = 2.0
"""In prompt tokens, as in VTC. With 1, tenants with short answers would pay more for the same engine time."""
MEAN_DECAY = 0.2
"""Weight of the last answer in that mean: roughly the last ten answers."""
MAX_IDLE_FLOWS = 1024
"""Idle tenants whose account is kept while others are busy."""


@dataclass(eq=False, kw_only=True)
class Request:
    """One request to the engine. `adapter` is empty for the base model; `slot_count` is its number of choices."""

    tenant: str
    adapter: str
    prompt_token_count: int
    max_answer_token_count: int
    slot_count: int = 1
    weight: float = 1.0
    number: int = 0
    charged: float = 0.0
    held_token_count: float = 0.0
    stuck_since: int = 0
    """Number of requests started when it first found no adapter slot; 0: it always found one."""


@dataclass(eq=False, kw_only=True)
class _Flow:
    """A tenant's account. `tag`: the virtual time at which its next request starts."""

    weight: float
    tag: float = 0.0
    waiting: dict[str, deque[Request]] = field(default_factory=dict)
    waiting_count: int = 0
    slot_count: int = 0
    held_token_count: float = 0.0
    mean_answer_tokens: float = FIRST_ANSWER_TOKENS

    @property
    def oldest(self) -> Request:
        return min((queue[0] for queue in self.waiting.values()), key=lambda request: request.number)

    def cost(self, request: Request) -> float:
        """Expected cost, in prompt tokens."""
        return request.prompt_token_count + ANSWER_TOKEN_COST * self._answer_tokens(request)

    def tokens(self, request: Request) -> float:
        """Expected size in the engine's memory; the choices share the prompt."""
        return request.prompt_token_count + self._answer_tokens(request)

    def _answer_tokens(self, request: Request) -> float:
        """Of all choices together."""
        return min(float(request.max_answer_token_count), request.slot_count * self.mean_answer_tokens)


@dataclass(eq=False)
class _AdapterSlot:
    """An adapter in the batch, and the tenant whose request brought it there."""

    tenant: str
    weight: float
    running_count: int = 0
    is_draining: bool = False


class FairQueue:
    """`push` requests, `take` until None; then `finish` what was taken, or `remove` what gave up waiting."""

    def __init__(self, *, slot_count: int, spare_count: int, adapter_slot_count: int, patience: int) -> None:
        self.slot_count, self._spare_count = slot_count, spare_count
        self.token_capacity = 0
        """0: unknown, which means no limit."""
        self._adapter_slot_count, self._patience = adapter_slot_count, patience
        self._flows: dict[str, _Flow] = {}
        self._backlog: dict[str, _Flow] = {}
        self._adapter_slots: dict[str, _AdapterSlot] = {}
        self._now = 0.0
        self._pushed_count = 0
        self._taken_count = 1
        self._stuck: dict[Request, None] = {}  # in the order in which they got stuck
        self._taken_slots = 0
        self._taken_tokens = 0.0
        self._reserved: Request | None = None  # gets the next free adapter slot

    def waiting_count(self, tenant: str) -> int:
        flow = self._flows.get(tenant)
        return flow.waiting_count if flow else 0

    def push(self, request: Request) -> None:
        """Queues a request behind its tenant's others. `slot_count` is capped at the number of slots."""
        flow = self._flows.get(request.tenant)
        if flow is None:
            flow = self._flows[request.tenant] = _Flow(weight=request.weight)
        if flow.waiting_count == 0:
            flow.tag = max(flow.tag, self._now)
            self._backlog[request.tenant] = flow
        self._pushed_count += 1
        request.number, request.slot_count = self._pushed_count, min(request.slot_count, self.slot_count)
        flow.weight = request.weight
        flow.waiting_count += 1
        flow.waiting.setdefault(request.adapter, deque()).append(request)

    def remove(self, request: Request) -> None:
        """Removes a waiting request at no cost to its tenant."""
        self._pop(self._flows[request.tenant], request)
        self._forget(request.tenant)

    def take(self) -> Request | None:
        """The request to start now; None if none can."""
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
        if self._stuck and self._reserved is None and len(self._adapter_slots) >= self._adapter_slot_count:
            self._reserve()
        return chosen

    def _chosen(self, order: list[_Flow]) -> Request | None:
        """The request with a cleared adapter slot, else the first in order that finds a slot and an adapter slot."""
        are_kept = False
        if self._reserved is not None and self._fits(self._reserved):
            if self._has_room(self._flows[self._reserved.tenant], self._reserved):
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
            if self._has_slot(flow, request, are_kept=are_kept):
                return request
            are_kept = True  # the first in order gets the next slots; later ones may only use spare ones
        return None

    def _younger(self, flow: _Flow) -> Request | None:
        """The oldest request of the flow that fits."""
        heads = [queue[0] for queue in flow.waiting.values() if self._fits(queue[0])]
        return min(heads, key=lambda request: request.number) if heads else None

    def _fits(self, request: Request) -> bool:
        """Whether its adapter has a slot or can get a free one."""
        if not request.adapter:
            return True
        slot = self._adapter_slots.get(request.adapter)
        if slot is not None:
            return not slot.is_draining
        kept = 0 if self._reserved is None or self._reserved is request else 1
        return len(self._adapter_slots) + kept < self._adapter_slot_count

    def _has_slot(self, flow: _Flow, request: Request, *, are_kept: bool) -> bool:
        """Whether there are ordinary slots not kept for another, or, with none left, spare ones.

        Spare slots are for tenants below their share of the slots and of the memory, however much they used before:
        bounded by that, a tenant using exactly its share would wait now and then, next to long answers.
        """
        if self._has_room(flow, request):
            return not are_kept
        if not self._has_room(flow, request, with_spare=True):
            return False
        weights = sum(one.weight for one in self._flows.values() if one.waiting_count or one.slot_count)
        share = flow.weight / weights
        if flow.slot_count + request.slot_count > max(1.0, self.slot_count * share):
            return False
        tokens = flow.held_token_count + flow.tokens(request)
        return flow.slot_count == 0 or tokens <= self._tokens(with_spare=False) * share

    def _has_room(self, flow: _Flow, request: Request, *, with_spare: bool = False) -> bool:
        """Whether its slots and its tokens are free. What is larger than the memory runs alone."""
        slot_count = self.slot_count + (self._spare_count if with_spare else 0)
        if self._taken_slots + request.slot_count > slot_count:
            return False
        is_first = self._taken_slots == 0
        return is_first or self._taken_tokens + flow.tokens(request) <= self._tokens(with_spare=with_spare)

    def _tokens(self, *, with_spare: bool) -> float:
        """The memory of running requests, or its ordinary part."""
        if not self.token_capacity:
            return float("inf")
        part = 1.0 if with_spare else self.slot_count / (self.slot_count + self._spare_count)
        return self.token_capacity * part

    def _start(self, request: Request, flow: _Flow) -> None:
        self._pop(flow, request)
        request.charged = flow.cost(request)
        flow.tag += request.charged / request.weight
        flow.slot_count += request.slot_count
        self._taken_slots += request.slot_count
        request.held_token_count = flow.tokens(request)
        flow.held_token_count += request.held_token_count
        self._taken_tokens += request.held_token_count
        if request.adapter:
            slot = self._adapter_slots.get(request.adapter)
            if slot is None:
                slot = self._adapter_slots[request.adapter] = _AdapterSlot(request.tenant, request.weight)
            slot.running_count += 1

    def progress(self, request: Request, *, answer_token_count: int) -> None:
        """Charges a running request for what it used beyond the estimate, and the memory that it holds."""
        flow = self._flows[request.tenant]
        cost = request.prompt_token_count + ANSWER_TOKEN_COST * answer_token_count
        if cost > request.charged:
            flow.tag += (cost - request.charged) / request.weight
            request.charged = cost
        more = request.prompt_token_count + answer_token_count - request.held_token_count
        if more > 0:
            request.held_token_count += more
            flow.held_token_count += more
            self._taken_tokens += more

    def finish(self, request: Request, *, prompt_token_count: int, answer_token_count: int) -> None:
        """Frees the slots of a running request and corrects the charge of its tenant."""
        flow = self._flows[request.tenant]
        cost = prompt_token_count + ANSWER_TOKEN_COST * answer_token_count
        flow.tag += (cost - request.charged) / request.weight
        flow.mean_answer_tokens += MEAN_DECAY * (answer_token_count / request.slot_count - flow.mean_answer_tokens)
        flow.slot_count -= request.slot_count
        self._taken_slots -= request.slot_count
        flow.held_token_count -= request.held_token_count
        self._taken_tokens -= request.held_token_count
        if request.adapter:
            slot = self._adapter_slots[request.adapter]
            slot.running_count -= 1
            if slot.running_count == 0:
                del self._adapter_slots[request.adapter]
        self._forget(request.tenant)

    def _pop(self, flow: _Flow, request: Request) -> None:
        """Removes it from the queue, and any reservation it had."""
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
            for slot in self._adapter_slots.values():
                slot.is_draining = False

    def _reserve(self) -> None:
        """Reserves the next adapter slot for the first stuck request that is due, and drains one for it.

        Due: `patience` requests started since it got stuck, or its tenant holds less than its share of adapter slots.
        """
        held: Counter[str] = Counter(slot.tenant for slot in self._adapter_slots.values())
        richest = max(self._adapter_slots.values(), key=lambda slot: held[slot.tenant] / slot.weight)
        for request in self._stuck:
            has_less = (held[request.tenant] + 1) / request.weight <= held[richest.tenant] / richest.weight
            if (has_less or self._taken_count - request.stuck_since >= self._patience) and not self._fits(request):
                self._reserved = request
                of_richest = [slot for slot in self._adapter_slots.values() if slot.tenant == richest.tenant]
                min(of_richest, key=lambda slot: slot.running_count).is_draining = True
                return

    def _forget(self, tenant: str) -> None:
        """Drops accounts that equal a new one: all of them when nothing waits or runs."""
        flow = self._flows[tenant]
        if flow.waiting_count or flow.slot_count:
            return
        if not self._backlog and self._taken_slots == 0:
            self._flows.clear()
            self._now = 0.0
        elif flow.tag <= self._now or len(self._flows) > MAX_IDLE_FLOWS:
            del self._flows[tenant]
