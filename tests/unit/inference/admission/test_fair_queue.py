"""Order, shares and the bound on waiting, each over many seeded random loads."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Callable

import pytest
from luthierd.inference.admission.fair_queue import FairQueue, Request

LONGEST_RUN = 100
SEEDS = range(40)


def request(tenant: str, adapter: str = "", *, tokens: int = 10, weight: float = 1.0, slots: int = 1) -> Request:
    """A request whose cost is known from the start."""
    return Request(
        tenant=tenant,
        adapter=adapter,
        prompt_token_count=tokens,
        max_answer_token_count=0,
        weight=weight,
        slot_count=slots,
    )


def take_all(queue: FairQueue) -> list[Request]:
    """Whatever can start now."""
    return list(iter(queue.take, None))


def finish(queue: FairQueue, one: Request) -> None:
    """Ends it with the cost that it was charged."""
    queue.finish(one, prompt_token_count=one.prompt_token_count, answer_token_count=0)


class Engine:
    """An engine that runs every request for as many steps as it has tokens, and writes down when each started.

    `answer_tokens`: of requests that run for as many steps as their answers have tokens, instead of their prompts'.
    """

    def __init__(
        self, queue: FairQueue, *, slots: int, adapter_slots: int, answer_tokens: Callable[[Request], int] | None = None
    ) -> None:
        self.queue, self.slots, self.adapter_slots = queue, slots, adapter_slots
        self.step = 0
        self.running: list[tuple[int, int, Request]] = []
        self.answer_tokens = answer_tokens
        self.answers: dict[Request, int] = {}
        self.pushed_at: dict[Request, int] = {}
        self.waited: dict[str, list[int]] = defaultdict(list)
        self.stuck_since: dict[Request, int] = {}
        self.waited_stuck: list[tuple[int, Request]] = []
        self.served: Counter[str] = Counter()
        self.waiting: dict[str, list[Request]] = defaultdict(list)
        self.on_end: Callable[[Request], None] = lambda one: None
        self._numbers = itertools.count()

    def push(self, one: Request) -> None:
        self.queue.push(one)
        self.pushed_at[one] = self.step
        self.waiting[one.tenant].append(one)

    def advance(self) -> None:
        """One step: what has ended leaves, what can start starts."""
        self.step += 1
        while self.running and self.running[0][0] <= self.step:
            ended = heapq.heappop(self.running)[2]
            answer_tokens = self.answers.pop(ended)
            self.queue.finish(ended, prompt_token_count=ended.prompt_token_count, answer_token_count=answer_tokens)
            self.on_end(ended)
        for one in take_all(self.queue):
            answer_tokens = self.answers[one] = self.answer_tokens(one) if self.answer_tokens else 0
            end = self.step + (answer_tokens or one.prompt_token_count)
            heapq.heappush(self.running, (end, next(self._numbers), one))
            self.waited[one.tenant].append(self.step - self.pushed_at.pop(one))
            self.served[one.tenant] += one.prompt_token_count
            if one in self.stuck_since:
                self.waited_stuck.append((self.step - self.stuck_since.pop(one), one))
            self.waiting[one.tenant].remove(one)
        for oldest in (queue[0] for queue in self.waiting.values() if queue and queue[0].stuck_since):
            self.stuck_since.setdefault(oldest, self.step)
        assert sum(one.slot_count for *_, one in self.running) <= self.slots
        assert len({one.adapter for *_, one in self.running} - {""}) <= self.adapter_slots


def test_a_tenant_that_comes_later_goes_before_a_flood() -> None:
    queue = FairQueue(slot_count=1, spare_count=0, adapter_slot_count=1, patience=0)
    for _ in range(10):
        queue.push(request("flood"))
    [running] = take_all(queue)
    queue.push(request("other"))
    finish(queue, running)
    assert [one.tenant for one in take_all(queue)] == ["other"]


@pytest.mark.parametrize("seed", SEEDS)
def test_tenants_that_always_wait_get_tokens_by_weight_within_the_bound_of_sfq(seed: int) -> None:
    rng = random.Random(seed)
    slots = rng.randint(1, 16)
    weights = {f"t{number}": rng.choice((0.5, 1.0, 2.0, 4.0)) for number in range(rng.randint(2, 6))}
    queue = FairQueue(slot_count=slots, spare_count=0, adapter_slot_count=4, patience=4)
    engine = Engine(queue, slots=slots, adapter_slots=4)
    largest = {tenant: rng.randint(1, LONGEST_RUN) for tenant in weights}

    def push(tenant: str) -> None:
        engine.push(request(tenant, tokens=rng.randint(1, largest[tenant]), weight=weights[tenant]))

    for tenant in weights:
        for _ in range(slots + 2):
            push(tenant)
    engine.on_end = lambda one: push(one.tenant)
    for _ in range(3000):
        engine.advance()
        for a, b in itertools.combinations(weights, 2):
            apart = abs(engine.served[a] / weights[a] - engine.served[b] / weights[b])
            assert apart <= (slots + 1) * (largest[a] / weights[a] + largest[b] / weights[b])


@pytest.mark.parametrize("seed", SEEDS)
def test_no_request_starves_whatever_adapters_the_others_ask_for(seed: int) -> None:
    """The bound that the module states: 2 n + patience runs of the longest request."""
    rng = random.Random(seed)
    slots, adapter_slots, patience = rng.randint(2, 16), rng.randint(1, 4), rng.randint(0, 4)
    spare = rng.randint(0, 4)
    queue = FairQueue(slot_count=slots, spare_count=spare, adapter_slot_count=adapter_slots, patience=patience)
    engine = Engine(queue, slots=slots + spare, adapter_slots=adapter_slots)
    tenants = [f"t{number}" for number in range(rng.randint(1, 5))]
    adapter_counts = {tenant: rng.randint(0, 8) for tenant in tenants}

    def push(tenant: str) -> None:
        count = adapter_counts[tenant]
        skewed = int(count * rng.random() ** 3)
        adapter = f"{tenant}-{skewed}" if count and rng.random() < 0.9 else ""
        engine.push(request(tenant, adapter, tokens=rng.choice((1, 5, LONGEST_RUN))))

    for tenant in tenants:
        for _ in range(3 * slots if rng.random() < 0.5 else 1):
            push(tenant)
    engine.on_end = lambda one: push(one.tenant)
    for _ in range(4000):
        engine.advance()
    bound = (2 * len(tenants) + patience) * LONGEST_RUN
    still = [engine.step - since for since in engine.stuck_since.values()]
    assert max([0, *still, *(waited for waited, _ in engine.waited_stuck)]) <= bound


def test_one_adapter_in_demand_does_not_keep_another_out_for_ever() -> None:
    queue = FairQueue(slot_count=4, spare_count=0, adapter_slot_count=1, patience=2)
    engine = Engine(queue, slots=4, adapter_slots=1)
    for _ in range(8):
        engine.push(request("a", "hot", tokens=7))
    engine.on_end = lambda one: engine.push(request("a", "hot", tokens=7))
    engine.advance()
    cold = request("a", "cold", tokens=7)
    engine.push(cold)
    for _ in range(100):
        engine.advance()
    assert cold in [one for _, one in engine.waited_stuck]


def test_a_tenant_that_floods_with_many_adapters_gives_a_slot_to_one_that_has_none() -> None:
    queue = FairQueue(slot_count=8, spare_count=2, adapter_slot_count=4, patience=1000)
    for number in range(40):
        queue.push(request("flood", f"f{number % 4}"))
    running = take_all(queue)
    queue.push(request("other", "mine"))
    assert take_all(queue) == []
    started: list[str] = []
    while "other" not in started and running:
        finish(queue, running.pop(0))
        more = take_all(queue)
        started += [one.tenant for one in more]
        running += more
    assert "other" in started
    assert len(started) <= 8


def test_spare_slots_are_for_tenants_below_their_share_only() -> None:
    queue = FairQueue(slot_count=4, spare_count=2, adapter_slot_count=1, patience=0)
    for _ in range(10):
        queue.push(request("flood"))
    assert len(take_all(queue)) == 4
    for _ in range(5):
        queue.push(request("other"))
    assert [one.tenant for one in take_all(queue)] == ["other", "other"]


@pytest.mark.parametrize("seed", range(5))
def test_a_flood_of_long_answers_does_not_delay_a_tenant_of_short_ones_that_keeps_to_its_share(seed: int) -> None:
    """Its share: half of the slots."""
    rng = random.Random(seed)
    lengths = {"a": range(8, 14), "flood": range(20, 33)}
    queue = FairQueue(slot_count=16, spare_count=8, adapter_slot_count=1, patience=0)
    engine = Engine(queue, slots=24, adapter_slots=1, answer_tokens=lambda one: rng.choice(lengths[one.tenant]))

    def push(tenant: str) -> None:
        longest = lengths[tenant][-1]
        engine.push(Request(tenant=tenant, adapter="", prompt_token_count=10, max_answer_token_count=longest))

    for tenant in ["a"] * 8 + ["flood"] * 80:
        push(tenant)
    engine.on_end = lambda one: push(one.tenant)
    for step in range(2000):
        if step == 200:  # the mean lengths of answers are known by then
            engine.waited.clear()
        engine.advance()
    waits = engine.waited["a"]
    assert len(waits) > 1000
    assert sum(waits) / len(waits) < 0.3  # 1.0 when a token of an answer costs no more than one of a prompt


def test_what_a_tenant_did_not_use_of_its_estimate_is_given_back_to_it() -> None:
    queue = FairQueue(slot_count=1, spare_count=0, adapter_slot_count=1, patience=0)
    mine = [Request(tenant="a", adapter="", prompt_token_count=1, max_answer_token_count=1000) for _ in range(3)]
    for one in mine:
        queue.push(one)
    queue.push(request("b", tokens=50))
    queue.push(request("b", tokens=50))
    [first] = take_all(queue)
    queue.finish(first, prompt_token_count=1, answer_token_count=2)
    [second] = take_all(queue)
    finish(queue, second)
    [third] = take_all(queue)
    assert [first.tenant, second.tenant, third.tenant] == ["a", "b", "a"]


def test_a_request_that_gives_up_leaves_nothing_behind() -> None:
    queue = FairQueue(slot_count=1, spare_count=0, adapter_slot_count=1, patience=0)
    queue.push(request("a", "x"))
    [running] = take_all(queue)
    waiting = [request("b", "y"), request("b", "z"), request("c")]
    for one in waiting:
        queue.push(one)
    assert take_all(queue) == []
    for one in waiting:
        queue.remove(one)
    assert queue.waiting_count("b") == queue.waiting_count("c") == 0
    queue.push(request("a", "x"))
    finish(queue, running)
    [last] = take_all(queue)
    finish(queue, last)
    assert not vars(queue)["_flows"]
    assert not vars(queue)["_adapter_slots"]


def test_a_request_of_many_slots_is_not_starved_by_small_ones() -> None:
    queue = FairQueue(slot_count=4, spare_count=0, adapter_slot_count=1, patience=0)
    for _ in range(8):
        queue.push(request("small"))
    running = take_all(queue)
    queue.push(request("large", slots=9))
    for _ in range(4):
        finish(queue, running.pop(0))
        running += take_all(queue)
    assert [(one.tenant, one.slot_count) for one in running] == [("large", 4)]


def with_memory(token_capacity: int) -> FairQueue:
    """Eight slots and four spare ones: two thirds of the memory are ordinary."""
    queue = FairQueue(slot_count=8, spare_count=4, adapter_slot_count=1, patience=0)
    queue.token_capacity = token_capacity
    return queue


def test_running_requests_never_hold_more_than_the_engine_s_memory_and_another_tenant_finds_room() -> None:
    queue = with_memory(3000)
    for _ in range(8):
        queue.push(request("flood", tokens=900))
    assert [one.tenant for one in take_all(queue)] == ["flood", "flood"]
    for _ in range(3):
        queue.push(request("other", tokens=300))
    assert [one.tenant for one in take_all(queue)] == ["other", "other", "other"]
    queue.push(request("other", tokens=400))
    assert take_all(queue) == []


def test_a_request_larger_than_the_memory_runs_alone_and_is_not_starved() -> None:
    queue = with_memory(100)
    for _ in range(4):
        queue.push(request("small", tokens=20))
    running = take_all(queue)
    queue.push(request("large", tokens=500))
    for _ in range(8):
        queue.push(request("small", tokens=20))
    order: list[str] = []
    while running:
        finish(queue, running.pop(0))
        more = take_all(queue)
        order += [one.tenant for one in more]
        running += more
    assert order.index("large") <= 4


def test_long_answers_are_expected_to_need_memory_too() -> None:
    queue = with_memory(3000)

    def push() -> None:
        queue.push(Request(tenant="a", adapter="", prompt_token_count=10, max_answer_token_count=1000))

    for _ in range(16):
        push()
    _, *others = take_all(queue)
    assert len(others) == 7
    for one in others:
        queue.finish(one, prompt_token_count=10, answer_token_count=900)
    assert len(take_all(queue)) == 2


def test_every_choice_is_expected_to_be_as_long_as_the_tenant_s_answers() -> None:
    queue = FairQueue(slot_count=8, spare_count=0, adapter_slot_count=1, patience=0)
    for slots in (1, 4):
        queue.push(
            Request(tenant=f"t{slots}", adapter="", prompt_token_count=0, max_answer_token_count=4000, slot_count=slots)
        )
    one, four = take_all(queue)
    assert four.charged == 4 * one.charged


def test_a_flood_of_answers_longer_than_expected_pays_while_they_run() -> None:
    """Charged at their end only, it would be behind its account all the time, and the other tenant would wait."""
    queue = FairQueue(slot_count=8, spare_count=4, adapter_slot_count=1, patience=0)
    engine = Engine(queue, slots=12, adapter_slots=1, answer_tokens=lambda one: 5000 if one.tenant == "flood" else 20)

    def push(tenant: str) -> None:
        engine.push(Request(tenant=tenant, adapter="", prompt_token_count=10, max_answer_token_count=5000))

    for tenant in ["flood"] * 40 + ["a"] * 4:
        push(tenant)
    engine.on_end = lambda one: push(one.tenant)
    for _ in range(4000):
        for end, _, one in engine.running:
            queue.progress(one, answer_token_count=engine.answers[one] - (end - engine.step))
        engine.advance()
    assert max(engine.waited["a"]) <= 1
