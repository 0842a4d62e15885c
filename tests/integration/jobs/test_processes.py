"""No acknowledged job is lost, whichever process dies: a real launcher, real workers, real signals."""

from __future__ import annotations

import asyncio
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from luthierd.jobs.events import watch
from luthierd.jobs.queue import MAX_ATTEMPTS, Job, JobQueue, JobState
from luthierd.storage.database import Database

JOB = "tenants/acme/trainingJobs/j1"
DEAF = "tenants/acme/trainingJobs/deaf"
LEASE_S = 2.0
STEPS = 30
PATIENCE_S = 60.0
"""Generous: processes start slowly on a busy machine."""

Start = Callable[..., subprocess.Popen[bytes]]

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""Where it is about processes and not about the database: each of these tests starts several Python processes."""


@pytest.fixture
def start_api(database_url: str, schema: str, tmp_path: pathlib.Path) -> Iterator[Start]:
    """Starts an API process over the test's database; it and its workers end with the test."""
    started: list[subprocess.Popen[bytes]] = []
    environment = os.environ | {
        "LUTHIER_HOME": str(tmp_path),
        "LUTHIER_TRAINER_DATABASE_URL": database_url,
        "LUTHIER_TRAINER_LEASE_S": str(LEASE_S),
        "COUNTING_SCHEMA": schema,
        "PYTHONPATH": os.pathsep.join([str(pathlib.Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
    }

    def start(**settings: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-m", "counting_api"], env=environment | settings)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
    for worker in workers(tmp_path):
        worker.kill()


def workers(home: pathlib.Path) -> list[psutil.Process]:
    """The living workers of this test."""
    found = []
    for process in psutil.process_iter():
        try:
            if "counting_worker" in process.cmdline() and process.environ().get("LUTHIER_HOME") == str(home):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture
async def queue(database: Database) -> JobQueue:
    """One job waits in it."""
    made = JobQueue(database, lease_s=LEASE_S)
    await made.submit(JOB, "count", {"steps": STEPS})
    return made


async def working(queue: JobQueue, *, after: int | None = None, job: str = JOB) -> int:
    """Waits for a step of a worker other than `after`; gives its process id."""
    async with asyncio.timeout(PATIENCE_S):
        async for event in watch(queue, job, after_event_id=0, stopping=asyncio.Event()):
            if event is not None and event.kind == "progress" and event.data["pid"] != after:
                return int(event.data["pid"])
    raise AssertionError(f"the job ended before anybody else worked on it: {await queue.get(job)}")


async def ended(queue: JobQueue, job: str = JOB) -> Job:
    """Waits for the end of the job."""
    async with asyncio.timeout(PATIENCE_S):
        async for _ in watch(queue, job, after_event_id=0, stopping=asyncio.Event()):
            pass
    return await queue.get(job)


def assert_counted_once(job: Job, *, by: list[int]) -> None:
    """Every step was done, once, by these processes in turn."""
    assert job.state is JobState.SUCCEEDED, job.error
    assert job.result is not None
    pids: list[int] = job.result["pids"]
    assert len(pids) == STEPS
    assert list(dict.fromkeys(pids)) == by


async def event_ids_and_steps(queue: JobQueue) -> tuple[list[int], list[Any]]:
    events = await queue.events(JOB, after_event_id=0)
    return [event.event_id for event in events], [e.data["step"] for e in events if e.kind == "progress"]


@on_sqlite
async def test_a_job_is_done_by_a_process_of_its_own(queue: JobQueue, start_api: Start) -> None:
    api = start_api()
    worker = await working(queue)
    job = await ended(queue)
    assert worker != api.pid
    assert_counted_once(job, by=[worker])
    assert job.attempt_count == 1
    ids, steps = await event_ids_and_steps(queue)
    assert ids == list(range(1, job.last_event_id + 1))
    assert steps == list(range(1, STEPS + 1))


async def test_the_death_of_a_worker_costs_no_step(queue: JobQueue, start_api: Start) -> None:
    start_api()
    first = await working(queue)
    os.kill(first, signal.SIGKILL)
    second = await working(queue, after=first)
    job = await ended(queue)
    assert_counted_once(job, by=[first, second])
    assert job.attempt_count == 2
    ids, _ = await event_ids_and_steps(queue)
    assert ids == list(range(1, job.last_event_id + 1))


@on_sqlite
async def test_the_death_of_the_api_process_does_not_disturb_the_worker(queue: JobQueue, start_api: Start) -> None:
    api = start_api()
    worker = await working(queue)
    api.kill()
    api.wait()
    start_api()  # finds the job held, and leaves it
    job = await ended(queue)
    assert_counted_once(job, by=[worker])
    assert job.attempt_count == 1


@on_sqlite
async def test_an_orderly_stop_of_the_api_process_does_not_disturb_the_worker(
    queue: JobQueue, start_api: Start
) -> None:
    api = start_api()
    worker = await working(queue)
    api.terminate()
    assert await asyncio.to_thread(api.wait, 20) == 0
    job = await ended(queue)
    assert_counted_once(job, by=[worker])
    assert job.attempt_count == 1


async def test_the_death_of_both_hands_the_job_to_the_next_installation(queue: JobQueue, start_api: Start) -> None:
    api = start_api()
    first = await working(queue)
    api.kill()
    api.wait()
    os.kill(first, signal.SIGKILL)
    start_api()
    second = await working(queue, after=first)
    assert_counted_once(await ended(queue), by=[first, second])


@on_sqlite
async def test_a_worker_that_is_told_to_stop_hands_the_job_on_without_a_failed_attempt(
    queue: JobQueue, start_api: Start
) -> None:
    start_api()
    first = await working(queue)
    os.kill(first, signal.SIGTERM)
    second = await working(queue, after=first)
    job = await ended(queue)
    assert_counted_once(job, by=[first, second])
    assert job.attempt_count == 1


async def test_a_worker_that_slept_too_long_is_replaced_and_says_no_more(queue: JobQueue, start_api: Start) -> None:
    start_api()
    first = await working(queue)
    os.kill(first, signal.SIGSTOP)  # alive, silent, and still the launcher's child
    second = await working(queue, after=first)
    job = await ended(queue)
    assert_counted_once(job, by=[first, second])
    assert not psutil.pid_exists(first)


@on_sqlite
async def test_a_cancelled_job_ends_within_seconds(queue: JobQueue, start_api: Start) -> None:
    start_api()
    worker = psutil.Process(await working(queue))
    await queue.cancel(JOB)
    job = await asyncio.wait_for(ended(queue), timeout=5)
    assert job.state is JobState.CANCELLED
    assert job.result is None
    await asyncio.to_thread(worker.wait, 20)


@on_sqlite
async def test_a_cancelled_job_ends_within_seconds_even_if_its_thread_does_not_hear_it(
    queue: JobQueue, start_api: Start
) -> None:
    await queue.cancel(JOB)
    await queue.submit(DEAF, "count", {"steps": STEPS, "hangs_in": "thread"})
    start_api()
    worker = psutil.Process(await working(queue, job=DEAF))
    await queue.cancel(DEAF)
    job = await asyncio.wait_for(ended(queue, DEAF), timeout=5)
    assert (job.state, job.result, job.attempt_count) == (JobState.CANCELLED, None, 1)
    await asyncio.to_thread(worker.wait, 20)


@on_sqlite
async def test_a_cancelled_job_ends_within_seconds_even_if_it_holds_the_interpreter_and_its_api_process_is_new(
    queue: JobQueue, start_api: Start
) -> None:
    await queue.cancel(JOB)
    await queue.submit(DEAF, "count", {"steps": STEPS, "hangs_in": "interpreter"})
    api = start_api(LUTHIER_TRAINER_LEASE_S="60")
    worker = psutil.Process(await working(queue, job=DEAF))
    api.kill()
    api.wait()
    start_api(LUTHIER_TRAINER_LEASE_S="60")
    await until_launching(queue)
    await queue.cancel(DEAF)
    job = await asyncio.wait_for(ended(queue, DEAF), timeout=5)
    assert (job.state, job.result, job.attempt_count) == (JobState.CANCELLED, None, 1)
    await asyncio.to_thread(worker.wait, 20)


async def until_launching(queue: JobQueue) -> None:
    """Waits until a launcher deals with cancelled jobs: it ends one whose worker is dead."""
    name = "tenants/acme/trainingJobs/abandoned"
    await queue.submit(name, "count", {"steps": 1})
    assert await queue.claim(name) is not None
    await queue.worker_died(name, token_before=0)
    await queue.cancel(name)
    await asyncio.wait_for(ended(queue, name), PATIENCE_S)


@on_sqlite
async def test_a_worker_that_cannot_start_fails_the_job_after_some_tries(
    queue: JobQueue, start_api: Start, tmp_path: pathlib.Path
) -> None:
    start_api(COUNTING_WORKER="no_such_module")
    job = await ended(queue)
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error["reason"] == "WORKER_DIED"
    log = (tmp_path / "logs" / f"{JOB.replace('/', '.')}.log").read_text()
    assert log.count("No module named no_such_module") == MAX_ATTEMPTS


@on_sqlite
async def test_no_more_workers_run_than_allowed_and_all_jobs_get_done(
    queue: JobQueue, start_api: Start, tmp_path: pathlib.Path
) -> None:
    others = [f"tenants/acme/trainingJobs/k{number}" for number in range(3)]
    for name in others:
        await queue.submit(name, "count", {"steps": 3})
    start_api(LUTHIER_TRAINER_WORKER_COUNT="2")
    seen = 0
    async with asyncio.timeout(PATIENCE_S):
        for name in [JOB, *others]:
            async for _ in watch(queue, name, after_event_id=0, stopping=asyncio.Event()):
                seen = max(seen, len(workers(tmp_path)))
    assert seen <= 2
    assert {(await queue.get(name)).state for name in [JOB, *others]} == {JobState.SUCCEEDED}
