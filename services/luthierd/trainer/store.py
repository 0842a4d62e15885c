"""The trainer's tables: base models, adapters and their revisions. Jobs are in the queue's tables."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from luthierd.codec import from_json, to_json
from luthierd.jobs.queue import Job, JobQueue, JobState
from luthierd.names import ADAPTER, ADAPTER_IMPORT, ADAPTER_REVISION, revision_number
from luthierd.paging import Page, PageRequest
from luthierd.storage.database import Database
from luthierd.storage.tombstones import NameRetiredError, exhume, lock
from luthierd.trainer.domain.adapter import Adapter, AdapterRevision
from luthierd.trainer.domain.base_model import BaseModel, BaseModelInfo, BaseModelState, ImportSource

IMPORT, TRAIN, IMPORT_ADAPTER = "import", "train", "import_adapter"
"""Kinds of jobs."""

_models = sa.table(
    "base_models",
    sa.column("name"),
    sa.column("source", sa.JSON),
    sa.column("import_job"),
    sa.column("create_time", sa.Float),
    sa.column("info", sa.JSON(none_as_null=True)),
)
_jobs = sa.table(
    "jobs", sa.column("name"), sa.column("state"), sa.column("end_time", sa.Float), sa.column("error", sa.JSON)
)
_adapters = sa.table(
    "adapters", sa.column("name"), sa.column("create_time", sa.Float), sa.column("revision_count", sa.BigInteger)
)
_revisions = sa.table(
    "adapter_revisions",
    sa.column("adapter"),
    sa.column("number", sa.BigInteger),
    sa.column("create_time", sa.Float),
    sa.column("training_job"),  # or the import that made it
    sa.column("sha256"),
    sa.column("content", sa.JSON),
)


class SqlStore:
    """Where models, jobs and adapters are kept; workers add adapter revisions."""

    def __init__(self, database: Database, queue: JobQueue) -> None:
        self._database, self._queue = database, queue

    async def base_model(self, name: str) -> BaseModel | None:
        """A model with the state of its last import."""
        rows = await self._database.rows(_models_with_imports().where(_models.c.name == name))
        return _base_model(rows[0]) if rows else None

    async def base_models(self, page: PageRequest) -> Page[BaseModel]:
        """By name."""
        query = _models_with_imports().where(_models.c.name > page.after).order_by(_models.c.name).limit(page.limit)
        models = [_base_model(row) for row in await self._database.rows(query)]
        return page.page(models, [model.name for model in models])

    async def start_import(
        self, name: str, source: ImportSource, *, job: str, replaces: str | None, now: float
    ) -> bool:
        """Registers the model and submits its import in one transaction. `replaces`: the import job that failed, None
        for a new name. False, and nothing done, if somebody else was faster.
        """
        values: dict[str, Any] = {"source": to_json(source), "import_job": job, "create_time": now, "info": None}
        query = sa.select(_models.c.import_job).where(_models.c.name == name)
        async with self._database.begin() as tx:
            await lock(tx, shared=True)
            current = (await tx.execute(query.with_for_update())).scalar_one_or_none()
            if current != replaces:
                return False
            if replaces is None:
                await tx.execute(sa.insert(_models).values(name=name, **values))
            else:
                await tx.execute(sa.update(_models).where(_models.c.name == name).values(**values))
            payload = {"base_model": name, "source": to_json(source)}
            await self._queue.submit(job, IMPORT, payload, connection=tx)
        return True

    async def submit(self, name: str, kind: str, payload: dict[str, Any], *, adapter: str, now: float) -> Job:
        """The job and, if need be, the adapter that it adds to, in one transaction. JobExistsError."""
        async with self._database.begin() as tx:
            buried = await exhume(tx, adapter)
            if not (await tx.execute(sa.select(_adapters.c.name).where(_adapters.c.name == adapter))).first():
                last = buried.last_number if buried else 0  # names of revisions are not used again
                await tx.execute(sa.insert(_adapters).values(name=adapter, create_time=now, revision_count=last))
            return await self._queue.submit(name, kind, payload, connection=tx)

    async def adapters(self, tenant: str, page: PageRequest) -> Page[Adapter]:
        """A tenant's adapters by name."""
        query = _adapters_with_latest().where(_adapters.c.name.startswith(f"{tenant}/adapters/", autoescape=True))
        query = query.where(_adapters.c.name > page.after).order_by(_adapters.c.name).limit(page.limit)
        found = [_adapter(row) for row in await self._database.rows(query)]
        return page.page(found, [adapter.name for adapter in found])

    async def adapter(self, name: str) -> Adapter | None:
        """One adapter."""
        rows = await self._database.rows(_adapters_with_latest().where(_adapters.c.name == name))
        return _adapter(rows[0]) if rows else None

    async def adapter_revision(self, name: str) -> AdapterRevision | None:
        """One revision."""
        tenant, adapter, revision = ADAPTER_REVISION.parse(name)
        number = revision_number(revision)
        if number is None:
            return None
        query = sa.select(_revisions).where(_revisions.c.adapter == ADAPTER.format(tenant, adapter))
        rows = await self._database.rows(query.where(_revisions.c.number == number))
        return _revision(rows[0]) if rows else None

    async def adapter_revisions(self, adapter: str, page: PageRequest) -> Page[AdapterRevision]:
        """An adapter's revisions, newest first."""
        query = sa.select(_revisions).where(_revisions.c.adapter == adapter)
        if page.after:
            query = query.where(_revisions.c.number < page.after_number)
        rows = await self._database.rows(query.order_by(_revisions.c.number.desc()).limit(page.limit))
        return page.page([_revision(row) for row in rows], [str(row["number"]) for row in rows])


async def set_base_model_info(tx: AsyncConnection, name: str, info: BaseModelInfo) -> None:
    """For the import worker, in the transaction that ends its job. NameRetiredError if the name was that of another
    model, which was deleted.
    """
    buried = await exhume(tx, name)
    if buried is not None and buried.sha256 not in ("", info.sha256):
        raise NameRetiredError(buried)
    values = {"info": to_json(info)}
    await tx.execute(sa.update(_models).where(_models.c.name == name).values(**values))


async def add_adapter_revision(
    tx: AsyncConnection, adapter: str, *, job: str, sha256: str, content: dict[str, Any], now: float
) -> str:
    """Gives the next number; returns the revision's name. For the worker, in the transaction that ends its job."""
    row = await tx.execute(
        sa.update(_adapters)
        .where(_adapters.c.name == adapter)
        .values(revision_count=_adapters.c.revision_count + 1)
        .returning(_adapters.c.revision_count)
    )
    number = int(row.scalar_one())
    values: dict[str, Any] = {"adapter": adapter, "number": number, "create_time": now, "training_job": job}
    await tx.execute(sa.insert(_revisions).values(**values, sha256=sha256, content=content))
    return _revision_name(adapter, number)


def _models_with_imports() -> sa.Select[Any]:
    return sa.select(_models, _jobs.c.state, _jobs.c.end_time, _jobs.c.error).join(
        _jobs, _jobs.c.name == _models.c.import_job
    )


def _adapters_with_latest() -> sa.Select[Any]:
    latest = sa.select(sa.func.max(_revisions.c.number)).where(_revisions.c.adapter == _adapters.c.name)
    return sa.select(_adapters, latest.scalar_subquery().label("latest"))


def _base_model(row: RowMapping) -> BaseModel:
    state = BaseModelState.IMPORTING
    if row["info"] is not None:
        state = BaseModelState.READY
    elif JobState(row["state"]).is_final:
        state = BaseModelState.FAILED
    return BaseModel(
        name=row["name"],
        state=state,
        source=from_json(ImportSource, row["source"]),
        import_job=row["import_job"],
        create_time=row["create_time"],
        end_time=row["end_time"],
        error=row["error"] if state is BaseModelState.FAILED else None,
        info=from_json(BaseModelInfo, row["info"]) if row["info"] is not None else None,
    )


def _adapter(row: RowMapping) -> Adapter:
    latest = _revision_name(row["name"], row["latest"]) if row["latest"] else ""
    return Adapter(name=row["name"], create_time=row["create_time"], latest_revision=latest)


def _revision_name(adapter: str, number: int) -> str:
    tenant, name = ADAPTER.parse(adapter)
    return ADAPTER_REVISION.format(tenant, name, f"r{number}")


def _revision(row: RowMapping) -> AdapterRevision:
    made_by = "adapter_import" if ADAPTER_IMPORT.matches(row["training_job"]) else "training_job"
    own = {"create_time": row["create_time"], "sha256": row["sha256"], made_by: row["training_job"]}
    return from_json(AdapterRevision, row["content"] | own | {"name": _revision_name(row["adapter"], row["number"])})
