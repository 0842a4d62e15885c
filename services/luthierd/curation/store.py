"""Datasets in SQL. A revision is a job of the queue in the same database, so that both change in one transaction."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from luthierd.curation.domain import REVISION_KIND, Dataset
from luthierd.jobs.queue import Job, JobQueue
from luthierd.names import DATASET, DATASET_REVISION
from luthierd.paging import Page, PageRequest
from luthierd.storage.database import Database
from luthierd.storage.tombstones import exhume, lock

_datasets = sa.table(
    "datasets",
    *(sa.column(name) for name in ("name", "source_sha256", "row_count", "revision_count", "latest_revision")),
    *(sa.column(name, sa.Float) for name in ("create_time", "update_time")),
)


class SqlDatasetStore:
    """Datasets, and where their revisions begin. `now` returns seconds since the epoch."""

    def __init__(self, database: Database, queue: JobQueue, *, now: Callable[[], float] = time.time) -> None:
        self._database = database
        self._queue = queue
        self._now = now

    async def get(self, name: str) -> Dataset | None:
        """None if there is no such dataset."""
        async with self._database.read() as tx:
            return await _read(tx, name)

    async def list(self, tenant: str, page: PageRequest) -> Page[Dataset]:
        """Datasets of `tenants/{tenant}` by name."""
        prefix = DATASET.format(tenant, "")
        query = sa.select(_datasets).where(_datasets.c.name.startswith(prefix, autoescape=True))
        query = query.where(_datasets.c.name > page.after).order_by(_datasets.c.name).limit(page.limit)
        items = [Dataset(**row) for row in await self._database.rows(query)]
        return page.page(items, [item.name for item in items])

    async def put_source(self, name: str, source_sha256: str, row_count: int) -> Dataset:
        """Makes the blob the dataset's source, creating the dataset if need be; the same source changes nothing."""
        now = self._now()
        async with self._database.begin() as tx:
            buried = await exhume(tx, name)
            found = await _read(tx, name, for_update=True)
            if found is None:
                new = Dataset(
                    name=name,
                    source_sha256=source_sha256,
                    row_count=row_count,
                    create_time=now,
                    update_time=now,
                    revision_count=buried.last_number if buried else 0,  # names of revisions are not used again
                )
                await tx.execute(sa.insert(_datasets).values(**vars(new)))
                return new
            if found.source_sha256 == source_sha256:
                return found
            changed = dataclasses.replace(found, source_sha256=source_sha256, row_count=row_count, update_time=now)
            await tx.execute(_update(changed))
            return changed

    async def begin_revision(self, dataset_name: str, recipe: dict[str, Any]) -> Job | None:
        """Queues the curation of the dataset's present source as its next revision; None if there is no dataset."""
        async with self._database.begin() as tx:
            await lock(tx, shared=True)
            found = await _read(tx, dataset_name, for_update=True)
            if found is None:
                return None
            number = found.revision_count + 1
            await tx.execute(_update(dataclasses.replace(found, revision_count=number)))
            payload = {"source_sha256": found.source_sha256, "row_count": found.row_count, "recipe": recipe}
            name = f"{dataset_name}/revisions/r{number}"
            return await self._queue.submit(name, REVISION_KIND, payload, connection=tx)


async def set_latest_revision(tx: AsyncConnection, revision_name: str) -> None:
    """Notes that a revision is READY; an older one that ends later than a newer one is not the latest."""
    tenant, dataset, revision = DATASET_REVISION.parse(revision_name)
    found = await _read(tx, DATASET.format(tenant, dataset), for_update=True)
    if found is not None and revision_number(found.latest_revision) < revision_number(revision):
        await tx.execute(_update(dataclasses.replace(found, latest_revision=revision_name)))


def revision_number(revision_name: str) -> int:
    """The number at the end of a revision's name; 0 for none."""
    return int(revision_name.rpartition("r")[2] or 0)


def _update(dataset: Dataset) -> sa.Update:
    return sa.update(_datasets).where(_datasets.c.name == dataset.name).values(**vars(dataset))


async def _read(tx: AsyncConnection, name: str, *, for_update: bool = False) -> Dataset | None:
    query = sa.select(_datasets).where(_datasets.c.name == name)
    row = (await tx.execute(query.with_for_update() if for_update else query)).mappings().one_or_none()
    return Dataset(**row) if row else None
