"""Deleting resources of any kind: what goes along, what forbids it, and the tombstone that stays.

A service decides alone over its resources. It asks the services that may refer to them; they answer from their own
databases. Whatever needs a resource forbids its deletion. Finished work that only names it forbids it unless `cascade`
is set; it then stays, and the tombstone explains its reference.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from luthierd.errors import AbortedError, FailedPreconditionError, LuthierError
from luthierd.names import NamePattern
from luthierd.storage import tombstones
from luthierd.storage.database import Database
from luthierd.storage.references import FINAL_STATES, MAX_REFERENCES, Reference, References
from luthierd.storage.tombstones import DIGEST, Tombstone

MAX_DELETED = 500
"""Resources in one deletion, so that it stays one short transaction."""
MAX_NAMED = 5
"""Referrers in a message; the details of the error have more."""
MAX_SUBJECTS = 20
"""Referrers in the details of an error: a status must fit into 8 KiB of trailers."""

AskPeers = Callable[[Sequence[str]], Awaitable[Sequence[Reference]]]
"""What other services refer to these names. UnavailableError if one does not answer."""


class ResourceInUseError(FailedPreconditionError):
    """Something refers to the resource."""

    reason = "RESOURCE_IN_USE"

    def __init__(self, name: str, references: Sequence[Reference]) -> None:
        needing = [one for one in references if one.needs_it]
        found = needing or references
        named = ", ".join(dict.fromkeys(one.referrer for one in found[:MAX_NAMED]))
        more = f" and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
        advice = (
            "wait for unfinished work or cancel it, and remove deployments and adapters first"
            if needing
            else "delete these first, or set cascade: parts go along, finished work stays"
        )
        super().__init__(
            f"{name} is used by {named}{more}; {advice}",
            metadata={"name": name, "referrers": named, "referrer_count": str(len(found))},
        )
        self.subjects = tuple(dict.fromkeys(one.referrer for one in found))[:MAX_SUBJECTS]


class JobNotFinishedError(FailedPreconditionError):
    """Only a finished job can be deleted."""

    reason = "JOB_NOT_FINISHED"

    def __init__(self, name: str, state: str) -> None:
        super().__init__(
            f"{name} is {state}; cancel it, and delete it when it has ended", metadata={"job": name, "state": state}
        )


class DeletionTooLargeError(FailedPreconditionError):
    """Too much would go along."""

    reason = "DELETION_TOO_LARGE"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"more than {MAX_DELETED} resources belong to {name}; delete some of them first",
            metadata={"name": name, "limit": str(MAX_DELETED)},
        )


class ChangedError(AbortedError):
    """The resource, or what belongs to it, changed meanwhile."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} changed meanwhile; look at it and try again", metadata={"name": name})


Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How resources of a kind are deleted: a row of `table`, and what belongs to it."""

    pattern: NamePattern
    missing: Callable[[str], LuthierError]
    table: sa.TableClause
    digest: str
    """Where the row has the digest of the content: a column, or a column and keys, such as `result.sha256`."""
    where: Callable[[str], sa.ColumnElement[bool]] = lambda name: sa.column("name") == name
    """The row of a name."""
    parts: Callable[[str], Sequence[sa.Select[Any]]] = lambda _: ()
    """Names of the resources that belong to it."""
    also: Callable[[str], Sequence[sa.Executable]] = lambda _: ()
    """Statements to run after the row is deleted."""
    etag: Callable[[Row], str] = lambda _: ""
    last_number: str = ""
    """The column that counts its revisions."""


_jobs = sa.table(
    "jobs", sa.column("name"), sa.column("state"), *(sa.column(name, sa.JSON) for name in ("payload", "result"))
)


def job_kind(pattern: NamePattern, missing: Callable[[str], LuthierError], **more: Any) -> Kind:
    """A kind whose resources are jobs. Their events go along."""
    values: dict[str, Any] = {"pattern": pattern, "missing": missing, "table": _jobs, "digest": "result.sha256"}
    return Kind(**values | more)


@dataclass(frozen=True)
class Deleted:
    """The names that went (or would go), the one asked for first; and finished work that refers to them and stays."""

    names: tuple[str, ...]
    kept: tuple[str, ...]


class Deletions:
    """Deletes the resources of one service. `now` gives seconds since the epoch."""

    def __init__(
        self,
        database: Database,
        kinds: Sequence[Kind],
        references: References,
        *,
        ask_peers: AskPeers | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database, self._kinds, self._references = database, kinds, references
        self._ask_peers, self._now = ask_peers, now

    async def delete(
        self,
        pattern: NamePattern,
        name: str,
        *,
        subject: str,
        cascade: bool = False,
        validate_only: bool = False,
        etag: str = "",
    ) -> Deleted:
        """Deletes `name`, of the form `pattern`, for `subject`; see the top of the file. The kind's own NotFoundError,
        ResourceInUseError, JobNotFinishedError, DeletionTooLargeError, ChangedError; UnavailableError if a service
        cannot be asked.
        """
        pattern.parse(name)
        async with self._database.read() as tx:
            doomed, own = await self._plan(tx, name, cascade=cascade, etag=etag)
        others = await self._ask_peers(list(doomed)) if self._ask_peers else ()
        kept = _judge(name, doomed, [*own, *others], cascade=cascade)
        if not validate_only:
            async with self._database.begin() as tx:
                await tombstones.lock(tx, shared=False)
                now_doomed, own = await self._plan(tx, name, cascade=cascade, etag=etag)
                if now_doomed.keys() != doomed.keys():  # nobody was asked about what is new
                    raise ChangedError(name)
                kept = _judge(name, doomed, [*own, *others], cascade=cascade)
                for one, row in reversed(now_doomed.items()):  # parts before what they belong to
                    await self._delete_one(tx, one, row, subject)
        return Deleted(tuple(doomed), kept)

    async def _plan(
        self, tx: AsyncConnection, name: str, *, cascade: bool, etag: str
    ) -> tuple[dict[str, Row], list[Reference]]:
        """The rows to delete by name, `name` first, and what refers to them here."""
        kind = self._kind_of(name)
        row = await _read(tx, kind, name)
        if etag and etag != kind.etag(row):
            raise ChangedError(name)
        doomed: dict[str, Row] = {name: row}
        parts: list[str] = []
        for query in kind.parts(name):
            parts += (await tx.execute(query.limit(MAX_DELETED + 1))).scalars()
        if len(parts) >= MAX_DELETED:
            raise DeletionTooLargeError(name)
        own = [] if cascade else [Reference(part, name) for part in parts]
        if cascade:
            doomed |= {part: await _read(tx, self._kind_of(part), part) for part in parts}
        return doomed, own + list(await self._references.read(tx, list(doomed)))

    def _kind_of(self, name: str) -> Kind:
        shape = name.split("/")[::2]
        return next(kind for kind in self._kinds if kind.pattern.pattern.split("/")[::2] == shape)

    async def _delete_one(self, tx: AsyncConnection, name: str, row: Row, subject: str) -> None:
        kind = self._kind_of(name)
        await tx.execute(sa.delete(kind.table).where(kind.where(name)))
        for statement in kind.also(name):
            await tx.execute(statement)
        stone = Tombstone(
            name=name,
            sha256=_at(row, kind.digest),
            blobs=tuple(sorted(set(DIGEST.findall(json.dumps(dict(row)))))),
            last_number=row[kind.last_number] if kind.last_number else 0,
            subject=subject,
            delete_time=self._now(),
        )
        await tombstones.bury(tx, stone)


async def _read(tx: AsyncConnection, kind: Kind, name: str) -> Row:
    """The row of a resource that may be deleted. JobNotFinishedError, the kind's NotFoundError."""
    row: Any = (await tx.execute(sa.select(kind.table).where(kind.where(name)))).mappings().one_or_none()
    if row is None:
        raise kind.missing(name)
    if "state" in row and row["state"] not in FINAL_STATES:
        raise JobNotFinishedError(name, row["state"])
    found: Row = row
    return found


def _judge(name: str, doomed: Mapping[str, Row], references: Sequence[Reference], *, cascade: bool) -> tuple[str, ...]:
    """Who refers to the doomed and stays. ResourceInUseError if that forbids the deletion."""
    found = [one for one in references if one.referrer not in doomed]
    if any(one.needs_it for one in found) or (found and not cascade):
        raise ResourceInUseError(name, found)
    return tuple(dict.fromkeys(one.referrer for one in found))[:MAX_REFERENCES]


def _at(row: Row, path: str) -> str:
    """The text at a dotted path; empty if there is none."""
    value: Any = row
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, str) else ""
