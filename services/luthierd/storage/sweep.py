"""Mark and sweep: what nothing needs any more is deleted, once it is older than the grace period.

Every service says which digests its database holds. The blobs with these digests, and the files that the manifests
among them list, are live. Nothing is deleted that is younger than the grace period or than the oldest running job, so
that work in progress keeps what it has written but not recorded yet. Storing a blob that exists makes it young again.
"""

from __future__ import annotations

import asyncio
import logging
import pathlib
import shutil
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from luthierd.errors import LuthierError
from luthierd.storage.blobs import SHA256, BlobStore, StoredBlob
from luthierd.storage.database import Database
from luthierd.storage.manifests import files_of
from luthierd.storage.references import FINAL_STATES
from luthierd.storage.tombstones import DIGEST, Tombstones

log = logging.getLogger(__name__)

_jobs = sa.table("jobs", *map(sa.column, ("name", "state", "start_time", "end_time")))
_events = sa.table("job_events", *map(sa.column, ("job", "kind")))
_is_final = _jobs.c.state.in_(FINAL_STATES)

DATABASE, LOGS, COPIES, WORK, BLOBS = "database", "logs", "copies", "work", "blobs"
"""Kinds of what holds disk space; documented in the contract."""


@dataclass(frozen=True, kw_only=True)
class Root:
    """Columns whose texts contain the digests of blobs that the rows need."""

    table: str
    columns: Sequence[str]
    owner: sa.ColumnElement[str] | None = None
    """The resource that holds the blobs; None: other resources hold them."""
    where: sa.ColumnElement[bool] | None = None
    """Which rows need them; None: all."""

    def query(self) -> sa.Select[Any]:
        """The owner of each row, or an empty text, and its columns as texts."""
        owner = sa.literal("", sa.Text) if self.owner is None else self.owner
        columns: list[Any] = [owner, *(sa.cast(sa.column(name), sa.Text) for name in self.columns)]
        found = sa.select(*columns).select_from(sa.table(self.table))
        return found if self.where is None else found.where(self.where)


JOBS_NEED = Root(table="jobs", columns=["payload"], where=sa.column("state").not_in(FINAL_STATES))
"""Of every service: what unfinished jobs work on. A finished one only names it."""
RESULTS = Root(table="jobs", columns=["result"], owner=sa.column("name", sa.Text))
"""What its jobs made."""


@dataclass(frozen=True, kw_only=True)
class Expiry:
    """Rows of a table that are deleted `retention_s` seconds after their `create_time`."""

    table: str
    retention_s: float


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """What a service keeps, and for how long."""

    home: pathlib.Path
    grace_s: float
    interval_s: float
    """Between two sweeps in the background; 0: none."""
    event_retention_s: float
    log_retention_s: float
    roots: Sequence[Root] = ()
    expiries: Sequence[Expiry] = ()
    copies: Sequence[str] = ()
    """Folders below `home` with copies of blobs, by digest."""
    work: Sequence[str] = ()
    """Folders below `home` with a folder for each job, named like it."""
    spools: Sequence[str] = ()
    """Folders below `home` with unfinished uploads."""
    logs: str = ""
    """The folder below `home` with a log for each worker."""
    sweeps_store: bool = False
    """Whether this service sweeps the blob store, which all share."""


@dataclass(frozen=True)
class Live:
    """Digests that a service needs, and when its oldest running job started."""

    digests: set[str]
    oldest_job_time: float | None = None


@dataclass
class Swept:
    """Nothing younger than `cutoff_time` was deleted. `freed`: bytes by kind."""

    cutoff_time: float
    freed: Counter[str] = field(default_factory=Counter)


AskLive = Callable[[float], Awaitable[Sequence[Live]]]
"""What the other services need, given the grace period. UnavailableError if one does not answer."""


class Sweeper:
    """Sweeps what one service keeps. `now` gives seconds since the epoch."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        keeping: Keeping,
        *,
        ask_peers: AskLive,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database, self._blobs, self.keeping = database, blobs, keeping
        self._ask_peers, self._now = ask_peers, now

    async def run(self) -> None:
        """Sweeps at the interval until cancelled. A background task of the server."""
        while self.keeping.interval_s:
            await asyncio.sleep(self.keeping.interval_s)
            try:
                swept = await self.sweep()
                log.info("swept", extra={"freed_bytes": dict(swept.freed), "cutoff_time": swept.cutoff_time})
            except LuthierError as error:  # a service is away: what it needs is unknown
                log.warning("not swept", extra={"reason": error.reason, "problem": str(error)})
            except Exception:  # an unreachable store must not end the server, and is tried again
                log.exception("the sweep failed")

    async def live(self, *, grace_s: float | None = None) -> Live:
        """What this service needs, and what belonged to resources that were deleted within the grace period, by default
        the configured one.
        """
        digests: set[str] = set()
        for root in self.keeping.roots:
            async with self._database.read() as tx:
                async for _, *texts in await tx.stream(root.query()):
                    digests.update(*(DIGEST.findall(text) for text in texts if text))
        # After the rows: what is deleted meanwhile is found here.
        digests |= await Tombstones(self._database).blobs_since(self._now() - self._grace_s(grace_s))
        running = sa.select(sa.func.min(_jobs.c.start_time).label("oldest")).where(~_is_final)
        [row] = await self._database.rows(running)
        return Live(digests, row["oldest"])

    async def sweep(self, *, validate_only: bool = False, grace_s: float | None = None) -> Swept:
        """Deletes what nothing needs; with `validate_only`, counts it only. UnavailableError, and nothing deleted, if a
        service does not say what it needs.
        """
        grace_s = self._grace_s(grace_s)
        everyone = [await self.live(grace_s=grace_s), *await self._ask_peers(grace_s)]
        started = [live.oldest_job_time for live in everyone if live.oldest_job_time is not None]
        swept = Swept(min([self._now() - grace_s, *started]))
        open_jobs = set(await self._names(~_is_final))
        digests = {digest for live in everyone for digest in live.digests}
        await asyncio.to_thread(self._sweep_files, swept, digests, open_jobs, validate_only)
        if not validate_only:
            await self._expire_rows()
        return swept

    def _grace_s(self, wanted_s: float | None) -> float:
        return self.keeping.grace_s if wanted_s is None else wanted_s

    async def _names(self, condition: sa.ColumnElement[bool]) -> Sequence[str]:
        return [row["name"] for row in await self._database.rows(sa.select(_jobs.c.name).where(condition))]

    def _sweep_files(self, swept: Swept, digests: set[str], open_jobs: set[str], validate_only: bool) -> None:
        cutoff = swept.cutoff_time
        if self.keeping.sweeps_store:
            stored = {blob.sha256: blob for blob in self._blobs.list()}
            live = with_files(self._blobs, digests, stored)
            for blob in stored.values():
                is_stale = blob.sha256 not in live and blob.modified_time < cutoff
                if is_stale and (validate_only or self._blobs.delete_older(blob.sha256, cutoff)):
                    swept.freed[BLOBS] += blob.size_bytes
        too_old = min(cutoff, self._now() - self.keeping.log_retention_s)
        stale = {
            COPIES: [path for path in self._copies(digests) if _is_older(path, cutoff)],
            WORK: [path for path in (*self._work(open_jobs), *self._uploads()) if _is_older(path, cutoff)],
            LOGS: [path for path in self._logs() if _is_older(path, too_old)],
        }
        for kind, paths in stale.items():
            for path in paths:
                swept.freed[kind] += size_of(path)
                if not validate_only:
                    _remove(path)

    def _copies(self, digests: set[str]) -> Iterator[pathlib.Path]:
        """Copies of blobs that nothing needs."""
        for folder in self.keeping.copies:
            yield from (path for path in _entries(self.keeping.home / folder) if path.name not in digests)

    def _work(self, open_jobs: set[str]) -> Iterator[pathlib.Path]:
        """Folders of jobs that have ended."""
        for folder in (self.keeping.home / name for name in self.keeping.work):
            for path in (*folder.glob("tenants/*/*/*"), *folder.glob("baseModels/*/*/*")):
                if path.relative_to(folder).as_posix() not in open_jobs:
                    yield path

    def _uploads(self) -> Iterator[pathlib.Path]:
        """Files that were being written when a process died."""
        folders = [self.keeping.home / name for name in self.keeping.spools]
        if self.keeping.sweeps_store and self._blobs.local_folder:
            folders += self._blobs.local_folder.glob("??")
        for folder in folders:
            yield from (path for path in folder.glob("*") if path.is_file() and not SHA256.fullmatch(path.name))

    def _logs(self) -> Iterator[pathlib.Path]:
        return (self.keeping.home / self.keeping.logs).glob("*.log*")

    async def _expire_rows(self) -> None:
        """The last event of a job stays: it says how the job ended, and a watch ends with it."""
        now = self._now()
        ended = sa.select(_jobs.c.name).where(_is_final, _jobs.c.end_time < now - self.keeping.event_retention_s)
        statements: list[sa.Executable] = [
            sa.delete(_events).where(_events.c.kind != "state", _events.c.job.in_(ended))
        ]
        for expiry in self.keeping.expiries:
            is_old = sa.column("create_time", sa.Float) < now - expiry.retention_s
            statements.append(sa.delete(sa.table(expiry.table)).where(is_old))
        await self._database.execute(*statements)


def with_files(blobs: BlobStore, digests: set[str], stored: dict[str, StoredBlob]) -> set[str]:
    """The digests, and those of the files that the manifests among them list."""
    found = set(digests)
    for sha256 in digests & stored.keys():
        found.update(files_of(blobs, sha256, size_bytes=stored[sha256].size_bytes))
    return found


def size_of(path: pathlib.Path, *, without: Sequence[pathlib.Path] = ()) -> int:
    """Bytes that a file or a folder adds to the disk; 0 if it is gone, or a link to a blob of a local store."""
    try:
        if not path.is_dir():
            stat = path.stat()
            return stat.st_size if stat.st_nlink == 1 else 0
        children = [child for child in path.iterdir() if not child.is_symlink() and child not in without]
        return sum(size_of(child, without=without) for child in children)
    except OSError:
        return 0


def _remove(path: pathlib.Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _entries(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Files and folders named by a digest, at any depth."""
    for path in folder.glob("*"):
        if SHA256.fullmatch(path.name):
            yield path
        elif path.is_dir():
            yield from _entries(path)


def _is_older(path: pathlib.Path, cutoff: float) -> bool:
    """Whether nothing in it changed since `cutoff`."""
    try:
        newest = max((one.stat().st_mtime for one in [path, *path.rglob("*")]), default=cutoff)
    except OSError:
        return False
    return newest < cutoff
