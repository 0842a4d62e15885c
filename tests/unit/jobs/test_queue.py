"""The durable queue, on SQLite and on PostgreSQL: one worker at a time, and no word from one that lost its lease."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa
from luthierd.errors import InvalidArgumentError
from luthierd.jobs.queue import (
    FINAL,
    MAX_ATTEMPTS,
    JobExistsError,
    JobNotFoundError,
    JobQueue,
    JobState,
    Lease,
    LeaseLostError,
)
from luthierd.paging import PageRequest
from luthierd.storage.database import Database

JOB = "tenants/acme/trainingJobs/j1"
LEASE_S = 10.0


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now

    def pass_lease(self) -> None:
        self.now += LEASE_S


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(database: Database, clock: Clock) -> JobQueue:
    return JobQueue(database, lease_s=LEASE_S, now=clock)


@pytest.fixture
async def rival(database_url: str, schema: str, database: Database, clock: Clock) -> AsyncIterator[JobQueue]:
    """The same queue as another process sees it."""
    other = Database(database_url, schema=schema)
    yield JobQueue(other, lease_s=LEASE_S, now=clock)
    await other.close()


async def claimed(queue: JobQueue, name: str = JOB) -> Lease:
    lease = await queue.claim(name)
    assert lease is not None
    return lease


async def running(queue: JobQueue, name: str = JOB) -> Lease:
    await queue.submit(name, "train", {})
    return await claimed(queue, name)


async def end(queue: JobQueue, lease: Lease, state: JobState, **values: Any) -> None:
    async with queue.finishing(lease, state, **values):
        pass


async def history(queue: JobQueue, name: str = JOB) -> list[str]:
    """The states that a job went through."""
    events = await queue.events(name, after_event_id=0)
    return [event.data["state"] for event in events if event.kind == "state"]


# --- submitting ---


async def test_a_submitted_job_waits_with_its_payload(queue: JobQueue, clock: Clock) -> None:
    job = await queue.submit(JOB, "train", {"rank": 16, "text": "ä\n"})
    assert job == await queue.get(JOB)
    assert (job.state, job.kind, job.payload) == (JobState.QUEUED, "train", {"rank": 16, "text": "ä\n"})
    assert (job.attempt_count, job.create_time, job.start_time, job.end_time) == (0, clock.now, None, None)
    assert await queue.claimable(10) == [JOB]


async def test_a_name_is_given_once(queue: JobQueue) -> None:
    await queue.submit(JOB, "train", {"first": True})
    with pytest.raises(JobExistsError) as caught:
        await queue.submit(JOB, "train", {"first": False})
    assert caught.value.metadata == {"job": JOB}
    assert (await queue.get(JOB)).payload == {"first": True}


async def test_of_many_that_submit_one_name_at_once_one_wins(queue: JobQueue, rival: JobQueue) -> None:
    results = await asyncio.gather(
        *(q.submit(JOB, "train", {}) for q in (queue, rival) for _ in range(4)), return_exceptions=True
    )
    assert sum(isinstance(result, JobExistsError) for result in results) == 7
    assert await history(queue) == ["QUEUED"]


async def test_a_job_is_submitted_with_the_callers_transaction_or_not_at_all(
    queue: JobQueue, database: Database
) -> None:
    async def submit_and_fail() -> None:
        async with database.begin() as tx:
            await queue.submit(JOB, "train", {}, connection=tx)
            raise RuntimeError("the revision could not be written")

    with pytest.raises(RuntimeError):
        await submit_and_fail()
    with pytest.raises(JobNotFoundError) as caught:
        await queue.get(JOB)
    assert caught.value.metadata == {"job": JOB}


# --- claiming ---


async def test_of_many_that_claim_at_once_one_gets_the_job(queue: JobQueue, rival: JobQueue) -> None:
    await queue.submit(JOB, "train", {})
    leases = await asyncio.gather(*(q.claim(JOB) for q in (queue, rival) for _ in range(8)))
    (lease,) = [lease for lease in leases if lease is not None]
    job = await queue.get(JOB)
    assert (job.state, job.attempt_count, job.fencing_token) == (JobState.RUNNING, 1, lease.fencing_token)


async def test_a_held_job_is_not_given_away(queue: JobQueue, clock: Clock) -> None:
    await running(queue)
    clock.now += LEASE_S - 0.1
    assert await queue.claim(JOB) is None
    assert await queue.claimable(10) == []
    assert await queue.leased_count() == 1


async def test_a_heartbeat_renews_the_lease(queue: JobQueue, clock: Clock) -> None:
    lease = await running(queue)
    clock.now += LEASE_S - 1
    assert await queue.heartbeat(lease) is JobState.RUNNING
    clock.now += LEASE_S - 1
    assert await queue.claim(JOB) is None


async def test_a_lease_that_ran_out_hands_the_job_over(queue: JobQueue, clock: Clock) -> None:
    first = await running(queue)
    clock.pass_lease()
    assert await queue.claimable(10) == [JOB]
    assert await queue.leased_count() == 0
    second = await claimed(queue)
    assert second.fencing_token > first.fencing_token
    assert (second.job.attempt_count, second.job.state) == (2, JobState.RUNNING)
    assert await queue.leased_count() == 1


async def test_after_a_lease_ran_out_one_successor_gets_the_job(queue: JobQueue, rival: JobQueue, clock: Clock) -> None:
    await running(queue)
    clock.pass_lease()
    leases = await asyncio.gather(*(q.claim(JOB) for q in (queue, rival) for _ in range(5)))
    assert sum(lease is not None for lease in leases) == 1


async def test_waiting_jobs_come_oldest_first(queue: JobQueue, clock: Clock) -> None:
    for name in ("c", "a", "b"):
        await queue.submit(name, "train", {})
        clock.now += 1
    assert await queue.claimable(2) == ["c", "a"]


async def test_the_start_time_is_that_of_the_first_attempt(queue: JobQueue, clock: Clock) -> None:
    started = clock.now
    await running(queue)
    clock.pass_lease()
    assert (await claimed(queue)).job.start_time == started


async def test_a_job_that_does_not_exist_cannot_be_claimed(queue: JobQueue) -> None:
    with pytest.raises(JobNotFoundError):
        await queue.claim("tenants/acme/trainingJobs/none")


# --- fencing ---


@pytest.fixture
async def late(queue: JobQueue, clock: Clock) -> Lease:
    """The lease of a worker that slept too long: another has its job by now."""
    lease = await running(queue)
    clock.pass_lease()
    await claimed(queue)
    return lease


async def test_a_late_worker_cannot_renew(queue: JobQueue, late: Lease) -> None:
    with pytest.raises(LeaseLostError) as caught:
        await queue.heartbeat(late)
    assert caught.value.metadata == {"job": JOB}


async def test_a_late_worker_cannot_emit(queue: JobQueue, late: Lease) -> None:
    before = await queue.get(JOB)
    with pytest.raises(LeaseLostError):
        await queue.emit(late, [("progress", {"step": 1})])
    assert await queue.get(JOB) == before


async def test_a_late_worker_cannot_hand_back(queue: JobQueue, late: Lease) -> None:
    with pytest.raises(LeaseLostError):
        await queue.release(late)
    assert await queue.leased_count() == 1


async def test_a_late_worker_cannot_finish_nor_commit_its_result(
    queue: JobQueue, database: Database, late: Lease
) -> None:
    async def finish() -> None:
        async with queue.finishing(late, JobState.SUCCEEDED, result={"late": True}) as tx:
            await queue.submit("made by the late one", "x", {}, connection=tx)

    with pytest.raises(LeaseLostError):
        await finish()
    assert (await queue.get(JOB)).state is JobState.RUNNING
    assert await queue.claimable(10) == []


async def test_nobody_writes_to_a_finished_job(queue: JobQueue) -> None:
    lease = await running(queue)
    await end(queue, lease, JobState.SUCCEEDED)
    for write in (queue.heartbeat(lease), queue.emit(lease, [("message", {})]), queue.release(lease)):
        with pytest.raises(LeaseLostError):
            await write
    assert await history(queue) == ["QUEUED", "RUNNING", "SUCCEEDED"]


# --- the end of a job ---


@pytest.mark.parametrize("state", sorted(FINAL))
async def test_a_finished_job_stays_as_it_is(queue: JobQueue, clock: Clock, state: JobState) -> None:
    lease = await running(queue)
    clock.now += 3
    await end(queue, lease, state, result={"loss": 0.5}, error={"reason": "X"})
    job = await queue.get(JOB)
    assert (job.state, job.end_time, job.result, job.error) == (state, clock.now, {"loss": 0.5}, {"reason": "X"})
    assert job.lease_expire_time is None
    clock.pass_lease()
    assert await queue.claim(JOB) is None
    assert await queue.claimable(10) == []
    assert await queue.cancel(JOB) == job == await queue.get(JOB)


async def test_the_result_is_committed_together_with_the_state(queue: JobQueue, database: Database) -> None:
    lease = await running(queue)

    async def fail_half_way() -> None:
        async with queue.finishing(lease, JobState.SUCCEEDED) as tx:
            await queue.submit("the adapter's row", "x", {}, connection=tx)
            raise RuntimeError("disk gone")

    with pytest.raises(RuntimeError):
        await fail_half_way()
    assert (await queue.get(JOB)).state is JobState.RUNNING
    with pytest.raises(JobNotFoundError):
        await queue.get("the adapter's row")


# --- cancelling ---


async def test_a_waiting_job_is_cancelled_at_once(queue: JobQueue, clock: Clock) -> None:
    await queue.submit(JOB, "train", {})
    job = await queue.cancel(JOB)
    assert (job.state, job.end_time) == (JobState.CANCELLED, clock.now)
    assert await queue.claim(JOB) is None


async def test_a_running_job_is_asked_to_end_and_its_worker_hears_it(queue: JobQueue) -> None:
    lease = await running(queue)
    assert (await queue.cancel(JOB)).state is JobState.CANCELLING
    assert (await queue.cancel(JOB)).state is JobState.CANCELLING
    assert await queue.heartbeat(lease) is JobState.CANCELLING
    await end(queue, lease, JobState.CANCELLED)
    assert await history(queue) == ["QUEUED", "RUNNING", "CANCELLING", "CANCELLED"]


async def test_a_job_that_is_done_before_it_hears_of_the_cancel_succeeds(queue: JobQueue) -> None:
    lease = await running(queue)
    await queue.cancel(JOB)
    await end(queue, lease, JobState.SUCCEEDED)
    assert (await queue.get(JOB)).state is JobState.SUCCEEDED


async def test_a_cancelled_job_whose_worker_died_ends_at_the_next_claim(queue: JobQueue, clock: Clock) -> None:
    await running(queue)
    await queue.cancel(JOB)
    clock.pass_lease()
    assert await queue.claimable(10) == [JOB]
    assert await queue.claim(JOB) is None
    assert (await queue.get(JOB)).state is JobState.CANCELLED


async def test_a_job_that_does_not_exist_cannot_be_cancelled(queue: JobQueue) -> None:
    with pytest.raises(JobNotFoundError):
        await queue.cancel(JOB)


# --- dead workers ---


async def test_a_job_over_which_too_many_workers_died_fails(queue: JobQueue, clock: Clock) -> None:
    await running(queue)
    for _ in range(MAX_ATTEMPTS - 1):
        clock.pass_lease()
        await claimed(queue)
    clock.pass_lease()
    assert await queue.claim(JOB) is None
    job = await queue.get(JOB)
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert (job.error["code"], job.error["reason"]) == ("INTERNAL", "WORKER_DIED")
    assert str(MAX_ATTEMPTS) in job.error["message"]


async def test_the_job_of_a_worker_known_to_be_dead_is_free_at_once(queue: JobQueue) -> None:
    await running(queue)
    await queue.worker_died(JOB, token_before=0)
    assert await queue.claimable(10) == [JOB]
    assert (await claimed(queue)).job.attempt_count == 2


async def test_the_death_of_a_late_worker_takes_nothing_from_its_successor(queue: JobQueue, late: Lease) -> None:
    await queue.worker_died(JOB, token_before=late.fencing_token - 1)
    assert await queue.claim(JOB) is None


async def test_the_death_of_a_worker_that_had_finished_changes_nothing(queue: JobQueue) -> None:
    lease = await running(queue)
    await end(queue, lease, JobState.SUCCEEDED)
    job = await queue.get(JOB)
    await queue.worker_died(JOB, token_before=0)
    assert await queue.get(JOB) == job


async def test_a_worker_that_cannot_even_claim_is_not_started_for_ever(queue: JobQueue) -> None:
    await queue.submit(JOB, "train", {})
    for _ in range(MAX_ATTEMPTS):
        assert (await queue.get(JOB)).state is JobState.QUEUED
        await queue.worker_died(JOB, token_before=0)
    job = await queue.get(JOB)
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error["reason"] == "WORKER_DIED"


async def test_a_cancelled_job_that_no_worker_can_claim_is_cancelled_not_failed(queue: JobQueue, clock: Clock) -> None:
    await running(queue)
    await queue.cancel(JOB)
    clock.pass_lease()
    for _ in range(MAX_ATTEMPTS):
        await queue.worker_died(JOB, token_before=1)
    assert (await queue.get(JOB)).state is JobState.CANCELLED


async def test_a_job_handed_back_waits_for_the_next_worker_and_costs_no_attempt(queue: JobQueue) -> None:
    for _ in range(MAX_ATTEMPTS + 1):
        lease = await claimed(queue) if await queue.claimable(1) else await running(queue)
        await queue.release(lease)
    assert (await claimed(queue)).job.attempt_count == 1


async def test_a_worker_has_lost_its_job_only_after_it_had_it(queue: JobQueue, clock: Clock) -> None:
    await queue.submit(JOB, "train", {})
    assert not await queue.has_lost(JOB, 1)  # it is still starting
    lease = await claimed(queue)
    clock.pass_lease()
    assert not await queue.has_lost(JOB, 1)  # it may be slow
    clock.pass_lease()
    assert await queue.has_lost(JOB, 1)
    second = await claimed(queue)
    assert await queue.has_lost(JOB, lease.fencing_token)
    assert not await queue.has_lost(JOB, second.fencing_token)
    await end(queue, second, JobState.SUCCEEDED)
    assert not await queue.has_lost(JOB, lease.fencing_token)


# --- events ---


async def test_events_are_numbered_from_1_without_a_gap(queue: JobQueue) -> None:
    lease = await running(queue)
    await asyncio.gather(*(queue.emit(lease, [("message", {"n": n}), ("progress", {"n": n})]) for n in range(10)))
    events = await queue.events(JOB, after_event_id=0)
    assert [event.event_id for event in events] == list(range(1, 23))
    assert (await queue.get(JOB)).last_event_id == 22


async def test_events_are_read_from_any_point_on(queue: JobQueue) -> None:
    lease = await running(queue)
    await queue.emit(lease, [("message", {"n": n}) for n in range(5)])
    assert [e.data["n"] for e in await queue.events(JOB, after_event_id=4)] == [2, 3, 4]
    assert [e.data["n"] for e in await queue.events(JOB, after_event_id=2, limit=2)] == [0, 1]
    assert await queue.events(JOB, after_event_id=7) == []


async def test_the_last_progress_is_the_jobs_own(queue: JobQueue) -> None:
    lease = await running(queue)
    await queue.emit(lease, [("progress", {"step": 1}), ("progress", {"step": 2}), ("message", {"text": "x"})])
    assert (await queue.get(JOB)).progress == {"step": 2}
    await queue.emit(lease, [("message", {"text": "y"})])
    assert (await queue.get(JOB)).progress == {"step": 2}


async def test_no_events_are_no_event(queue: JobQueue) -> None:
    lease = await running(queue)
    await queue.emit(lease, [])
    assert (await queue.get(JOB)).last_event_id == 2


# --- lists ---


async def names(queue: JobQueue, prefix: str, size: int = 0, token: str = "", **options: Any) -> tuple[list[str], str]:
    page = await queue.list(prefix, PageRequest.parse(size, token, prefix), **options)
    return [job.name.rpartition("/")[2] for job in page.items], page.next_page_token


async def test_a_list_is_newest_first_and_its_pages_give_every_job_once(queue: JobQueue, clock: Clock) -> None:
    for number in range(7):
        await queue.submit(f"tenants/acme/trainingJobs/j{number}", "train", {})
        clock.now += number % 2 * 0.1  # pairs with one time
    seen, token = await names(queue, "tenants/acme/", 3)
    pages = [seen]
    while token:
        seen, token = await names(queue, "tenants/acme/", 3, token)
        pages.append(seen)
    assert pages == [["j6", "j4", "j5"], ["j2", "j3", "j0"], ["j1"]]


async def test_a_list_shows_one_tenants_jobs_of_one_kind(queue: JobQueue) -> None:
    for tenant in ("a", "ab", "a-b", "b"):
        await queue.submit(f"tenants/{tenant}/trainingJobs/of-{tenant}", "train", {})
    await queue.submit("tenants/a/evaluations/e", "evaluate", {})
    assert await names(queue, "tenants/a/") == (["e", "of-a"], "")
    assert await names(queue, "tenants/a/", kind="train") == (["of-a"], "")
    assert await names(queue, "tenants/%/") == ([], "")


async def test_a_token_made_up_by_the_caller_is_refused(queue: JobQueue) -> None:
    made_up = PageRequest.parse(1, "", "tenants/a/").page(["x", "y"], ["no number", "y"]).next_page_token
    with pytest.raises(InvalidArgumentError):
        await names(queue, "tenants/a/", 1, made_up)


# --- the schema ---


async def test_a_job_takes_its_events_with_it(queue: JobQueue, database: Database) -> None:
    await running(queue)
    async with database.begin() as tx:
        await tx.execute(sa.text("DELETE FROM jobs"))
    assert await queue.events(JOB, after_event_id=0) == []
