"""What is kept of a deleted resource: its name, digest and time, so that what refers to it can still be explained.

The name is not used again for other content. Creation and deletion lock each other out, so that nothing new refers to
what is being deleted.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from luthierd.errors import AlreadyExistsError, LuthierError, NotFoundError
from luthierd.storage.database import Database

DELETION_LOCK = 7_101_002
"""An arbitrary number, the same in every server; see `database.MIGRATION_LOCK`."""

NAME = re.compile(r'"((?:tenants|baseModels)/[A-Za-z0-9/-]+)"')
"""A resource name as a whole string of a JSON document."""

DIGEST = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")

NAMES_AT_ONCE = 500
"""Below the lowest limit on a statement's parameters that a build of SQLite has (999)."""


@dataclass(frozen=True, kw_only=True)
class Tombstone:
    """A deleted resource. `sha256` is empty if it had no content; `last_number`: of its last revision, 0 for none."""

    name: str
    sha256: str
    blobs: tuple[str, ...]
    """All digests it referred to; a sweep keeps them for the grace period."""
    last_number: int
    subject: str
    delete_time: float

    @property
    def story(self) -> str:
        """When it was deleted and by whom."""
        when = datetime.datetime.fromtimestamp(self.delete_time, datetime.UTC)
        content = f"; its content had the sha256 {self.sha256}" if self.sha256 else ""
        return f"it was deleted on {when:%Y-%m-%d %H:%M} UTC by {self.subject}{content}"

    @property
    def facts(self) -> dict[str, str]:
        """The same, for the metadata of an error."""
        when = datetime.datetime.fromtimestamp(self.delete_time, datetime.UTC)
        return {"delete_time": when.isoformat(timespec="seconds"), "deleted_by": self.subject, "sha256": self.sha256}


class NameRetiredError(AlreadyExistsError):
    """The name belonged to something that was deleted."""

    reason = "NAME_RETIRED"

    def __init__(self, tombstone: Tombstone) -> None:
        super().__init__(
            f"{tombstone.name} cannot be used again: {tombstone.story}; choose another id",
            metadata={"name": tombstone.name, **tombstone.facts},
        )


class ResourceDeletedError(NotFoundError):
    """What the new resource refers to was deleted meanwhile."""

    reason = "RESOURCE_DELETED"

    def __init__(self, tombstone: Tombstone) -> None:
        super().__init__(
            f"there is no {tombstone.name}: {tombstone.story}", metadata={"name": tombstone.name, **tombstone.facts}
        )


_tombstones = sa.table(
    "tombstones",
    *map(sa.column, ("name", "sha256", "subject")),
    sa.column("blobs", sa.JSON),
    sa.column("last_number", sa.BigInteger),
    sa.column("delete_time", sa.Float),
)


async def lock(tx: AsyncConnection, *, shared: bool) -> None:
    """Locks creations (`shared`) and deletions out of each other; first in a transaction. SQLite has one writer."""
    if tx.dialect.name == "postgresql":
        suffix = "_shared" if shared else ""
        await tx.exec_driver_sql(f"SELECT pg_advisory_xact_lock{suffix}({DELETION_LOCK})")


async def check_new(tx: AsyncConnection, name: str, document: Any) -> None:
    """For the transaction that creates `name`. NameRetiredError; ResourceDeletedError if a whole string in `document`
    is the name of something that was deleted, unless `name` is a part of it.
    """
    await lock(tx, shared=True)
    tenant = "/".join(name.split("/")[:2])
    used = {
        one
        for one in NAME.findall(json.dumps(document))  # a text may look like a name of another tenant: not its business
        if one.startswith((f"{tenant}/", "baseModels/")) and not name.startswith(f"{one}/")
    }
    for tombstone in await find(tx, [name, *used]):
        raise NameRetiredError(tombstone) if tombstone.name == name else ResourceDeletedError(tombstone)


async def find(tx: AsyncConnection, names: Iterable[str]) -> Sequence[Tombstone]:
    """Those of the names that were deleted."""
    wanted = sorted(set(names))
    found = []
    for start in range(0, len(wanted), NAMES_AT_ONCE):
        query = sa.select(_tombstones).where(_tombstones.c.name.in_(wanted[start : start + NAMES_AT_ONCE]))
        found += [_tombstone(row) for row in (await tx.execute(query)).mappings()]
    return found


async def bury(tx: AsyncConnection, tombstone: Tombstone) -> None:
    """Keeps it instead of an earlier one of the name."""
    await tx.execute(sa.delete(_tombstones).where(_tombstones.c.name == tombstone.name))
    await tx.execute(sa.insert(_tombstones).values({**vars(tombstone), "blobs": list(tombstone.blobs)}))


async def exhume(tx: AsyncConnection, name: str) -> Tombstone | None:
    """Removes the tombstone of a name that may be used again, because its revisions continue or its content is the
    same.
    """
    await lock(tx, shared=True)
    for tombstone in await find(tx, [name]):
        await tx.execute(sa.delete(_tombstones).where(_tombstones.c.name == name))
        return tombstone
    return None


class Tombstones:
    """Those of one service."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def explain(self, error: NotFoundError, *, tenant: str) -> LuthierError:
        """The error, and what is known of the deleted resources of the tenant that its metadata names."""
        known = (f"tenants/{tenant}/", "baseModels/")
        names = [value for value in error.metadata.values() if value.startswith(known)]
        if not names or isinstance(error, ResourceDeletedError):
            return error
        async with self._database.read() as tx:
            for tombstone in await find(tx, names):
                error.args = (f"{error}; {tombstone.story}",)
                error.metadata |= tombstone.facts
                break
        return error

    async def blobs_since(self, time: float) -> set[str]:
        """Digests of what was deleted after `time`."""
        query = sa.select(_tombstones.c.blobs).where(_tombstones.c.delete_time >= time)
        return {digest for row in await self._database.rows(query) for digest in row["blobs"]}


def _tombstone(row: sa.RowMapping) -> Tombstone:
    return Tombstone(**{**row, "blobs": tuple(row["blobs"])})
