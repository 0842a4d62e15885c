"""Training jobs: everything that could stop one from starting is found before it is queued, and named."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from luthierd.errors import InvalidArgumentError
from luthierd.jobs.queue import Job, JobNotFoundError, JobQueue, JobState
from luthierd.names import ADAPTER, BASE_MODEL, DATASET_REVISION, TENANT, TRAINING_JOB, parse_id
from luthierd.rpc.paging import Page, PageRequest
from luthierd.trainer.domain import BaseModel, DatasetSplits, TrainingConfig, TrainingProgress, TrainingTask

KIND = "train"


class TrainingJobNotFoundError(JobNotFoundError):
    """No such training job."""

    reason = "TRAINING_JOB_NOT_FOUND"


class WindowTooShortError(InvalidArgumentError):
    """Rows of the asked-for length do not fit the model."""

    reason = "MAX_ROW_TOKENS_ABOVE_WINDOW"


@dataclass(frozen=True)
class TrainingJob:
    """A training job as it is now. Times are Unix time; `error` is as `Job.error`."""

    name: str
    task: TrainingTask
    state: JobState
    error: dict[str, Any] | None
    progress: TrainingProgress | None
    adapter_revision: str
    attempt_count: int
    create_time: float
    start_time: float | None
    end_time: float | None


class Datasets(Protocol):
    """What curation knows."""

    async def splits(self, tenant: str, revision: str) -> DatasetSplits:
        """DatasetNotFoundError, DatasetNotReadyError."""


class Models(Protocol):
    """The registered base models."""

    async def get(self, name: str) -> BaseModel:
        """BaseModelNotFoundError."""


class AdapterRegister(Protocol):
    """Where adapters are kept."""

    async def submit(self, queue: JobQueue, *, name: str, kind: str, task: TrainingTask) -> Job:
        """Adds the adapter, unless it is there, and the job: both or neither."""


class TrainingJobs:
    """The use cases of `TrainingJobService`."""

    def __init__(
        self, queue: JobQueue, *, adapters: AdapterRegister, models: Models, datasets: Datasets, wake: Callable[[], None]
    ) -> None:
        self._queue, self._adapters, self._models = queue, adapters, models
        self._datasets, self._wake = datasets, wake

    async def create(
        self,
        parent: str,
        *,
        adapter: str,
        base_model: str,
        dataset_revision: str,
        config: dict[str, Any],
        training_job_id: str = "",
    ) -> TrainingJob:
        """Queues a run over what these names mean now. `config`: the settings that were given, by field.

        InvalidTrainingConfigError, BaseModelNotFoundError, BaseModelNotReadyError, DatasetNotFoundError,
        DatasetNotReadyError, JobExistsError.
        """
        (tenant,) = TENANT.parse(parent, field="parent")
        ADAPTER.parse(adapter, field="training_job.adapter")
        BASE_MODEL.parse(base_model, field="training_job.base_model")
        DATASET_REVISION.parse(dataset_revision, field="training_job.dataset_revision")
        settings = TrainingConfig.from_given(config)
        job_id = parse_id(training_job_id or f"j{uuid.uuid4().hex[:12]}", field="training_job_id")
        info = (await self._models.get(base_model)).ready_info()
        if settings.max_row_tokens > info.context_window_tokens:
            raise WindowTooShortError(
                f"max_row_tokens {settings.max_row_tokens} exceeds the window of {base_model}, "
                f"{info.context_window_tokens} tokens; choose at most that",
                metadata={"base_model": base_model, "context_window_tokens": str(info.context_window_tokens)},
            )
        task = TrainingTask(
            dataset=await self._datasets.splits(tenant, dataset_revision),
            base_model=base_model,
            base_model_info=info,
            adapter=adapter,
            config=settings,
        )
        name = TRAINING_JOB.format(tenant, job_id)
        job = await self._adapters.submit(self._queue, name=name, kind=KIND, task=task)
        self._wake()
        return training_job_of(job)

    async def get(self, name: str) -> TrainingJob:
        """TrainingJobNotFoundError."""
        TRAINING_JOB.parse(name)
        try:
            return training_job_of(await self._queue.get(name))
        except JobNotFoundError:
            raise TrainingJobNotFoundError(name) from None

    async def list(self, parent: str, page_size: int, page_token: str) -> Page[TrainingJob]:
        """A page of a tenant's jobs, newest first."""
        TENANT.parse(parent, field="parent")
        page = PageRequest.parse(page_size, page_token, parent)
        found = await self._queue.list(f"{parent}/trainingJobs/", page, kind=KIND)
        return Page(tuple(training_job_of(job) for job in found.items), found.next_page_token)

    async def cancel(self, name: str) -> TrainingJob:
        """Asks a job to end; a finished one is returned unchanged. TrainingJobNotFoundError."""
        TRAINING_JOB.parse(name)
        try:
            return training_job_of(await self._queue.cancel(name))
        except JobNotFoundError:
            raise TrainingJobNotFoundError(name) from None


def training_job_of(job: Job) -> TrainingJob:
    """A job of the queue as a training job."""
    return TrainingJob(
        name=job.name,
        task=TrainingTask.from_dict(job.payload),
        state=job.state,
        error=job.error,
        progress=TrainingProgress(**job.progress) if job.progress else None,
        adapter_revision=(job.result or {}).get("adapter_revision", ""),
        attempt_count=job.attempt_count,
        create_time=job.create_time,
        start_time=job.start_time,
        end_time=job.end_time,
    )
