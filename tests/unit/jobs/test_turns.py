"""Tenants take turns at the workers and have limits, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import itertools
import pathlib
import shutil
from collections.abc import Callable, Sequence

import pytest
import sqlalchemy as sa
from luthierd.jobs.queue import JobQueue, JobState
from luthierd.jobs.turns import JobQuotaError, TenantLimits, tenant_of
from luthierd.storage.database import GROUND_VERSIONS, Database

Make = Callable[..., JobQueue]


@pytest.fixture
def make(database: Database) -> Make:
    """Makes the queue as one of several machines sees it. Each look at the clock takes a second."""
    seconds = itertools.count(1_000_000)

    def made(machine: str = "one", *, waiting: int = 0, running: int = 0) -> JobQueue:
        limits = TenantLimits(waiting=waiting, running=running)
        return JobQueue(database, lease_s=10_000, now=lambda: float(next(seconds)), limits=limits, machine=machine)

    return made


def name_of(label: str) -> str:
    """`a1` is job 1 of tenant a."""
    return f"tenants/{label[0]}/trainingJobs/j{label[1:]}"


async def submit(queue: JobQueue, *labels: str) -> None:
    for label in labels:
        await queue.submit(name_of(label), "train", {})


async def start(queue: JobQueue, *labels: str) -> None:
    for label in labels:
        assert await queue.claim(name_of(label)) is not None, label


async def end(queue: JobQueue, label: str) -> None:
    await queue.cancel(name_of(label))
    await queue.end_cancelled(await queue.get(name_of(label)))


async def next_jobs(queue: JobQueue, limit: int = 100, *, starting: Sequence[str] = ()) -> list[str]:
    """The labels of the jobs that get a place next."""
    found = await queue.claimable(limit, starting=[name_of(label) for label in starting])
    return [name.split("/")[1] + name.rpartition("/j")[2] for name in found]


async def test_a_tenant_with_many_jobs_does_not_keep_another_one_waiting(make: Make) -> None:
    queue = make()
    await submit(queue, *(f"a{n}" for n in range(35)), "b1", "c1", "b2")
    assert (await next_jobs(queue))[:6] == ["a0", "b1", "c1", "a1", "b2", "a2"]


async def test_on_one_place_tenants_take_turns(make: Make) -> None:
    queue, order = make(), []
    await submit(queue, "a1", "a2", "a3", "b1", "b2", "c1")
    while turn := await next_jobs(queue, 1):
        await start(queue, *turn)
        await end(queue, *turn)
        order += turn
    assert order == ["a1", "b1", "c1", "a2", "b2", "a3"]


async def test_the_tenant_with_the_fewest_running_jobs_goes_first(make: Make) -> None:
    queue = make()
    await submit(queue, "a1", "a2", "a3", "b1", "b2")
    await start(queue, "b1", "a1", "a2")
    assert await next_jobs(queue) == ["b2", "a3"]


async def test_jobs_whose_workers_are_starting_count_as_running_and_are_not_started_again(make: Make) -> None:
    queue = make(running=2)
    await submit(queue, "a1", "a2", "a3", "b1", "b2")
    assert await next_jobs(queue, starting=["a1", "b1"]) == ["a2", "b2"]
    assert await next_jobs(queue, starting=["a1", "a2"]) == ["b1", "b2"]


async def test_more_jobs_of_a_tenant_than_may_run_wait_and_another_tenant_gets_the_place(make: Make) -> None:
    queue = make(running=1)
    await submit(queue, "a1", "a2", "b1")
    await start(queue, "a1")
    assert await next_jobs(queue) == ["b1"]
    assert await queue.claim(name_of("a2")) is None
    await end(queue, "a1")
    assert await next_jobs(queue, 1) == ["b1"]
    await start(queue, "a2")


async def test_a_job_over_the_limit_of_waiting_ones_is_refused_with_advice(make: Make) -> None:
    queue = make(waiting=2)
    await submit(queue, "a1", "a2", "b1")
    with pytest.raises(JobQuotaError, match=r"tenant a has 2 jobs waiting.*cancel one") as caught:
        await submit(queue, "a3")
    assert caught.value.metadata == {"tenant": "a", "quota": "max_waiting_jobs_per_tenant", "limit": "2"}
    assert caught.value.retry_after_s > 0
    await start(queue, "a1")
    await submit(queue, "a3")


async def test_submissions_at_the_same_time_do_not_exceed_the_limit(make: Make) -> None:
    queue = make(waiting=3)
    results = await asyncio.gather(*(submit(queue, f"a{n}") for n in range(8)), return_exceptions=True)
    assert sum(isinstance(result, JobQuotaError) for result in results) == 5
    assert len(await next_jobs(queue)) == 3


async def test_each_machine_fills_its_own_places(make: Make) -> None:
    one, two = make("one"), make("two")
    await submit(one, "a1", "a2", "a3")
    await start(one, "a1", "a2")
    await start(two, "a3")
    assert (await one.leased_count(), await two.leased_count()) == (2, 1)
    assert await one.leased_count(besides=[name_of("a1")]) == 1
    await one.cancel(name_of("a3"))
    assert await one.cancelling() == []
    assert [job.name for job in await two.cancelling()] == [name_of("a3")]


async def test_a_cancelled_job_whose_worker_is_dead_needs_no_other_worker_to_end(make: Make) -> None:
    queue = make()
    await submit(queue, "a1")
    await start(queue, "a1")
    await queue.cancel(name_of("a1"))
    await queue.worker_died(name_of("a1"), token_before=0)
    assert (await queue.get(name_of("a1"))).state is JobState.CANCELLED


async def test_the_end_of_a_cancelled_job_is_not_recorded_over_another_end(make: Make) -> None:
    queue = make()
    await submit(queue, "a1")
    lease = await queue.claim(name_of("a1"))
    assert lease is not None
    cancelled = await queue.cancel(name_of("a1"))
    async with queue.finishing(lease, JobState.SUCCEEDED):
        pass
    await queue.end_cancelled(cancelled)
    assert (await queue.get(name_of("a1"))).state is JobState.SUCCEEDED


@pytest.mark.parametrize(
    ("job", "tenant"),
    [("tenants/acme/evaluations/e", "acme"), ("baseModels/m/imports/1", ""), ("tenants", ""), ("x", "")],
)
def test_a_jobs_name_says_whose_it_is(job: str, tenant: str) -> None:
    assert tenant_of(job) == tenant


async def test_jobs_from_before_get_their_tenants(database_url: str, schema: str, tmp_path: pathlib.Path) -> None:
    names = ["tenants/acme/trainingJobs/j1", "tenants/b/datasets/d/revisions/r1", "baseModels/m/imports/1"]
    shutil.copytree(GROUND_VERSIONS, tmp_path / "ground", ignore=shutil.ignore_patterns("ground_0091*", "__pycache__"))
    database = Database(database_url, schema=schema)
    with pytest.MonkeyPatch.context() as before:
        before.setattr("luthierd.storage.database.GROUND_VERSIONS", tmp_path / "ground")
        await database.migrate(tmp_path / "none")
    values = "'train', 'QUEUED', '{}', 0, 0, 0, 0"
    for name in names:
        columns = "name, kind, state, payload, attempt_count, fencing_token, last_event_id, create_time"
        await database.execute(sa.text(f"INSERT INTO jobs ({columns}) VALUES ('{name}', {values})"))
    await database.migrate(tmp_path / "none")
    rows = await database.rows(sa.text("SELECT name, tenant FROM jobs ORDER BY create_time, name DESC"))
    assert {row["name"]: row["tenant"] for row in rows} == dict(zip(names, ["acme", "b", ""], strict=True))
    await database.close()
