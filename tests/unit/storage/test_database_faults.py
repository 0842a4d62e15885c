"""A database that is away, locked, full or damaged is named; everything works again once it is mended."""

from __future__ import annotations

import pathlib
from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa
from luthierd.files import DiskFullError
from luthierd.storage import database as database_module
from luthierd.storage.database import Database
from luthierd.storage.database_faults import DatabaseDamagedError, DatabaseUnavailableError
from support.databases import NO_VERSIONS, Cluster

_events = sa.table("replays", *map(sa.column, ("key", "fingerprint", "response", "create_time")))
COUNT = sa.select(sa.func.count()).select_from(_events)


def insert(key: str, *, size_bytes: int = 1) -> sa.Insert:
    return sa.insert(_events).values(key=key, fingerprint="f", response=b"x" * size_bytes, create_time=1.0)


async def count(database: Database) -> int:
    return int((await database.rows(COUNT))[0]["count_1"])


@pytest.fixture
async def shared(postgres: Cluster, schema: str) -> AsyncIterator[Database]:
    made = Database(postgres.url, schema=schema)
    await made.migrate(NO_VERSIONS)
    yield made
    await made.close()


@pytest.fixture
async def local(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT_MS", 50)
    made = Database(f"sqlite+aiosqlite:///{tmp_path / 'x.db'}", schema="x")
    await made.migrate(NO_VERSIONS)
    yield made
    await made.close()


async def test_a_postgresql_that_is_stopped_is_away_and_back_when_it_is_started(
    shared: Database, postgres: Cluster
) -> None:
    await shared.execute(insert("before"))
    postgres.stop()
    try:
        with pytest.raises(DatabaseUnavailableError, match="see that it runs") as caught:
            await shared.execute(insert("lost"))
        assert caught.value.retry_after_s > 0
        assert "postgresql+asyncpg" not in str(caught.value)
        with pytest.raises(DatabaseUnavailableError):
            await count(shared)
        with pytest.raises(DatabaseUnavailableError):
            await shared.migrate(NO_VERSIONS)
    finally:
        postgres.start()
    await shared.execute(insert("after"))
    assert await count(shared) == 2


async def test_a_transaction_that_a_stop_interrupts_leaves_nothing(shared: Database, postgres: Cluster) -> None:
    async def interrupted() -> None:
        async with shared.begin() as tx:
            await tx.execute(insert("a"))
            postgres.stop()
            postgres.start()
            await tx.execute(insert("b"))

    with pytest.raises(DatabaseUnavailableError):
        await interrupted()
    assert await count(shared) == 0


@pytest.mark.parametrize("url", ["postgresql+asyncpg://x@/none?host=/nowhere", "postgresql+asyncpg://x@127.0.0.1:1/x"])
async def test_a_postgresql_that_is_not_there_is_away(url: str) -> None:
    database = Database(url, schema="x")
    with pytest.raises(DatabaseUnavailableError):
        await database.migrate(NO_VERSIONS)
    await database.close()


async def test_a_missing_database_of_a_running_postgresql_is_named(postgres: Cluster) -> None:
    database = Database(postgres.url.replace("/postgres?", "/nosuch?"), schema="x")
    with pytest.raises(DatabaseUnavailableError) as caught:
        await database.rows(COUNT)
    assert caught.value.metadata["cause"] == "3D000"
    await database.close()


async def test_a_locked_sqlite_file_is_away_after_the_wait(local: Database, tmp_path: pathlib.Path) -> None:
    other = Database(f"sqlite+aiosqlite:///{tmp_path / 'x.db'}", schema="x")
    async with other.begin():
        with pytest.raises(DatabaseUnavailableError, match="SQLITE_BUSY"):
            await local.execute(insert("a"))
        assert await count(local) == 0  # readers do not wait
    await local.execute(insert("a"))
    await other.close()


async def test_a_full_disk_of_sqlite_is_said_and_leaves_nothing(local: Database) -> None:
    async def fill() -> None:
        async with local.begin() as tx:
            pages = (await tx.exec_driver_sql("PRAGMA page_count")).scalar_one()
            await tx.exec_driver_sql(f"PRAGMA max_page_count = {pages + 1}")  # SQLite then acts as on a full disk
            await tx.execute(insert("large", size_bytes=1_000_000))

    with pytest.raises(DiskFullError, match="free some space"):
        await fill()
    assert await count(local) == 0


async def test_a_damaged_sqlite_file_is_data_loss(tmp_path: pathlib.Path) -> None:
    (tmp_path / "x.db").write_bytes(b"no database" * 1000)
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'x.db'}", schema="x")
    with pytest.raises(DatabaseDamagedError, match="restore the file"):
        await database.rows(COUNT)
    await database.close()


async def test_a_defect_of_ours_is_not_called_an_outage(database: Database) -> None:
    await database.execute(insert("a"))
    with pytest.raises(sa.exc.IntegrityError):
        await database.execute(insert("a"))
    with pytest.raises(sa.exc.DBAPIError):
        await database.rows(sa.text("SELECT nothing FROM nowhere"))
