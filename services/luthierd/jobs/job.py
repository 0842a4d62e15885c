"""What a job is: its states, its row and its events, the right to work on it, and what can be wrong with it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from luthierd.errors import AbortedError, AlreadyExistsError, InternalError, NotFoundError


class JobState(enum.StrEnum):
    """The transitions are listed at the top of `queue.py`."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def is_final(self) -> bool:
        """Whether the state cannot change any more."""
        return self in FINAL


FINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


class JobNotFoundError(NotFoundError):
    """No such job."""

    reason = "JOB_NOT_FOUND"

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no job {name}", metadata={"job": name})


class JobExistsError(AlreadyExistsError):
    """The name is taken."""

    reason = "JOB_EXISTS"

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} exists; choose another id", metadata={"job": name})


class WorkerDiedError(InternalError):
    """Several workers died while running the job."""

    reason = "WORKER_DIED"

    def __init__(self, name: str, attempt_count: int) -> None:
        super().__init__(
            f"{attempt_count} workers died while running {name}; see their logs in the service's log folder",
            metadata={"job": name, "attempt_count": str(attempt_count)},
        )


class LeaseLostError(AbortedError):
    """Another worker has the job: stop and write nothing more."""

    reason = "LEASE_LOST"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job as it is now. Times are seconds since the epoch."""

    name: str
    kind: str
    state: JobState
    payload: dict[str, Any]
    progress: dict[str, Any] | None
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    """`{"code": name of the gRPC status, "reason", "message", "metadata"}`; set only in FAILED."""
    attempt_count: int
    fencing_token: int
    lease_expire_time: float | None
    last_event_id: int
    create_time: float
    start_time: float | None
    end_time: float | None
    tenant: str = ""
    """Empty: the installation's own."""
    machine: str | None = None
    """Where the last worker ran, and its process id there."""
    worker_pid: int | None = None


@dataclass(frozen=True)
class JobEvent:
    """Something that happened to a job: `kind` is `state`, `progress` or `message`."""

    event_id: int
    create_time: float
    kind: str
    data: dict[str, Any]


@dataclass(frozen=True)
class Lease:
    """The right to work on a job, until it expires or another worker gets a higher token."""

    job: Job
    fencing_token: int


jobs = sa.table(
    "jobs",
    *(
        sa.column(name)
        for name in ("name", "kind", "state", "attempt_count", "fencing_token", "lease_expire_time", "last_event_id")
    ),
    *(sa.column(name) for name in ("tenant", "machine", "worker_pid")),
    *(sa.column(name, sa.JSON) for name in ("payload", "progress", "result", "error")),
    *(sa.column(name, sa.Float) for name in ("create_time", "start_time", "end_time")),
)
job_events = sa.table(
    "job_events",
    sa.column("job"),
    sa.column("event_id"),
    sa.column("create_time"),
    sa.column("kind"),
    sa.column("data", sa.JSON),
)
