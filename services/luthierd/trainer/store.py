"""The trainer's tables."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from luthierd.jobs.queue import Job, JobQueue
from luthierd.rpc.paging import PageRequest
from luthierd.storage.database import Database
from luthierd.trainer.base_models import KIND as IMPORT_KIND
from luthierd.trainer.base_models import Registration
from luthierd.trainer.domain import Adapter, AdapterRevision, TrainingTask

_models = sa.table(
    "base_models", *map(sa.column, ("name", "source", "location", "import_job")), sa.column("create_time", sa.Float)
)
_adapters = sa.table("adapters", sa.column("name"), sa.column("create_time", sa.Float))
_revisions = sa.table(
    "adapter_revisions",
    *map(sa.column, ("adapter", "number", "training_job")),
    sa.column("create_time", sa.Float),
    sa.column("content", sa.JSON(none_as_null=True)),
)
_is_finished = _revisions.c.create_time.is_not(None)


class SqlBaseModelStore:
    """See `base_models.BaseModelStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, name: str) -> Registration | None:
        """The registration of that name."""
        async with self._database.read() as tx:
            row = (await tx.execute(sa.select(_models).where(_models.c.name == name))).one_or_none()
        return Registration(**row._mapping) if row else None

    async def register(self, registration: Registration, queue: JobQueue) -> None:
        """Adds or replaces it and submits its import job. JobExistsError if another call was faster."""
        async with self._database.begin() as tx:
            await queue.submit(
                registration.import_job, IMPORT_KIND, {"location": registration.location}, connection=tx
            )
            await tx.execute(sa.delete(_models).where(_models.c.name == registration.name))
            await tx.execute(sa.insert(_models).values(**dataclasses.asdict(registration)))

    async def list(self, page: PageRequest) -> Sequence[Registration]:
        """The next registrations by name."""
        query = sa.select(_models).where(_models.c.name > page.after).order_by(_models.c.name).limit(page.limit)
        async with self._database.read() as tx:
            return [Registration(**row._mapping) for row in await tx.execute(query)]


class SqlAdapterStore:
    """See `adapters.AdapterStore` and `training_jobs.AdapterRegister`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def submit(self, queue: JobQueue, *, name: str, kind: str, task: TrainingTask) -> Job:
        """Adds the adapter, unless it is there, and the job: both or neither."""
        async with self._database.begin() as tx:
            job = await queue.submit(name, kind, task.to_dict(), connection=tx)
            if not (await tx.execute(sa.select(_adapters.c.name).where(_adapters.c.name == task.adapter))).first():
                await tx.execute(sa.insert(_adapters).values(name=task.adapter, create_time=time.time()))
            return job

    async def reserve(self, adapter: str, *, training_job: str) -> int:
        """The number of the job's revision: the same one however often it is asked for."""
        async with self._database.begin() as tx:
            # Holding the adapter's row keeps two jobs of one adapter from taking the same number.
            await tx.execute(sa.select(_adapters.c.name).where(_adapters.c.name == adapter).with_for_update())
            mine = sa.select(_revisions.c.number).where(_revisions.c.training_job == training_job)
            number = (await tx.execute(mine)).scalar_one_or_none()
            if number is None:
                last = sa.select(sa.func.max(_revisions.c.number)).where(_revisions.c.adapter == adapter)
                number = int((await tx.execute(last)).scalar_one() or 0) + 1
                values = {"adapter": adapter, "number": number, "training_job": training_job}
                await tx.execute(sa.insert(_revisions).values(**values))
            return int(number)

    async def finish(self, connection: AsyncConnection, revision: AdapterRevision) -> None:
        """Publishes the job's reserved revision, in the transaction that ends the job."""
        content = {key: value for key, value in dataclasses.asdict(revision).items() if key != "create_time"}
        await connection.execute(
            sa.update(_revisions)
            .where(_revisions.c.training_job == revision.training_job)
            .values(create_time=revision.create_time, content=content | {"target_modules": list(revision.target_modules)})
        )

    async def adapters(self, parent: str, page: PageRequest) -> Sequence[Adapter]:
        """The next adapters of a tenant by name."""
        newest = (
            sa.select(sa.func.max(_revisions.c.number))
            .where(_revisions.c.adapter == _adapters.c.name, _is_finished)
            .scalar_subquery()
        )
        query = sa.select(_adapters, newest.label("newest")).where(
            _adapters.c.name.startswith(f"{parent}/adapters/", autoescape=True), _adapters.c.name > page.after
        )
        async with self._database.read() as tx:
            rows = await tx.execute(query.order_by(_adapters.c.name).limit(page.limit))
            return [Adapter(name=row.name, create_time=row.create_time, latest_revision=_latest(row)) for row in rows]

    async def has_adapter(self, name: str) -> bool:
        """Whether there is an adapter of that name."""
        async with self._database.read() as tx:
            return (await tx.execute(sa.select(_adapters.c.name).where(_adapters.c.name == name))).first() is not None

    async def revisions(self, adapter: str, page: PageRequest) -> Sequence[AdapterRevision]:
        """The next finished revisions, newest first."""
        query = sa.select(_revisions).where(_revisions.c.adapter == adapter, _is_finished)
        if page.after:
            query = query.where(_revisions.c.number < int(page.after))
        async with self._database.read() as tx:
            rows = await tx.execute(query.order_by(_revisions.c.number.desc()).limit(page.limit))
            return [_revision(row) for row in rows]

    async def revision(self, adapter: str, number: int) -> AdapterRevision | None:
        """A finished revision."""
        query = sa.select(_revisions).where(
            _revisions.c.adapter == adapter, _revisions.c.number == number, _is_finished
        )
        async with self._database.read() as tx:
            row = (await tx.execute(query)).one_or_none()
        return _revision(row) if row else None


def _latest(row: Any) -> str:
    return f"{row.name}/revisions/r{row.newest}" if row.newest else ""


def _revision(row: Any) -> AdapterRevision:
    content = row.content | {"target_modules": tuple(row.content["target_modules"])}
    return AdapterRevision(**content, create_time=row.create_time)
