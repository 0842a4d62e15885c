"""First responses to calls with a `request_id`, in the service's database."""

from __future__ import annotations

import time
from dataclasses import dataclass

import sqlalchemy as sa

from luthierd.storage.database import Database

_replays = sa.table(
    "replays",
    sa.column("key"),
    sa.column("fingerprint"),
    sa.column("response", sa.LargeBinary),
    sa.column("create_time", sa.Float),
)


RETENTION_S = 24 * 3600.0
"""How long a response is returned again; documented at `request_id` in every proto."""


@dataclass(frozen=True)
class Replay:
    """The first response to a request id, and the digest of its request."""

    fingerprint: str
    response: bytes


class SqlReplayStore:
    """Responses by key, for `RETENTION_S`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, key: str) -> Replay | None:
        """The response under `key`, unless it expired."""
        query = sa.select(_replays.c.fingerprint, _replays.c.response).where(
            _replays.c.key == key, _replays.c.create_time > time.time() - RETENTION_S
        )
        async with self._database.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        return Replay(row.fingerprint, row.response) if row else None

    async def put(self, key: str, replay: Replay) -> None:
        """Stores it, and deletes what expired."""
        now = time.time()
        async with self._database.begin() as connection:
            await connection.execute(
                sa.delete(_replays).where(sa.or_(_replays.c.create_time <= now - RETENTION_S, _replays.c.key == key))
            )
            await connection.execute(
                sa.insert(_replays).values(
                    key=key, fingerprint=replay.fingerprint, response=replay.response, create_time=now
                )
            )
