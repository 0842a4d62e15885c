"""What a database says it needs, and how large it is; on either kind of database."""

from __future__ import annotations

import pathlib

import pytest
import sqlalchemy as sa
from luthierd.jobs.queue import JobQueue, JobState
from luthierd.storage.blobs import BlobStore
from luthierd.storage.database import Database
from luthierd.storage.sweep import JOBS_NEED, RESULTS, Expiry, Keeping, Live, Sweeper
from luthierd.storage.usage import Entry, usage_of

NOW = 1000.0


@pytest.fixture
def keeping(tmp_path: pathlib.Path) -> Keeping:
    return Keeping(
        home=tmp_path,
        grace_s=100.0,
        interval_s=0.0,
        event_retention_s=50.0,
        log_retention_s=50.0,
        roots=[JOBS_NEED, RESULTS],
        expiries=[Expiry(table="replays", retention_s=10.0)],
        sweeps_store=True,
    )


async def nobody(_grace_s: float) -> list[Live]:
    return []


async def test_unfinished_jobs_need_what_they_work_on_and_finished_ones_what_they_made(
    database: Database, keeping: Keeping, tmp_path: pathlib.Path
) -> None:
    blobs = BlobStore(f"file://{tmp_path / 'blobs'}")
    sweeper = Sweeper(database, blobs, keeping, ask_peers=nobody, now=lambda: NOW)
    queue = JobQueue(database, lease_s=30.0, now=lambda: 900.0)
    assert await sweeper.live() == Live(set(), None)
    await queue.submit("a", "test", {"deep": [{"sha256": "a" * 64}]})
    await queue.submit("b", "test", {"sha256": "b" * 64})
    lease = await queue.claim("a")
    assert lease
    assert await sweeper.live() == Live({"a" * 64, "b" * 64}, 900.0)
    made = blobs.put_bytes(b"made")
    async with queue.finishing(lease, JobState.SUCCEEDED, result={"of": {"it": made.sha256}}):
        pass
    assert await sweeper.live() == Live({made.sha256, "b" * 64}, None)
    usage = await usage_of("ground", database, blobs, keeping)
    assert Entry("blobs", "a", 4) in usage.entries
    assert usage.store_size_bytes == 4


async def test_the_database_counts(database: Database, keeping: Keeping, tmp_path: pathlib.Path, schema: str) -> None:
    service = schema if database.is_shared else "ground"
    usage = await usage_of(service, database, BlobStore(f"file://{tmp_path / 'blobs'}"), keeping)
    assert usage.entries[0].kind == "database"
    assert usage.entries[0].size_bytes > 4096


async def test_rows_expire(database: Database, keeping: Keeping, tmp_path: pathlib.Path) -> None:
    replays = sa.table("replays", *map(sa.column, ("key", "fingerprint", "response", "create_time")))
    rows = [{"key": str(age), "fingerprint": "", "response": b"", "create_time": NOW - age} for age in (5, 15)]
    await database.execute(sa.insert(replays).values(rows))
    sweeper = Sweeper(database, BlobStore(f"file://{tmp_path / 'blobs'}"), keeping, ask_peers=nobody, now=lambda: NOW)
    await sweeper.sweep(validate_only=True)
    assert len(await database.rows(sa.select(replays))) == 2
    await sweeper.sweep()
    assert [row["key"] for row in await database.rows(sa.select(replays.c.key))] == ["5"]
