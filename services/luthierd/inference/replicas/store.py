"""What replicas share, in SQL: who is live, the published version, intended changes and the reports on them.

Times are the database's, so that the clocks of machines need not agree.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles

from luthierd.codec import from_json, to_json
from luthierd.inference.deployments.deployments import DeploymentStore
from luthierd.inference.deployments.store import SqlStore
from luthierd.inference.domain.deployment import AdapterRevision, BaseModel, Deployment
from luthierd.inference.domain.errors import ReplicaLeaseLostError
from luthierd.storage.database import Database

FORGOTTEN_AFTER_S = 3600.0
"""Rows of a dead replica are removed so long after its lease expired; they have no effect after the expiry."""

_desired = sa.table("replica_desired", sa.column("slot"), sa.column("version", sa.BigInteger))
_replicas = sa.table(
    "replicas", sa.column("name"), sa.column("lease_until", sa.Float), sa.column("follows", sa.BigInteger)
)
_intents = sa.table(
    "replica_intents",
    sa.column("id"),
    sa.column("deployment"),
    sa.column("coordinator"),
    sa.column("revisions", sa.JSON),
)
_reports = sa.table("replica_parity_checks", sa.column("intent"), sa.column("replica"), sa.column("refusal", sa.JSON))

Change = Callable[[DeploymentStore], Awaitable[None]]
"""A compare-and-set of one deployment."""


@dataclass(frozen=True)
class Intent:
    """A change that a replica wants to publish, and the revisions that the others must check first."""

    id: str
    deployment: str
    coordinator: str
    revisions: tuple[AdapterRevision, ...]


@dataclass(frozen=True)
class Refusal:
    """Why a replica cannot serve a revision."""

    replica: str
    revision: str
    reason: str
    message: str


@dataclass(frozen=True)
class Desired:
    """All deployments, at least as new as `version`, which every published change increases."""

    version: int
    deployments: tuple[Deployment, ...]


@dataclass(frozen=True)
class Pulse:
    """What a replica polls: the version, and the open intents of other live replicas."""

    version: int
    intents: tuple[Intent, ...]


@dataclass(frozen=True)
class Barrier:
    """The state of an intent: `version` once it is published, until then the replicas that are missing or refused."""

    version: int = 0
    missing: tuple[str, ...] = ()
    refusals: tuple[Refusal, ...] = ()


class _Now(sa.sql.functions.FunctionElement[float]):
    """Seconds since 1970 by the database's clock, at the statement and not at the start of the transaction."""

    type = sa.Float()
    inherit_cache = True


@compiles(_Now)
def _now_in_postgresql(element: Any, compiler: Any, **options: Any) -> str:
    return "extract(epoch from clock_timestamp())"


@compiles(_Now, "sqlite")
def _now_in_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


class SqlReplicaStore:
    """Joining and publishing exclude each other: both lock the row with the version."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def desired(self) -> Desired:
        """The version is read first: if rows are newer than it, they are only read once more."""
        async with self._database.read() as connection:
            version = await _version(connection)
            return Desired(version, tuple(await _store_within(connection).deployments()))

    async def join(self, replica: str, version: int, *, lease_s: float) -> bool:
        """Counts the replica as live from now on; False, without effect, if `version` is no longer the newest.

        Removes the rows of replicas that died long ago.
        """
        async with self._database.begin() as connection:
            if await _version(connection, lock=True) != version:
                return False
            lease_until = _Now() + lease_s
            for statement in (
                sa.delete(_replicas).where(_replicas.c.lease_until < _Now() - FORGOTTEN_AFTER_S),
                sa.delete(_intents).where(_intents.c.coordinator.not_in(sa.select(_replicas.c.name))),
                sa.delete(_reports).where(_reports.c.intent.not_in(sa.select(_intents.c.id))),
                sa.delete(_replicas).where(_replicas.c.name == replica),
                sa.insert(_replicas).values(name=replica, lease_until=lease_until, follows=version),
            ):
                await connection.execute(statement)
            return True

    async def renew(self, replica: str, *, lease_s: float) -> bool:
        """False if the lease had expired already: the replica must join again."""
        query = sa.update(_replicas).where(_replicas.c.name == replica, _replicas.c.lease_until > _Now())
        return bool(await self._database.execute(query.values(lease_until=_Now() + lease_s)))

    async def follow(self, replica: str, version: int) -> None:
        await self._database.execute(sa.update(_replicas).where(_replicas.c.name == replica).values(follows=version))

    async def leave(self, replica: str) -> None:
        await self._database.execute(sa.delete(_replicas).where(_replicas.c.name == replica))

    async def pulse(self, replica: str) -> Pulse:
        """Intents are read first: one that is gone by then was given up, or is in the version read afterwards."""
        coordinators = _live().where(_replicas.c.name != replica)
        query = sa.select(_intents).where(_intents.c.coordinator.in_(coordinators))
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
            intents = tuple(from_json(Intent, dict(row)) for row in rows)
            return Pulse(await _version(connection), intents)

    async def open_intent(self, intent: Intent) -> None:
        await self._database.execute(sa.insert(_intents).values(to_json(intent)))

    async def close_intent(self, intent: Intent) -> None:
        """Gives the intent up, if it is not published."""
        await self._database.execute(*_closed(intent))

    async def report(self, intent: Intent, replica: str, refusal: Refusal | None) -> None:
        """The replica holds all revisions of the intent, loaded and checked; or it refuses. No effect once closed."""
        content = refusal and {"revision": refusal.revision, "reason": refusal.reason, "message": refusal.message}
        values = {"intent": intent.id, "replica": replica, "refusal": content or sa.null()}
        async with self._database.begin() as connection:
            is_open = sa.select(_intents.c.id).where(_intents.c.id == intent.id)
            if (await connection.execute(is_open)).one_or_none() is not None:
                mine = (_reports.c.intent == intent.id, _reports.c.replica == replica)
                await connection.execute(sa.delete(_reports).where(*mine))
                await connection.execute(sa.insert(_reports).values(values))

    async def publish(self, intent: Intent, change: Change) -> Barrier:
        """Makes the change and closes the intent, in one transaction, if every live replica reported success.

        EtagMismatchError; ReplicaLeaseLostError if the coordinator itself is not live.
        """
        async with self._database.begin() as connection:
            version = await _version(connection, lock=True)
            live = set((await connection.execute(_live())).scalars())
            if intent.coordinator not in live:
                raise ReplicaLeaseLostError(replica=intent.coordinator)
            query = sa.select(_reports.c.replica, _reports.c.refusal).where(_reports.c.intent == intent.id)
            reports = {row.replica: row.refusal for row in (await connection.execute(query)).all()}
            needed = (live - {intent.coordinator}) if intent.revisions else set()
            refusals = tuple(Refusal(name, **reports[name]) for name in sorted(needed) if reports.get(name))
            missing = tuple(sorted(needed - reports.keys()))
            if missing or refusals:
                return Barrier(missing=missing, refusals=refusals)
            await change(_store_within(connection))
            for statement in (sa.update(_desired).values(version=version + 1), *_closed(intent)):
                await connection.execute(statement)
            return Barrier(version=version + 1)

    async def live_count(self) -> int:
        return len(await self._database.rows(_live()))

    async def behind(self, replica: str, version: int) -> tuple[str, ...]:
        """Live replicas, other than this one, that do not route by `version` or a newer one yet."""
        query = _live().where(_replicas.c.name != replica, _replicas.c.follows < version)
        return tuple(row["name"] for row in await self._database.rows(query))

    async def chosen_base_model(self) -> BaseModel | None:
        """The base model of every replica's engine."""
        return await SqlStore(self._database).chosen_base_model()


class _Transaction(Database):
    """A database whose every transaction is the running one."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        yield self._connection

    read = begin


def _store_within(connection: AsyncConnection) -> SqlStore:
    return SqlStore(_Transaction(connection))


async def _version(connection: AsyncConnection, *, lock: bool = False) -> int:
    query = sa.select(_desired.c.version)
    return int((await connection.execute(query.with_for_update() if lock else query)).scalar_one())


def _closed(intent: Intent) -> tuple[sa.Delete, sa.Delete]:
    return sa.delete(_intents).where(_intents.c.id == intent.id), sa.delete(_reports).where(
        _reports.c.intent == intent.id
    )


def _live() -> Any:
    return sa.select(_replicas.c.name).where(_replicas.c.lease_until > _Now())
