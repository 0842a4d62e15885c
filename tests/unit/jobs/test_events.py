"""Watching: from any point on, to the end, and alive in between."""

from __future__ import annotations

import asyncio

import pytest
from luthierd.jobs import events
from luthierd.jobs.events import watch
from luthierd.jobs.queue import JobEvent, JobNotFoundError, JobQueue, JobState, Lease
from luthierd.storage.database import Database

JOB = "tenants/acme/trainingJobs/j1"


@pytest.fixture
def queue(database: Database, monkeypatch: pytest.MonkeyPatch) -> JobQueue:
    monkeypatch.setattr(events, "POLL_INTERVAL_S", 0.01)
    return JobQueue(database, lease_s=60)


@pytest.fixture
def stopping() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
async def lease(queue: JobQueue) -> Lease:
    """A running job; its events so far are 1 (QUEUED) and 2 (RUNNING)."""
    await queue.submit(JOB, "train", {})
    lease = await queue.claim(JOB)
    assert lease is not None
    return lease


async def finish(queue: JobQueue, lease: Lease) -> None:
    await queue.emit(lease, [("progress", {"step": 1})])
    async with queue.finishing(lease, JobState.SUCCEEDED):
        pass


async def seen(queue: JobQueue, stopping: asyncio.Event, after_event_id: int) -> list[int]:
    return [e.event_id async for e in watch(queue, JOB, after_event_id=after_event_id, stopping=stopping) if e]


@pytest.mark.parametrize("after", [0, 1, 3, 4, 99])
async def test_a_finished_job_gives_the_rest_of_its_events_and_ends(
    queue: JobQueue, stopping: asyncio.Event, lease: Lease, after: int
) -> None:
    await finish(queue, lease)
    assert await seen(queue, stopping, after) == [1, 2, 3, 4][after:]


async def test_a_watch_follows_the_job_to_its_end(queue: JobQueue, stopping: asyncio.Event, lease: Lease) -> None:
    watching = watch(queue, JOB, after_event_id=0, stopping=stopping)
    first = [await anext(watching), await anext(watching)]
    await finish(queue, lease)
    rest = [event async for event in watching]
    kinds = [(event.event_id, event.kind) for event in first + rest if isinstance(event, JobEvent)]
    assert kinds == [(1, "state"), (2, "state"), (3, "progress"), (4, "state")]
    assert isinstance(rest[-1], JobEvent)
    assert rest[-1].data == {"state": "SUCCEEDED"}


async def test_a_watch_that_broke_off_goes_on_where_it_was(
    queue: JobQueue, stopping: asyncio.Event, lease: Lease
) -> None:
    broken_off = watch(queue, JOB, after_event_id=0, stopping=stopping)
    last = await anext(broken_off)
    await broken_off.aclose()  # type: ignore[attr-defined]
    assert last is not None
    await finish(queue, lease)
    assert await seen(queue, stopping, last.event_id) == [2, 3, 4]


@pytest.mark.usefixtures("lease")
async def test_a_watch_without_news_gives_a_sign_of_life(queue: JobQueue, stopping: asyncio.Event) -> None:
    watching = watch(queue, JOB, after_event_id=2, stopping=stopping, heartbeat_interval_s=0.02)
    assert [await anext(watching), await anext(watching)] == [None, None]


@pytest.mark.usefixtures("lease")
async def test_a_watch_ends_with_the_server(queue: JobQueue, stopping: asyncio.Event) -> None:
    watching = asyncio.create_task(seen(queue, stopping, 0))
    asyncio.get_running_loop().call_later(0.05, stopping.set)
    assert await asyncio.wait_for(watching, timeout=5) == [1, 2]


async def test_more_events_than_one_read_holds_all_arrive(
    queue: JobQueue, stopping: asyncio.Event, lease: Lease
) -> None:
    await queue.emit(lease, [("message", {"n": n}) for n in range(1200)])
    await finish(queue, lease)
    assert await seen(queue, stopping, 0) == list(range(1, 1205))


async def test_a_job_that_does_not_exist_cannot_be_watched(queue: JobQueue, stopping: asyncio.Event) -> None:
    with pytest.raises(JobNotFoundError):
        await seen(queue, stopping, 0)
