"""A durable job queue in the service's own database.

A worker holds a job by a lease that it renews. When the lease expires, another worker gets the job with a higher
fencing token, and writes of the first worker are rejected. An acknowledged job survives the death of any process.

    QUEUED -> RUNNING | CANCELLED          RUNNING -> SUCCEEDED | FAILED | CANCELLING
    CANCELLING -> CANCELLED | SUCCEEDED | FAILED
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from luthierd.config import ServerConfig
from luthierd.errors import InvalidArgumentError
from luthierd.jobs.job import (
    FINAL,
    Job,
    JobEvent,
    JobExistsError,
    JobNotFoundError,
    JobState,
    Lease,
    LeaseLostError,
    WorkerDiedError,
)
from luthierd.jobs.job import job_events as _events
from luthierd.jobs.job import jobs as _jobs
from luthierd.jobs.turns import NO_LIMITS, JobQuotaError, TenantLimits, in_turn, tenant_of
from luthierd.paging import Page, PageRequest
from luthierd.storage.database import Database
from luthierd.storage.tombstones import check_new

__all__ = [
    "FINAL",
    "Job",
    "JobEvent",
    "JobExistsError",
    "JobNotFoundError",
    "JobQueue",
    "JobState",
    "Lease",
    "LeaseLostError",
]

MAX_ATTEMPTS = 5
"""Workers that may die while running a job before it fails with WORKER_DIED."""
_STARTED = (JobState.RUNNING, JobState.CANCELLING)


class JobQueue:
    """Jobs of one service. `now` gives seconds since the epoch; `machine` identifies this one among several."""

    def __init__(
        self,
        database: Database,
        *,
        lease_s: float,
        now: Callable[[], float] = time.time,
        limits: TenantLimits = NO_LIMITS,
        machine: str = "",
    ) -> None:
        self._database = database
        self.lease_s = lease_s
        self._now = now
        self._limits = limits
        self._machine = machine

    @classmethod
    def of(cls, config: ServerConfig, database: Database) -> JobQueue:
        """The queue of a service. Two installations on one machine fill their own places, like two machines."""
        limits = TenantLimits(config.max_waiting_jobs_per_tenant, config.max_running_jobs_per_tenant)
        machine = f"{socket.gethostname()}:{config.home}"
        return cls(database, lease_s=config.lease_s, limits=limits, machine=machine)

    async def submit(
        self, name: str, kind: str, payload: dict[str, Any], *, connection: AsyncConnection | None = None
    ) -> Job:
        """Adds a job in QUEUED, inside the caller's transaction if `connection` is given.

        JobExistsError; the errors of `tombstones.check_new` for a name that was deleted; JobQuotaError if its tenant
        has too many waiting jobs.
        """
        async with _given_or(connection, self._database) as tx:
            await check_new(tx, name, payload)
            if (await tx.execute(sa.select(_jobs.c.name).where(_jobs.c.name == name))).first():
                raise JobExistsError(name)
            tenant, limit = tenant_of(name), self._limits.waiting
            if limit and await self._count(tx, tenant, _jobs.c.state == JobState.QUEUED) >= limit:
                raise JobQuotaError(tenant, limit)
            values = {"name": name, "kind": kind, "state": JobState.QUEUED, "payload": payload, "attempt_count": 0}
            values |= {"tenant": tenant, "fencing_token": 0, "last_event_id": 0, "create_time": self._now()}
            insert = sa.insert(_jobs).values(**values)
            try:
                await tx.execute(insert)
            except IntegrityError:  # two concurrent submissions on PostgreSQL
                raise JobExistsError(name) from None
            await self._emit(tx, name, [("state", {"state": JobState.QUEUED})])
            return await self._read(tx, name)

    async def get(self, name: str) -> Job:
        """JobNotFoundError."""
        async with self._database.read() as tx:
            return await self._read(tx, name)

    async def list(self, name_prefix: str, page: PageRequest, *, kind: str | None = None) -> Page[Job]:
        """Jobs whose names have this prefix, newest first."""
        key = _jobs.c.create_time
        query = sa.select(_jobs).where(_jobs.c.name.startswith(name_prefix, autoescape=True))
        if kind:
            query = query.where(_jobs.c.kind == kind)
        if page.after:
            created, name = _page_key(page.after)
            query = query.where(sa.or_(key < created, sa.and_(key == created, _jobs.c.name > name)))
        query = query.order_by(key.desc(), _jobs.c.name).limit(page.limit)
        async with self._database.read() as tx:
            jobs = [_job(row) for row in await tx.execute(query)]
        return page.page(jobs, [f"{job.create_time!r} {job.name}" for job in jobs])

    async def cancel(self, name: str) -> Job:
        """Cancels a queued job, requests a running one to stop, leaves a finished one unchanged. JobNotFoundError.

        The launcher ends a worker that does not stop.
        """
        async with self._database.begin() as tx:
            job = await self._read(tx, name, for_update=True)
            if job.state is JobState.QUEUED:
                await self._set_state(tx, name, JobState.CANCELLED)
            elif job.state is JobState.RUNNING:
                await self._set_state(tx, name, JobState.CANCELLING)
            return await self._read(tx, name)

    async def events(self, name: str, *, after_event_id: int, limit: int = 500) -> Sequence[JobEvent]:
        """The next events of a job."""
        query = sa.select(_events).where(_events.c.job == name, _events.c.event_id > after_event_id)
        async with self._database.read() as tx:
            rows = await tx.execute(query.order_by(_events.c.event_id).limit(limit))
            return [JobEvent(row.event_id, row.create_time, row.kind, row.data) for row in rows]

    async def claimable(self, limit: int, *, starting: Sequence[str] = (), with_expired: bool = True) -> Sequence[str]:
        """Names of jobs that wait for a worker: queued, or `with_expired` leases; in the order of `in_turn`.

        `starting` are the jobs whose worker was started but has not claimed them: they count as running.
        """
        is_starting = _jobs.c.name.in_(starting)
        ran_out = sa.and_(_jobs.c.state.in_(_STARTED), _jobs.c.lease_expire_time <= self._now())
        is_queued = _jobs.c.state == JobState.QUEUED
        waits = sa.and_(sa.or_(is_queued, ran_out) if with_expired else is_queued, sa.not_(is_starting))
        runs = sa.or_(self._is_leased, sa.and_(is_queued, is_starting))
        query = in_turn(_jobs, waits=waits, runs=runs, max_running=self._limits.running)
        async with self._database.read() as tx:
            return list((await tx.execute(query.limit(limit))).scalars())

    async def leased_count(self, *, besides: Sequence[str] = ()) -> int:
        """Number of jobs with a valid lease whose worker is on this machine, without those named `besides`."""
        query = sa.select(sa.func.count()).select_from(_jobs).where(self._is_leased, _jobs.c.machine == self._machine)
        async with self._database.read() as tx:
            return int((await tx.execute(query.where(_jobs.c.name.not_in(besides)))).scalar_one())

    async def cancelling(self) -> Sequence[Job]:
        """Jobs that were told to stop and have not: those of this machine, and those of workers that are dead."""
        is_ours = sa.or_(_jobs.c.machine == self._machine, _jobs.c.lease_expire_time <= self._now())
        query = sa.select(_jobs).where(_jobs.c.state == JobState.CANCELLING, is_ours)
        async with self._database.read() as tx:
            return [_job(row) for row in await tx.execute(query)]

    async def end_cancelled(self, job: Job) -> None:
        """Records the end of a job from `cancelling`, whose worker is dead; nothing if it has ended meanwhile."""
        async with self._database.begin() as tx:
            found = await self._read(tx, job.name, for_update=True)
            if (found.state, found.fencing_token) == (JobState.CANCELLING, job.fencing_token):
                await self._set_state(tx, job.name, JobState.CANCELLED)

    def is_here(self, job: Job) -> bool:
        """Whether the job's last worker ran on this machine."""
        return job.machine == self._machine

    async def claim(self, name: str) -> Lease | None:
        """Takes a waiting job; None if another worker was faster, the job is over, or its tenant has enough running.

        A cancelled job whose worker died ends here, and so does one that `MAX_ATTEMPTS` workers died on.
        """
        async with self._database.begin() as tx:
            job = await self._read(tx, name, for_update=True)
            now = self._now()
            if job.state.is_final or (job.state is not JobState.QUEUED and (job.lease_expire_time or 0) > now):
                return None
            if job.state is JobState.CANCELLING:
                await self._set_state(tx, name, JobState.CANCELLED)
                return None
            if job.attempt_count >= MAX_ATTEMPTS:
                await self._give_up(tx, job, job.attempt_count)
                return None
            limit = self._limits.running  # also checked here: two launchers can choose at the same time
            if limit and await self._count(tx, job.tenant, self._is_leased) >= limit:
                return None
            values: dict[str, Any] = {"fencing_token": job.fencing_token + 1, "attempt_count": job.attempt_count + 1}
            values |= {"lease_expire_time": now + self.lease_s, "machine": self._machine, "worker_pid": os.getpid()}
            await tx.execute(sa.update(_jobs).where(_jobs.c.name == name).values(**values))
            if job.state is JobState.QUEUED:
                await self._set_state(tx, name, JobState.RUNNING)
            else:
                text = f"worker {job.fencing_token + 1} continues where the last one stopped"
                await self._emit(tx, name, [("message", {"message": text})])
            return Lease(await self._read(tx, name), job.fencing_token + 1)

    async def has_lost(self, name: str, fencing_token: int) -> bool:
        """Whether the worker with `fencing_token` has lost the job, or its lease expired one lease time ago.

        The extra time keeps the work of a machine that is merely slow.
        """
        job = await self.get(name)
        if job.state.is_final or job.fencing_token < fencing_token:
            return False
        return job.fencing_token > fencing_token or (job.lease_expire_time or 0) + self.lease_s <= self._now()

    async def worker_died(self, name: str, *, token_before: int) -> None:
        """Releases the job immediately; the worker that was started when its token was `token_before` is dead.

        A worker that died before it could claim also counts as an attempt. If another worker has the job, nothing
        changes.
        """
        async with self._database.begin() as tx:
            job = await self._read(tx, name, for_update=True)
            if job.state.is_final or job.fencing_token > token_before + 1:
                return
            row = sa.update(_jobs).where(_jobs.c.name == name)
            if job.state is JobState.CANCELLING:
                await self._set_state(tx, name, JobState.CANCELLED)
            elif job.fencing_token == token_before + 1:
                await tx.execute(row.values(lease_expire_time=self._now()))
            elif job.attempt_count + 1 < MAX_ATTEMPTS:
                await tx.execute(row.values(attempt_count=job.attempt_count + 1))
            else:
                await self._give_up(tx, job, job.attempt_count + 1)

    async def release(self, lease: Lease) -> None:
        """Returns the job to the queue without counting an attempt: its worker was stopped. LeaseLostError."""
        async with self._database.begin() as tx:
            job = await self._held(tx, lease)
            values = {"lease_expire_time": self._now(), "attempt_count": job.attempt_count - 1}
            await tx.execute(sa.update(_jobs).where(_jobs.c.name == job.name).values(**values))

    async def heartbeat(self, lease: Lease) -> JobState:
        """Renews the lease and returns the state: on CANCELLING, the worker stops. LeaseLostError."""
        async with self._database.begin() as tx:
            job = await self._held(tx, lease)
            expire = self._now() + self.lease_s
            await tx.execute(sa.update(_jobs).where(_jobs.c.name == job.name).values(lease_expire_time=expire))
            return job.state

    async def emit(self, lease: Lease, events: Sequence[tuple[str, dict[str, Any]]]) -> None:
        """Adds events; the last one of kind `progress` also becomes the job's progress. LeaseLostError."""
        async with self._database.begin() as tx:
            await self._held(tx, lease)
            await self._emit(tx, lease.job.name, events)
            progress = next((data for kind, data in reversed(events) if kind == "progress"), None)
            if progress is not None:
                await tx.execute(sa.update(_jobs).where(_jobs.c.name == lease.job.name).values(progress=progress))

    @contextlib.asynccontextmanager
    async def finishing(
        self,
        lease: Lease,
        state: JobState,
        *,
        result: dict[str, Any] | None = None,
        error: dict[str, Any] | None = None,
    ) -> AsyncIterator[AsyncConnection]:
        """The last transaction of the job: what the block writes is committed with the final state. LeaseLostError."""
        async with self._database.begin() as tx:
            await self._held(tx, lease)
            yield tx
            await self._set_state(tx, lease.job.name, state, result=result, error=error)

    async def _held(self, tx: AsyncConnection, lease: Lease) -> Job:
        job = await self._read(tx, lease.job.name, for_update=True)
        if job.fencing_token != lease.fencing_token or job.state.is_final:
            raise LeaseLostError(
                f"another worker has {job.name} (token {job.fencing_token}, mine {lease.fencing_token})",
                metadata={"job": job.name},
            )
        return job

    @property
    def _is_leased(self) -> sa.ColumnElement[bool]:
        return sa.and_(_jobs.c.state.in_(_STARTED), _jobs.c.lease_expire_time > self._now())

    async def _count(self, tx: AsyncConnection, tenant: str, which: sa.ColumnElement[bool]) -> int:
        """Number of such jobs of a tenant; nobody else adds one to them before the transaction ends."""
        if self._database.is_shared:
            await tx.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(f"jobs of {tenant}"))))
        query = sa.select(sa.func.count()).select_from(_jobs).where(_jobs.c.tenant == tenant, which)
        return int((await tx.execute(query)).scalar_one())

    async def _read(self, tx: AsyncConnection, name: str, *, for_update: bool = False) -> Job:
        query = sa.select(_jobs).where(_jobs.c.name == name)
        row = (await tx.execute(query.with_for_update() if for_update else query)).one_or_none()
        if row is None:
            raise JobNotFoundError(name)
        return _job(row)

    async def _give_up(self, tx: AsyncConnection, job: Job, attempt_count: int) -> None:
        error = WorkerDiedError(job.name, attempt_count).as_failure()
        await self._set_state(tx, job.name, JobState.FAILED, error=error, attempt_count=attempt_count)

    async def _set_state(self, tx: AsyncConnection, name: str, state: JobState, **values: Any) -> None:
        now = self._now()
        if state is JobState.RUNNING:
            values["start_time"] = sa.func.coalesce(_jobs.c.start_time, now)
        if state.is_final:
            values |= {"end_time": now, "lease_expire_time": None}
        await tx.execute(sa.update(_jobs).where(_jobs.c.name == name).values(state=state, **values))
        await self._emit(tx, name, [("state", {"state": state})])

    async def _emit(self, tx: AsyncConnection, name: str, events: Sequence[tuple[str, dict[str, Any]]]) -> None:
        if not events:
            return
        query = sa.select(_jobs.c.last_event_id).where(_jobs.c.name == name).with_for_update()
        last = int((await tx.execute(query)).scalar_one())
        now = self._now()
        rows = [
            {"job": name, "event_id": last + index, "create_time": now, "kind": kind, "data": data}
            for index, (kind, data) in enumerate(events, start=1)
        ]
        await tx.execute(sa.insert(_events), rows)
        await tx.execute(sa.update(_jobs).where(_jobs.c.name == name).values(last_event_id=last + len(events)))


@contextlib.asynccontextmanager
async def _given_or(connection: AsyncConnection | None, database: Database) -> AsyncIterator[AsyncConnection]:
    if connection is not None:
        yield connection
    else:
        async with database.begin() as tx:
            yield tx


def _page_key(after: str) -> tuple[float, str]:
    """Creation time and name of the last job on the previous page."""
    created, _, name = after.partition(" ")
    try:
        return float(created), name
    except ValueError:
        raise InvalidArgumentError.of_field("page_token", "it is not a token of this list") from None


def _job(row: Any) -> Job:
    values = dict(row._mapping)
    return Job(**values | {"state": JobState(values["state"])})
