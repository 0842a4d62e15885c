"""A service's database: SQLAlchemy's async engine over SQLite (WAL) or PostgreSQL, and its migrations.

On PostgreSQL each service has a schema with its name; on SQLite its own file.
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from luthierd.config import ServerConfig
from luthierd.storage.database_faults import connecting, database_faults_named

BUSY_TIMEOUT_MS = 15_000
"""How long a writer waits for SQLite's write lock; our transactions take milliseconds."""

CONNECT_TIMEOUT_S = 10.0

READ_ONLY = "luthier_read_only"

MIGRATION_LOCK = 7_101_001
"""An arbitrary number, the same in every server."""

GROUND_VERSIONS = pathlib.Path(__file__).parent / "versions"
"""Migrations of the tables that every service has: jobs and replays."""


class Database:
    """Transactions against one service's tables. All methods raise DatabaseUnavailableError and DiskFullError."""

    def __init__(self, url: str | sa.URL, *, schema: str) -> None:
        self._schema = schema
        self._label = f"{make_url(url).get_backend_name()} of {schema}"
        self._is_sqlite = make_url(url).get_backend_name() == "sqlite"
        if self._is_sqlite:
            file = make_url(url).database
            if file:
                pathlib.Path(file).parent.mkdir(parents=True, exist_ok=True)
            self.engine = create_async_engine(url, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})
            sa.event.listen(self.engine.sync_engine, "connect", _configure_sqlite)
            sa.event.listen(self.engine.sync_engine, "begin", _begin_immediate)
        else:
            settings = {"search_path": schema, "application_name": f"luthier-{schema}"}
            arguments = {"server_settings": settings, "timeout": CONNECT_TIMEOUT_S}
            self.engine = create_async_engine(url, connect_args=arguments, pool_pre_ping=True)

    @classmethod
    def of(cls, config: ServerConfig, service: str) -> Database:
        """The database of a service: as configured, else a file in `home`."""
        # Not as text, in which a `?` in the name of the folder would begin the arguments.
        file = sa.URL.create("sqlite+aiosqlite", database=str(config.home / f"{service}.db"))
        return cls(config.database_url or file, schema=service)

    @property
    def is_shared(self) -> bool:
        """Whether servers on several machines can use it."""
        return not self._is_sqlite

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """One transaction: committed at the end of the block, rolled back on an exception."""
        async with self._connected() as connection, connection.begin():
            yield connection

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """One consistent, read-only view; on SQLite it does not wait for writers."""
        async with self._connected() as connection:
            reader = await connection.execution_options(**{READ_ONLY: True})
            async with reader.begin():
                yield reader

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncConnection]:
        """A connection of the pool. Errors that a caller cannot help get a name."""
        async with contextlib.AsyncExitStack() as opened:
            with connecting(self._label):
                connection = await opened.enter_async_context(self.engine.connect())
            with database_faults_named(self._label):
                yield connection

    async def rows(self, query: sa.Executable) -> Sequence[sa.RowMapping]:
        """The rows of a query, by column name."""
        async with self.read() as connection:
            return (await connection.execute(query)).mappings().all()

    async def execute(self, *statements: sa.Executable) -> int:
        """Runs statements in one transaction. Returns the number of rows that the last one changed."""
        async with self.begin() as connection:
            results = [await connection.execute(statement) for statement in statements]
        return results[-1].rowcount

    async def migrate(self, versions: pathlib.Path) -> None:
        """Migrates the tables that every service has, and those of the service in `versions`."""
        config = Config()
        options = {
            "script_location": str(pathlib.Path(__file__).parent / "migrations"),
            "path_separator": "newline",
            "version_locations": f"{GROUND_VERSIONS}\n{versions}",
        }
        for name, value in options.items():
            config.set_main_option(name, value.replace("%", "%%"))  # a single one would be an interpolation

        def upgrade(connection: sa.Connection) -> None:
            if not self._is_sqlite:  # servers that start at the same time take turns; on SQLite every writer does
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
                connection.execute(sa.schema.CreateSchema(self._schema, if_not_exists=True))
            config.attributes["connection"] = connection
            command.upgrade(config, "heads")

        async with self.begin() as connection:
            await connection.run_sync(upgrade)

    async def close(self) -> None:
        """Closes every connection."""
        await self.engine.dispose()


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver must not begin transactions: _begin_immediate does
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_TIMEOUT_MS}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate(connection: sa.Connection) -> None:
    """Takes the write lock first: a transaction that reads and then writes would fail instead of waiting."""
    connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get(READ_ONLY) else "BEGIN IMMEDIATE")
