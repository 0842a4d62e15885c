"""The frame around the work: what the work says and how it ends reach the queue, in order, once."""

from __future__ import annotations

import asyncio
import errno
import math
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any, NoReturn

import pytest
from luthierd.errors import FailedPreconditionError, UnavailableError
from luthierd.files import DiskFullError
from luthierd.jobs import events, worker
from luthierd.jobs.events import watch
from luthierd.jobs.queue import JobNotFoundError, JobQueue, JobState, Lease
from luthierd.jobs.worker import LEASE_LOST_EXIT_CODE, JobCancelled, JobContext, Outcome, run_job
from luthierd.storage.blob_errors import BlobStoreUnavailableError
from luthierd.storage.database import Database
from luthierd.storage.database_faults import DatabaseUnavailableError
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection
from support.databases import NO_VERSIONS, Cluster

JOB = "tenants/acme/trainingJobs/j1"


class DivergedError(FailedPreconditionError):
    reason = "TEST_DIVERGED"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "FLUSH_INTERVAL_S", 0.01)
    monkeypatch.setattr(events, "POLL_INTERVAL_S", 0.01)


@pytest.fixture
async def database(tmp_path: Any) -> AsyncIterator[Database]:
    """SQLite is enough here: the queue's own tests run on both kinds."""
    made = Database(f"sqlite+aiosqlite:///{tmp_path / 'jobs.db'}", schema="jobs")
    await made.migrate(tmp_path / "no-versions")
    yield made
    await made.close()


@pytest.fixture
async def queue(database: Database) -> JobQueue:
    queue = JobQueue(database, lease_s=0.5)
    await queue.submit(JOB, "train", {"rank": 16})
    return queue


async def told(queue: JobQueue) -> list[tuple[str, dict[str, Any]]]:
    return [(event.kind, event.data) for event in await queue.events(JOB, after_event_id=0)]


async def until_told(queue: JobQueue, event_id: int) -> None:
    """Waits for the job's event of that number."""
    async with asyncio.timeout(10):
        async for event in watch(queue, JOB, after_event_id=event_id - 1, stopping=asyncio.Event()):
            if event is not None:
                return


# --- good ends ---


async def test_the_result_of_the_work_is_the_jobs(queue: JobQueue) -> None:
    async def work(context: JobContext) -> Outcome:
        return Outcome({"rank": context.job.payload["rank"]})

    await run_job(queue, JOB, work)
    job = await queue.get(JOB)
    assert (job.state, job.result, job.error) == (JobState.SUCCEEDED, {"rank": 16}, None)


async def test_what_the_work_commits_is_there_with_its_result(queue: JobQueue) -> None:
    async def commit(connection: AsyncConnection) -> None:
        await queue.submit("follow-up", "x", {}, connection=connection)

    async def work(_context: JobContext) -> Outcome:
        return Outcome({}, commit)

    await run_job(queue, JOB, work)
    assert (await queue.get("follow-up")).state is JobState.QUEUED


async def test_events_from_a_thread_arrive_in_order_and_before_the_end(queue: JobQueue) -> None:
    def train(context: JobContext) -> None:
        for step in range(50):
            context.emit("progress", {"step": step})

    async def work(context: JobContext) -> Outcome:
        await asyncio.to_thread(train, context)
        return Outcome({})

    await run_job(queue, JOB, work)
    assert await told(queue) == [
        ("state", {"state": "QUEUED"}),
        ("state", {"state": "RUNNING"}),
        *(("progress", {"step": step}) for step in range(50)),
        ("state", {"state": "SUCCEEDED"}),
    ]


async def test_events_are_told_while_the_work_goes_on(queue: JobQueue) -> None:
    go_on = asyncio.Event()

    async def work(context: JobContext) -> Outcome:
        context.emit("progress", {"step": 1})
        await go_on.wait()
        return Outcome({})

    running = asyncio.create_task(run_job(queue, JOB, work))
    await until_told(queue, 3)
    assert (await queue.get(JOB)).progress == {"step": 1}
    go_on.set()
    await running


async def test_a_job_that_another_worker_has_is_left_alone(queue: JobQueue) -> None:
    async def work(_context: JobContext) -> Outcome:
        raise AssertionError("worked on it")

    assert await queue.claim(JOB) is not None
    await run_job(queue, JOB, work)
    assert (await queue.get(JOB)).state is JobState.RUNNING


async def test_a_job_that_does_not_exist_is_said(queue: JobQueue) -> None:
    async def work(_context: JobContext) -> Outcome:
        raise AssertionError("worked on it")

    with pytest.raises(JobNotFoundError):
        await run_job(queue, "none", work)


# --- bad ends ---


async def test_an_error_of_ours_becomes_the_jobs_error(queue: JobQueue) -> None:
    async def work(context: JobContext) -> Outcome:
        context.emit("message", {"text": "last words"})
        raise DivergedError("the loss is NaN at step 7; lower the learning rate", metadata={"step": "7"})

    await run_job(queue, JOB, work)
    job = await queue.get(JOB)
    assert (job.state, job.result) == (JobState.FAILED, None)
    assert job.error == {
        "code": "FAILED_PRECONDITION",
        "reason": "TEST_DIVERGED",
        "message": "the loss is NaN at step 7; lower the learning rate",
        "metadata": {"step": "7"},
    }
    assert (await told(queue))[-2:] == [("message", {"text": "last words"}), ("state", {"state": "FAILED"})]


async def test_an_unknown_exception_keeps_its_text_in_the_log(
    queue: JobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(_context: JobContext) -> Outcome:
        raise ValueError("a row said: hunter2")

    await run_job(queue, JOB, work)
    error = (await queue.get(JOB)).error
    assert error is not None
    assert (error["code"], error["reason"]) == ("INTERNAL", "INTERNAL")
    assert "hunter2" not in str(error)
    (record,) = [record for record in caplog.records if record.message == "the work failed"]
    assert record.__dict__["error_id"] == error["metadata"]["error_id"]
    assert "hunter2" in caplog.text


async def test_a_commit_that_fails_fails_the_job_and_leaves_nothing(queue: JobQueue) -> None:
    async def commit(connection: AsyncConnection) -> None:
        await queue.submit("follow-up", "x", {}, connection=connection)
        raise IntegrityError("INSERT", {}, Exception("twice"))

    async def work(_context: JobContext) -> Outcome:
        return Outcome({"never": "seen"}, commit)

    await run_job(queue, JOB, work)
    job = await queue.get(JOB)
    assert (job.state, job.result) == (JobState.FAILED, None)
    with pytest.raises(JobNotFoundError):
        await queue.get("follow-up")


# --- cancelling ---


@pytest.mark.parametrize("ask", ["cancelled", "raise_if_cancelled"])
async def test_the_work_hears_of_a_cancel_and_ends(queue: JobQueue, ask: str) -> None:
    started = threading.Event()

    def train(context: JobContext) -> None:
        started.set()
        while True:
            if ask == "raise_if_cancelled":
                context.raise_if_cancelled()
            elif context.cancelled():
                raise JobCancelled

    async def work(context: JobContext) -> Outcome:
        await asyncio.to_thread(train, context)
        raise AssertionError("unreachable")

    running = asyncio.create_task(run_job(queue, JOB, work))
    assert await asyncio.to_thread(started.wait, 10)
    await queue.cancel(JOB)
    await asyncio.wait_for(running, timeout=10)
    states = [data["state"] for kind, data in await told(queue) if kind == "state"]
    assert states == ["QUEUED", "RUNNING", "CANCELLING", "CANCELLED"]


# --- the lease, and a database that is away ---


class LeftError(Exception):
    """Instead of the end of the process."""


async def test_a_worker_that_lost_its_lease_ends_without_a_word(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(code: int) -> NoReturn:
        raise LeftError(code)

    monkeypatch.setattr(worker.os, "_exit", leave)
    monkeypatch.setattr(queue, "heartbeat", nothing)  # it slept

    async def work(_context: JobContext) -> Outcome:
        await queue.worker_died(JOB, token_before=0)
        assert await queue.claim(JOB) is not None
        return Outcome({"late": True})

    with pytest.raises(LeftError) as caught:
        await run_job(queue, JOB, work)
    assert caught.value.args == (LEASE_LOST_EXIT_CODE,)
    job = await queue.get(JOB)
    assert (job.state, job.result) == (JobState.RUNNING, None)


async def nothing(_lease: Lease) -> JobState:
    return JobState.RUNNING


async def test_heartbeats_go_on_as_long_as_the_work_does(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    beats = asyncio.Semaphore(0)
    heartbeat = queue.heartbeat

    async def counted(lease: Lease) -> JobState:
        beats.release()
        return await heartbeat(lease)

    monkeypatch.setattr(queue, "heartbeat", counted)

    async def work(_context: JobContext) -> Outcome:
        async with asyncio.timeout(10):
            for _ in range(3):
                await beats.acquire()
        return Outcome({})

    await run_job(queue, JOB, work)
    assert (await queue.get(JOB)).state is JobState.SUCCEEDED


async def test_no_event_is_lost_or_out_of_order_when_the_database_is_away_for_a_moment(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    emit, failures = queue.emit, iter([DatabaseUnavailableError("x", ConnectionError()), ConnectionRefusedError()])

    async def emit_later(lease: Lease, events: Sequence[tuple[str, dict[str, Any]]]) -> None:
        if failure := next(failures, None):
            context_of["work"].emit("progress", {"step": 99})
            raise failure
        await emit(lease, events)

    monkeypatch.setattr(queue, "emit", emit_later)
    context_of: dict[str, JobContext] = {}

    async def work(context: JobContext) -> Outcome:
        context_of["work"] = context
        context.emit("progress", {"step": 1})
        await until_told(queue, 5)
        return Outcome({})

    await run_job(queue, JOB, work)
    steps = [data["step"] for kind, data in await told(queue) if kind == "progress"]
    assert steps == [1, 99, 99]


async def test_a_database_that_is_away_for_longer_than_a_worker_waits_leaves_the_job_to_the_next_one(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> NoReturn:
        raise DatabaseUnavailableError("x", ConnectionError())

    async def work(_context: JobContext) -> Outcome:
        monkeypatch.setattr(queue, "finishing", away)
        return Outcome({})

    with pytest.raises(DatabaseUnavailableError):
        await run_job(queue, JOB, work, storage_patience_s=0)
    assert (await queue.get(JOB)).state is JobState.RUNNING


# --- storage that is full or away ---

FAULTS = [
    DiskFullError.below("/home"),
    BlobStoreUnavailableError("s3://bucket", ConnectionError()),
    DatabaseUnavailableError("x", ConnectionError()),
    OSError(errno.ENOSPC, "No space left on device"),
    RuntimeError("SafetensorError: I/O error: No space left on device (os error 28)"),
    ExceptionGroup("two tasks", [ValueError("the other"), DiskFullError.below("/home")]),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
async def test_work_that_met_a_storage_fault_is_run_again_in_the_same_attempt(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    monkeypatch.setattr(worker, "MIN_PAUSE_S", 0.0)
    faults = iter([fault, fault])

    async def work(_context: JobContext) -> Outcome:
        if (met := next(faults, None)) is not None:
            raise met
        return Outcome({"made": 1})

    await run_job(queue, JOB, work)
    job = await queue.get(JOB)
    assert (job.state, job.result, job.attempt_count) == (JobState.SUCCEEDED, {"made": 1}, 1)
    assert any("continuing by itself" in data.get("message", "") for _, data in await told(queue))


async def test_a_fault_of_storage_at_another_service_is_waited_for_and_another_fault_is_not(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "MIN_PAUSE_S", 0.0)
    passed_on = UnavailableError("curation's database")
    passed_on.reason = "DATABASE_UNAVAILABLE"  # type: ignore[misc]  # as rpc.peers does
    faults = iter([passed_on, UnavailableError("the engine")])

    async def work(_context: JobContext) -> Outcome:
        raise next(faults)

    await run_job(queue, JOB, work)
    assert ((await queue.get(JOB)).error or {})["reason"] == "UNAVAILABLE"


async def test_a_job_that_waited_for_long_enough_fails_with_what_to_do(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "MIN_PAUSE_S", 0.02)

    async def work(_context: JobContext) -> Outcome:
        raise OSError(errno.EDQUOT, "Disk quota exceeded", "/home/acme/x")

    await run_job(queue, JOB, work, storage_patience_s=0.05)
    error = (await queue.get(JOB)).error or {}
    assert (error["code"], error["reason"]) == ("RESOURCE_EXHAUSTED", "DISK_FULL")
    assert "/home/acme/x; free some space" in error["message"]


async def test_a_job_that_waits_for_storage_is_cancelled_at_once(queue: JobQueue) -> None:
    waiting = asyncio.Event()

    async def work(_context: JobContext) -> Outcome:
        waiting.set()
        raise DiskFullError.below("/home")

    running = asyncio.create_task(run_job(queue, JOB, work))
    await waiting.wait()
    await queue.cancel(JOB)
    async with asyncio.timeout(10):
        await running
    assert (await queue.get(JOB)).state is JobState.CANCELLED


async def test_a_job_outlives_a_postgresql_that_is_stopped_and_started(postgres: Cluster, schema: str) -> None:
    database = Database(postgres.url, schema=schema)
    await database.migrate(NO_VERSIONS)
    queue = JobQueue(database, lease_s=0.5)
    await queue.submit(JOB, "train", {})

    async def work(context: JobContext) -> Outcome:
        context.emit("progress", {"step": 1})
        await asyncio.to_thread(postgres.stop)
        context.emit("progress", {"step": 2})
        await asyncio.to_thread(postgres.start)
        context.emit("progress", {"step": 3})
        return Outcome({})

    await run_job(queue, JOB, work)
    job = await queue.get(JOB)
    assert (job.state, job.attempt_count) == (JobState.SUCCEEDED, 1)
    assert [data["step"] for kind, data in await told(queue) if kind == "progress"] == [1, 2, 3]
    await database.close()


async def test_an_end_that_cannot_be_written_is_written_when_postgresql_is_back(
    postgres: Cluster, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(postgres.url, schema=schema)
    await database.migrate(NO_VERSIONS)
    queue = JobQueue(database, lease_s=0.5)
    await queue.submit(JOB, "train", {})

    async def start(*_: object, **__: object) -> None:
        await asyncio.to_thread(postgres.start)

    async def work(_context: JobContext) -> Outcome:
        monkeypatch.setattr(worker._Frame, "_pause", start)
        await asyncio.to_thread(postgres.stop)
        return Outcome({"made": 1})

    await run_job(queue, JOB, work)
    job = await queue.get(JOB)
    assert (job.state, job.result, job.attempt_count) == (JobState.SUCCEEDED, {"made": 1}, 1)
    await database.close()


@pytest.mark.parametrize("data", [{"loss": math.nan}, {"loss": math.inf}, {"what": object()}])
async def test_what_is_no_json_is_refused_where_it_is_said(queue: JobQueue, data: dict[str, Any]) -> None:
    """PostgreSQL would refuse it later, in the frame, where nobody could tell which step it came from."""

    async def work(context: JobContext) -> Outcome:
        with pytest.raises((ValueError, TypeError)):
            context.emit("progress", data)
        return Outcome({})

    await run_job(queue, JOB, work)
    assert (await queue.get(JOB)).state is JobState.SUCCEEDED
