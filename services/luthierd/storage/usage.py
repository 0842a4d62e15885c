"""What holds the disk space of a service."""

from __future__ import annotations

import asyncio
import pathlib
from collections import Counter, defaultdict
from dataclasses import dataclass

import sqlalchemy as sa

from luthierd.storage.blobs import BlobStore
from luthierd.storage.database import Database
from luthierd.storage.manifests import files_of
from luthierd.storage.sweep import BLOBS, COPIES, DATABASE, LOGS, WORK, Keeping, size_of
from luthierd.storage.tombstones import DIGEST

MAX_ENTRIES = 100
"""Entries of a kind; documented in the contract."""


@dataclass(frozen=True)
class Entry:
    """`name`: the resource that holds the space, or a folder below the home; empty for all the rest of the kind."""

    kind: str
    name: str
    size_bytes: int


@dataclass(frozen=True)
class Usage:
    """`store_size_bytes`: of all blobs, which the services share."""

    entries: tuple[Entry, ...]
    store_size_bytes: int


async def usage_of(service: str, database: Database, blobs: BlobStore, keeping: Keeping) -> Usage:
    """What the service holds, by kind, largest first. A blob of several resources counts for each."""
    digests: dict[str, set[str]] = defaultdict(set)
    for root in keeping.roots:
        if root.owner is not None:
            async with database.read() as tx:
                async for owner, *texts in await tx.stream(root.query()):
                    digests[owner].update(*(DIGEST.findall(text) for text in texts if text))
    entries, store_size_bytes = await asyncio.to_thread(_measure, service, blobs, keeping, digests)
    size = await database_size(service, database, keeping.home)
    found = [Entry(DATABASE, service, size), *entries]
    return Usage(tuple(found), store_size_bytes)


def _measure(service: str, blobs: BlobStore, keeping: Keeping, digests: dict[str, set[str]]) -> tuple[list[Entry], int]:
    stored = {blob.sha256: blob.size_bytes for blob in blobs.list()}
    owned: Counter[str] = Counter()
    for owner, own in digests.items():
        present = own & stored.keys()
        files = {file for sha256 in present for file in files_of(blobs, sha256, size_bytes=stored[sha256])}
        owned[owner] = sum(stored.get(sha256, 0) for sha256 in present | files)
    home = keeping.home
    copies = [home / folder for folder in keeping.copies]
    logs = [home / keeping.logs, *home.glob(f"logs/{service}.log*")] if keeping.logs else []
    by_kind = {
        BLOBS: owned,
        COPIES: Counter({folder: size_of(home / folder) for folder in keeping.copies}),
        WORK: Counter({one: size_of(home / one, without=copies) for one in (*keeping.work, *keeping.spools)}),
        LOGS: Counter({path.relative_to(home).as_posix(): size_of(path) for path in logs}),
    }
    return [entry for kind, sizes in by_kind.items() for entry in _largest(kind, sizes)], sum(stored.values())


def _largest(kind: str, sizes: Counter[str]) -> list[Entry]:
    entries = [Entry(kind, name, size) for name, size in sizes.most_common() if size]
    rest = sum(entry.size_bytes for entry in entries[MAX_ENTRIES - 1 :])
    return entries if len(entries) <= MAX_ENTRIES else [*entries[: MAX_ENTRIES - 1], Entry(kind, "", rest)]


async def database_size(service: str, database: Database, home: pathlib.Path) -> int:
    """Bytes of the service's tables and indexes, or of its SQLite files."""
    if not database.is_shared:
        return await asyncio.to_thread(lambda: sum(size_of(path) for path in home.glob(f"{service}.db*")))
    tables = sa.table("pg_tables", sa.column("schemaname"), sa.column("tablename"))
    name = sa.func.quote_ident(tables.c.schemaname) + "." + sa.func.quote_ident(tables.c.tablename)
    total = sa.func.sum(sa.func.pg_total_relation_size(sa.cast(name, sa.Text).op("::")(sa.text("regclass"))))
    [row] = await database.rows(sa.select(total.label("size")).where(tables.c.schemaname == service))
    return int(row["size"] or 0)
