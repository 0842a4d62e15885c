"""What replicas share, in SQL: who is live, which version holds, what is intended and who has proved it."""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles

from luthierd.inference.config import InferenceConfig
from luthierd.inference.deployments.store import SqlStore, revision_from_json, revision_to_json
from luthierd.inference.domain.deployment import BaseModel
from luthierd.inference.domain.errors import ReplicaLeaseLostError, SharedStateUnreachableError
from luthierd.inference.replicas.replicas import (
    Barrier,
    Change,
    Desired,
    Intent,
    Pulse,
    Refusal,
    Replicas,
    ReplicaTimes,
)
from luthierd.storage.database import Database

FORGOTTEN_AFTER_S = 3600.0
"""Rows of a replica that died are removed so long after its lease ended; they mean nothing from the lease's end on."""

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
_proofs = sa.table("replica_proofs", sa.column("intent"), sa.column("replica"), sa.column("refusal", sa.JSON))


class _Now(sa.sql.functions.FunctionElement[float]):
    """Seconds since 1970 by the database's clock, at the statement and not at the transaction's begin."""

    type = sa.Float()
    inherit_cache = True


@compiles(_Now)
def _now_in_postgresql(element: Any, compiler: Any, **options: Any) -> str:
    return "extract(epoch from clock_timestamp())"


@compiles(_Now, "sqlite")
def _now_in_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


class SqlReplicaStore:
    """See `replicas.ReplicaStore`. Joining and publishing take turns: both lock the row that holds the version."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def desired(self) -> Desired:
        """The version is read first: rows that are newer than it only mean that they are read once more."""
        async with self._read() as connection:
            version = await self._version(connection)
            return Desired(version, tuple(await _store_within(connection).deployments()))

    async def join(self, replica: str, version: int, *, lease_s: float) -> bool:
        """False if `version` is no longer the newest. Sweeps out who died long ago."""
        async with self._begin() as connection:
            if await self._version(connection, lock=True) != version:
                return False
            await connection.execute(sa.delete(_replicas).where(_replicas.c.lease_until < _Now() - FORGOTTEN_AFTER_S))
            await connection.execute(
                sa.delete(_intents).where(_intents.c.coordinator.not_in(sa.select(_replicas.c.name)))
            )
            await connection.execute(sa.delete(_proofs).where(_proofs.c.intent.not_in(sa.select(_intents.c.id))))
            await connection.execute(sa.delete(_replicas).where(_replicas.c.name == replica))
            await connection.execute(
                sa.insert(_replicas).values(name=replica, lease_until=_Now() + lease_s, follows=version)
            )
            return True

    async def renew(self, replica: str, *, lease_s: float) -> bool:
        """False if the lease had ended already."""
        query = sa.update(_replicas).where(_replicas.c.name == replica, _replicas.c.lease_until > _Now())
        async with self._begin() as connection:
            return bool((await connection.execute(query.values(lease_until=_Now() + lease_s))).rowcount)

    async def follow(self, replica: str, version: int) -> None:
        """Says that the replica routes by `version`."""
        query = sa.update(_replicas).where(_replicas.c.name == replica).values(follows=version)
        async with self._begin() as connection:
            await connection.execute(query)

    async def leave(self, replica: str) -> None:
        """Stops counting it, and whatever it intended."""
        async with self._begin() as connection:
            await connection.execute(sa.delete(_replicas).where(_replicas.c.name == replica))

    async def pulse(self, replica: str) -> Pulse:
        """Intents are read first: one that is gone by then was given up, or is in the version that is read after."""
        coordinators = _live().where(_replicas.c.name != replica)
        query = sa.select(_intents).where(_intents.c.coordinator.in_(coordinators))
        async with self._read() as connection:
            rows = (await connection.execute(query)).all()
            intents = tuple(_intent(row) for row in rows)
            return Pulse(await self._version(connection), intents)

    async def open_intent(self, intent: Intent) -> None:
        """Lets the other replicas see it."""
        revisions = [revision_to_json(revision) for revision in intent.revisions]
        values = {
            "id": intent.id,
            "deployment": intent.deployment,
            "coordinator": intent.coordinator,
            "revisions": revisions,
        }
        async with self._begin() as connection:
            await connection.execute(sa.insert(_intents).values(values))

    async def close_intent(self, intent: Intent) -> None:
        """Gives it up, if it is not published."""
        async with self._begin() as connection:
            await self._close(connection, intent)

    async def prove(self, intent: Intent, replica: str, refusal: Refusal | None) -> None:
        """Nothing happens if the intent was closed meanwhile."""
        content = refusal and {"revision": refusal.revision, "reason": refusal.reason, "message": refusal.message}
        async with self._begin() as connection:
            is_open = sa.select(_intents.c.id).where(_intents.c.id == intent.id)
            if (await connection.execute(is_open)).one_or_none() is not None:
                mine = (_proofs.c.intent == intent.id, _proofs.c.replica == replica)
                await connection.execute(sa.delete(_proofs).where(*mine))
                await connection.execute(
                    sa.insert(_proofs).values(intent=intent.id, replica=replica, refusal=content or sa.null())
                )

    async def publish(self, intent: Intent, change: Change) -> Barrier:
        """One transaction: whoever is live, what is proved and what holds cannot change in it."""
        async with self._begin() as connection:
            version = await self._version(connection, lock=True)
            live = set((await connection.execute(_live())).scalars())
            if intent.coordinator not in live:
                raise ReplicaLeaseLostError(intent.coordinator)
            query = sa.select(_proofs.c.replica, _proofs.c.refusal).where(_proofs.c.intent == intent.id)
            proofs = {row.replica: row.refusal for row in (await connection.execute(query)).all()}
            needed = (live - {intent.coordinator}) if intent.revisions else set()
            refusals = tuple(Refusal(name, **proofs[name]) for name in sorted(needed & proofs.keys()) if proofs[name])
            missing = tuple(sorted(needed - proofs.keys()))
            if missing or refusals:
                return Barrier(missing=missing, refusals=refusals)
            await change(_store_within(connection))
            await connection.execute(sa.update(_desired).values(version=version + 1))
            await self._close(connection, intent)
            return Barrier(version=version + 1)

    async def live_count(self) -> int:
        """Replicas whose lease runs."""
        async with self._read() as connection:
            return len((await connection.execute(_live())).all())

    async def behind(self, replica: str, version: int) -> tuple[str, ...]:
        """Live replicas that do not route by `version` or a newer one yet."""
        query = _live().where(_replicas.c.name != replica, _replicas.c.follows < version)
        async with self._read() as connection:
            return tuple((await connection.execute(query)).scalars())

    async def chosen_base_model(self) -> BaseModel | None:
        """What every replica's engine holds."""
        async with self._read() as connection:
            return await _store_within(connection).chosen_base_model()

    @staticmethod
    async def _close(connection: AsyncConnection, intent: Intent) -> None:
        await connection.execute(sa.delete(_intents).where(_intents.c.id == intent.id))
        await connection.execute(sa.delete(_proofs).where(_proofs.c.intent == intent.id))

    @staticmethod
    async def _version(connection: AsyncConnection, *, lock: bool = False) -> int:
        query = sa.select(_desired.c.version)
        return int((await connection.execute(query.with_for_update() if lock else query)).scalar_one())

    @contextlib.asynccontextmanager
    async def _begin(self) -> AsyncIterator[AsyncConnection]:
        with _translated():
            async with self._database.begin() as connection:
                yield connection

    @contextlib.asynccontextmanager
    async def _read(self) -> AsyncIterator[AsyncConnection]:
        with _translated():
            async with self._database.read() as connection:
                yield connection


def make_replicas(
    database: Database, direct: SqlStore, config: InferenceConfig, set_serving: Callable[[bool], Awaitable[None]]
) -> Replicas | None:
    """A server among the others that use the same PostgreSQL. None on SQLite: there are no others."""
    if not database.is_shared:
        return None
    name = f"{config.replica_name or socket.gethostname()}-{secrets.token_hex(3)}"
    times = ReplicaTimes(lease_s=config.replica_lease_s, poll_s=config.replica_poll_s, proof_s=config.replica_proof_s)
    return Replicas(name, store=SqlReplicaStore(database), direct=direct, times=times, set_serving=set_serving)


class _Within:
    """A `Database` whose every transaction is the one that runs already."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        yield self._connection

    read = begin


def _store_within(connection: AsyncConnection) -> SqlStore:
    return SqlStore(cast(Database, _Within(connection)))


def _live() -> Any:
    return sa.select(_replicas.c.name).where(_replicas.c.lease_until > _Now())


def _intent(row: Any) -> Intent:
    revisions = tuple(revision for content in row.revisions if (revision := revision_from_json(content)))
    return Intent(row.id, row.deployment, row.coordinator, revisions)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """A database that cannot be reached is UNAVAILABLE, not ours to mend."""
    try:
        yield
    except (OSError, sa.exc.DBAPIError) as error:
        raise SharedStateUnreachableError(type(error).__name__) from error
