"""Whose job is next: tenants take turns, and each has a limited number of jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from luthierd.errors import ResourceExhaustedError

RETRY_AFTER_S = 30.0
"""When a tenant with too many waiting jobs is advised to try again: jobs take minutes."""


@dataclass(frozen=True)
class TenantLimits:
    """How many jobs of one service a tenant may have at the same time, on all machines together. 0: no limit."""

    waiting: int = 0
    """More are refused."""
    running: int = 0
    """More wait."""


NO_LIMITS = TenantLimits()


class JobQuotaError(ResourceExhaustedError):
    """The tenant has as many waiting jobs as it may have."""

    reason = "JOB_QUOTA_EXCEEDED"

    def __init__(self, tenant: str, limit: int) -> None:
        owner = f"tenant {tenant}" if tenant else "the installation"
        super().__init__(
            f"{owner} has {limit} jobs waiting in this service, the most it may have; wait until one starts, cancel"
            " one, or ask the operator for a higher max_waiting_jobs_per_tenant",
            metadata={"tenant": tenant, "quota": "max_waiting_jobs_per_tenant", "limit": str(limit)},
            retry_after_s=RETRY_AFTER_S,
        )


def tenant_of(job: str) -> str:
    """The tenant in a job's name; empty for a job of the installation itself, such as the import of a base model."""
    collection, _, rest = job.partition("/")
    return rest.partition("/")[0] if collection == "tenants" else ""


def in_turn(
    jobs: sa.TableClause, *, waits: sa.ColumnElement[bool], runs: sa.ColumnElement[bool], max_running: int
) -> sa.Select[Any]:
    """Names of jobs for which `waits` holds, in the order in which they get a place.

    First the tenant that would then have the fewest jobs for which `runs` holds; of several the one whose last job
    started longest ago; of a tenant's jobs the oldest. Left out: what would exceed `max_running` of a tenant; 0: none.
    """
    running = sa.select(jobs.c.tenant, sa.func.count().label("own")).where(runs).group_by(jobs.c.tenant).subquery()
    earlier = jobs.alias()
    last_start = sa.select(sa.func.max(earlier.c.start_time)).where(earlier.c.tenant == jobs.c.tenant).scalar_subquery()
    place = sa.func.row_number().over(partition_by=jobs.c.tenant, order_by=(jobs.c.create_time, jobs.c.name))
    waiting = (
        sa.select(
            jobs.c.name,
            jobs.c.create_time,
            (sa.func.coalesce(running.c.own, 0) + place).label("running_count"),
            sa.func.coalesce(last_start, 0.0).label("last_start"),
        )
        .select_from(jobs.outerjoin(running, running.c.tenant == jobs.c.tenant))
        .where(waits)
        .subquery()
    )
    order = (waiting.c.running_count, waiting.c.last_start, waiting.c.create_time, waiting.c.name)
    query = sa.select(waiting.c.name).order_by(*order)
    return query.where(waiting.c.running_count <= max_running) if max_running else query
