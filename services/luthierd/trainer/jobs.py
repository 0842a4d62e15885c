"""Training jobs: what is checked before one is accepted, and its life as a caller sees it."""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Callable
from typing import Any, Protocol

from luthierd.codec import to_json
from luthierd.jobs.queue import Job, JobQueue
from luthierd.names import ADAPTER, BASE_MODEL, DATASET_REVISION, TENANT, TRAINING_JOB, parse_id
from luthierd.paging import Page, PageRequest
from luthierd.settings import Fault
from luthierd.trainer.adapters import refuse_other_base
from luthierd.trainer.base_models import BaseModels
from luthierd.trainer.domain.base_model import BaseModelInfo
from luthierd.trainer.domain.training import (
    CONFIG_PATH,
    DatasetSplits,
    InvalidTrainingConfigError,
    TrainingConfig,
    TrainingTask,
)
from luthierd.trainer.recipes.recipe import with_method_defaults
from luthierd.trainer.store import TRAIN, SqlStore

DEFAULT_MAX_SEQ_LENGTH = 2048
"""Memory for attention grows with the square of the length; longer rows are wanted knowingly."""


class DatasetCatalog(Protocol):
    """What curation knows."""

    async def splits(self, name: str) -> DatasetSplits:
        """DatasetNotReadyError, and curation's own errors."""


class TrainingJobs:
    """Accepts, shows and cancels jobs; workers do them."""

    def __init__(
        self,
        store: SqlStore,
        queue: JobQueue,
        *,
        base_models: BaseModels,
        datasets: DatasetCatalog,
        max_lora_rank: int,
        wake: Callable[[], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._queue, self._base_models, self._datasets = store, queue, base_models, datasets
        self._max_lora_rank = max_lora_rank
        self._wake, self._now = wake, now

    async def create(
        self, parent: str, job_id: str, *, adapter: str, base_model: str, dataset_revision: str, config: dict[str, Any]
    ) -> Job:
        """Accepts a job. Names are resolved to digests here, once: a resumed run reads the same bytes.

        InvalidTrainingConfigError, BaseModelNotFoundError, BaseModelNotReadyError, AdapterBaseMismatchError,
        JobExistsError, and the catalog's errors.
        """
        (tenant,) = TENANT.parse(parent, field="parent")
        ADAPTER.parse(adapter, field="training_job.adapter")
        BASE_MODEL.parse(base_model, field="training_job.base_model")
        DATASET_REVISION.parse(dataset_revision, field="training_job.dataset_revision")
        job_id = parse_id(job_id, field="training_job_id") if job_id else f"t{uuid.uuid4().hex[:12]}"
        settings = with_method_defaults(TrainingConfig.from_given(config))
        self._check_servable(settings)
        info = (await self._base_models.get(base_model)).ready_info()
        settings = with_row_limit(settings, info)
        await refuse_other_base(self._store, adapter, base_model, info)
        task = TrainingTask(
            dataset=await self._datasets.splits(dataset_revision),
            base_model=base_model,
            base_model_info=info,
            adapter=adapter,
            config=settings,
        )
        name = TRAINING_JOB.format(tenant, job_id)
        job = await self._store.submit(name, TRAIN, to_json(task), adapter=adapter, now=self._now())
        self._wake()
        return job

    def _check_servable(self, settings: TrainingConfig) -> None:
        """InvalidTrainingConfigError for a rank that no engine of this installation takes."""
        if settings.rank > self._max_lora_rank:
            problem = (
                f"{settings.rank} is more than the engine takes, {self._max_lora_rank}; choose a smaller rank, or have "
                "the operator raise LUTHIER_MAX_LORA_RANK for the trainer and the inference service"
            )
            raise InvalidTrainingConfigError(CONFIG_PATH, [Fault("rank", problem)])

    async def get(self, name: str) -> Job:
        """JobNotFoundError."""
        TRAINING_JOB.parse(name)
        return await self._queue.get(name)

    async def list(self, parent: str, page_size: int, page_token: str) -> Page[Job]:
        """A tenant's jobs, newest first."""
        TENANT.parse(parent, field="parent")
        page = PageRequest.parse(page_size, page_token, parent)
        return await self._queue.list(f"{parent}/trainingJobs/", page)

    async def cancel(self, name: str) -> Job:
        """Asks the job to end; a finished one is left as it is. JobNotFoundError."""
        TRAINING_JOB.parse(name)
        return await self._queue.cancel(name)


def with_row_limit(config: TrainingConfig, info: BaseModelInfo) -> TrainingConfig:
    """`config` with the row limit filled in. InvalidTrainingConfigError if it exceeds the model's window."""
    window = info.context_window_tokens
    if config.max_seq_length > window:
        problem = f"{config.max_seq_length} exceeds the model's window of {window} tokens"
        raise InvalidTrainingConfigError(CONFIG_PATH, [Fault("max_seq_length", problem)])
    return dataclasses.replace(config, max_seq_length=config.max_seq_length or min(window, DEFAULT_MAX_SEQ_LENGTH))
