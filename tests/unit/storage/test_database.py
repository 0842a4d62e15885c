"""One database code for SQLite and PostgreSQL: transactions, migrations, many writers."""

from __future__ import annotations

import asyncio
import pathlib

import pytest
import sqlalchemy as sa
from luthier.services import SERVICES
from luthierd.storage.database import Database
from support.databases import NO_VERSIONS

SERVICES_FOLDER = pathlib.Path(__file__).parents[3] / "services/luthierd"
SERVICES_WITH_TABLES = [name for name in SERVICES if any((SERVICES_FOLDER / name / "versions").glob("*.py"))]

_replays = sa.table(
    "replays",
    sa.column("key"),
    sa.column("fingerprint"),
    sa.column("response", sa.LargeBinary),
    sa.column("create_time"),
)


async def insert(database: Database, key: str) -> None:
    async with database.begin() as tx:
        await tx.execute(sa.insert(_replays).values(key=key, fingerprint="f", response=b"r", create_time=1.0))


async def keys(database: Database) -> list[str]:
    async with database.read() as tx:
        return list((await tx.execute(sa.select(_replays.c.key).order_by(_replays.c.key))).scalars())


async def test_what_a_transaction_wrote_is_there_after_it(database: Database) -> None:
    await insert(database, "a")
    assert await keys(database) == ["a"]


async def test_a_transaction_that_fails_leaves_nothing(database: Database) -> None:
    async def fail_half_way() -> None:
        async with database.begin() as tx:
            await tx.execute(sa.insert(_replays).values(key="a", fingerprint="f", response=b"r", create_time=1.0))
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        await fail_half_way()
    assert await keys(database) == []


async def test_an_open_transaction_is_not_seen_by_readers_and_does_not_block_them(database: Database) -> None:
    async with database.begin() as tx:
        await tx.execute(sa.insert(_replays).values(key="a", fingerprint="f", response=b"r", create_time=1.0))
        assert await asyncio.wait_for(keys(database), timeout=2) == []
    assert await keys(database) == ["a"]


async def test_many_writers_that_read_first_lose_no_update(database: Database) -> None:
    await insert(database, "counter")

    async def add_one() -> None:
        async with database.begin() as tx:
            query = sa.select(_replays.c.create_time).where(_replays.c.key == "counter").with_for_update()
            value = (await tx.execute(query)).scalar_one()
            await tx.execute(sa.update(_replays).where(_replays.c.key == "counter").values(create_time=value + 1))

    await asyncio.gather(*(add_one() for _ in range(40)))
    async with database.read() as tx:
        assert (await tx.execute(sa.select(_replays.c.create_time))).scalar_one() == 41.0


async def test_writers_in_two_engines_wait_for_each_other(database: Database, database_url: str, schema: str) -> None:
    other = Database(database_url, schema=schema)
    try:
        await asyncio.gather(*(insert(db, f"{n}-{i}") for i in range(10) for n, db in enumerate((database, other))))
        assert len(await keys(database)) == 20
    finally:
        await other.close()


@pytest.mark.parametrize("service", SERVICES_WITH_TABLES)
async def test_the_migrations_of_a_service_run_twice(service: str, database_url: str, schema: str) -> None:
    database = Database(database_url, schema=schema)
    try:
        await database.migrate(SERVICES_FOLDER / service / "versions")
        tables = await table_names(database)
        await database.migrate(SERVICES_FOLDER / service / "versions")
        assert {"jobs", "job_events", "replays", "alembic_version"} < set(tables)
        assert await table_names(database) == tables
    finally:
        await database.close()


async def table_names(database: Database) -> list[str]:
    async with database.read() as tx:
        return sorted(await tx.run_sync(lambda connection: sa.inspect(connection).get_table_names()))


async def test_two_servers_may_migrate_at_the_same_time(database_url: str, schema: str) -> None:
    databases = [Database(database_url, schema=schema) for _ in range(3)]
    try:
        await asyncio.gather(*(database.migrate(NO_VERSIONS) for database in databases))
        assert "jobs" in await table_names(databases[0])
    finally:
        for database in databases:
            await database.close()


async def test_services_in_one_postgresql_do_not_see_each_others_tables(postgres_url: str, schema: str) -> None:
    mine, theirs = Database(postgres_url, schema=schema), Database(postgres_url, schema=f"{schema}_other")
    try:
        await mine.migrate(NO_VERSIONS)
        await theirs.migrate(NO_VERSIONS)
        await insert(mine, "a")
        assert await keys(theirs) == []
    finally:
        await mine.close()
        await theirs.close()


async def test_sqlite_writes_ahead_and_syncs_every_commit(tmp_path: pathlib.Path) -> None:
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'deep/down/x.db'}", schema="x")
    try:
        async with database.read() as tx:
            settings = [
                (await tx.exec_driver_sql(f"PRAGMA {name}")).scalar() for name in ("journal_mode", "synchronous")
            ]
        assert settings == ["wal", 2]
    finally:
        await database.close()
