"""Between the contract and the domain, both ways."""

from __future__ import annotations

import math
from typing import Any

from google.protobuf import duration_pb2, timestamp_pb2
from luthier.curation.v1 import dataset_pb2
from luthier.trainer.v1 import adapter_pb2, base_model_pb2, training_job_pb2

from luthierd.codec import from_json
from luthierd.jobs.queue import Job, JobEvent, JobState
from luthierd.rpc import job_resource
from luthierd.rpc.status import status_from_failure
from luthierd.rpc.wire import to_proto
from luthierd.trainer.domain import (
    Adapter,
    AdapterRevision,
    BaseModel,
    BaseModelState,
    DatasetNotReadyError,
    DatasetSplits,
    TrainingConfig,
    TrainingProgress,
    TrainingTask,
)

DOMAIN = "trainer.luthier.dev"

_MODEL_STATES = {
    BaseModelState.IMPORTING: base_model_pb2.BASE_MODEL_STATE_IMPORTING,
    BaseModelState.READY: base_model_pb2.BASE_MODEL_STATE_READY,
    BaseModelState.FAILED: base_model_pb2.BASE_MODEL_STATE_FAILED,
}
_JOB_STATES = {
    JobState.QUEUED: training_job_pb2.TRAINING_JOB_STATE_QUEUED,
    JobState.RUNNING: training_job_pb2.TRAINING_JOB_STATE_RUNNING,
    JobState.CANCELLING: training_job_pb2.TRAINING_JOB_STATE_CANCELLING,
    JobState.SUCCEEDED: training_job_pb2.TRAINING_JOB_STATE_SUCCEEDED,
    JobState.FAILED: training_job_pb2.TRAINING_JOB_STATE_FAILED,
    JobState.CANCELLED: training_job_pb2.TRAINING_JOB_STATE_CANCELLED,
}


def config_from_proto(message: training_job_pb2.TrainingConfig) -> dict[str, Any]:
    """The settings that are set, for `TrainingConfig.from_given`."""
    given = {field.name: value for field, value in message.ListFields()}  # names what is set, 0 included
    if "target_modules" in given:
        given["target_modules"] = tuple(given["target_modules"])
    return given


def config_to_proto(config: TrainingConfig) -> training_job_pb2.TrainingConfig:
    """Every field set."""
    return to_proto(training_job_pb2.TrainingConfig, config)


def job_to_proto(job: Job) -> training_job_pb2.TrainingJob:
    """A job as callers see it."""
    task = from_json(TrainingTask, job.payload)
    message = training_job_pb2.TrainingJob(
        name=job.name,
        dataset_revision=task.dataset.name,
        base_model=task.base_model,
        adapter=task.adapter,
        config=config_to_proto(task.config),
        state=_JOB_STATES[job.state],
        create_time=timestamp(job.create_time),
        start_time=timestamp(job.start_time),
        end_time=timestamp(job.end_time),
        adapter_revision=(job.result or {}).get("adapter_revision", ""),
        attempt_count=job.attempt_count,
    )
    if job.progress is not None:
        message.progress.CopyFrom(progress_to_proto(TrainingProgress(**job.progress)))
    if job.error is not None:
        message.error.CopyFrom(status_from_failure(job.error, DOMAIN))
    return message


def progress_to_proto(progress: TrainingProgress) -> training_job_pb2.TrainingProgress:
    """How far a run is."""
    return training_job_pb2.TrainingProgress(
        step=progress.step,
        total_steps=progress.total_steps,
        loss=progress.loss,
        validation_loss=progress.validation_loss,
        learning_rate=progress.learning_rate,
        tokens_per_second=progress.tokens_per_second,
        remaining_duration=duration(progress.remaining_s),
        gradient_norm=progress.gradient_norm,
    )


def progress_from_proto(message: training_job_pb2.TrainingProgress) -> TrainingProgress:
    """The inverse of `progress_to_proto`."""
    return TrainingProgress(
        step=message.step,
        total_steps=message.total_steps,
        loss=message.loss,
        validation_loss=message.validation_loss if message.HasField("validation_loss") else None,
        learning_rate=message.learning_rate,
        tokens_per_second=message.tokens_per_second,
        remaining_s=message.remaining_duration.ToNanoseconds() / 1e9,
        gradient_norm=message.gradient_norm,
    )


def event_to_proto(event: JobEvent | None) -> training_job_pb2.TrainingJobEvent | None:
    """See `rpc.job_resource.event_to_proto`."""
    return job_resource.event_to_proto(
        training_job_pb2.TrainingJobEvent, event, progress=lambda data: progress_to_proto(TrainingProgress(**data))
    )


def base_model_to_proto(model: BaseModel) -> base_model_pb2.BaseModel:
    """A model as callers see it."""
    message = base_model_pb2.BaseModel(
        name=model.name,
        state=_MODEL_STATES[model.state],
        create_time=timestamp(model.create_time),
        end_time=timestamp(model.end_time),
        source=model.source.label,
    )
    if model.error is not None:
        message.error.CopyFrom(status_from_failure(model.error, DOMAIN))
    if model.info is not None:
        message.sha256 = model.info.sha256
        message.tokenizer_sha256 = model.info.tokenizer_sha256
        message.chat_template_sha256 = model.info.chat_template_sha256
        message.architecture = model.info.architecture
        message.parameter_count = model.info.parameter_count
        message.context_window_tokens = model.info.context_window_tokens
        message.size_bytes = model.info.size_bytes
    return message


def adapter_to_proto(adapter: Adapter) -> adapter_pb2.Adapter:
    """An adapter as callers see it."""
    return adapter_pb2.Adapter(
        name=adapter.name, create_time=timestamp(adapter.create_time), latest_revision=adapter.latest_revision
    )


def revision_to_proto(revision: AdapterRevision) -> adapter_pb2.AdapterRevision:
    """A revision as callers see it."""
    loss = revision.validation_loss
    return adapter_pb2.AdapterRevision(
        name=revision.name,
        create_time=timestamp(revision.create_time),
        sha256=revision.sha256,
        size_bytes=revision.size_bytes,
        base_model=revision.base_model,
        base_model_sha256=revision.base_model_sha256,
        dataset_revision=revision.dataset_revision,
        dataset_sha256=revision.dataset_sha256,
        training_job=revision.training_job,
        rank=revision.rank,
        target_modules=revision.target_modules,
        validation_loss=math.nan if loss is None else loss,
    )


def timestamp(seconds: float | None) -> timestamp_pb2.Timestamp | None:
    """Seconds since the epoch as a Timestamp, to the microsecond; None stays unset."""
    if seconds is None:
        return None
    message = timestamp_pb2.Timestamp()
    message.FromMicroseconds(round(seconds * 1e6))
    return message


def duration(seconds: float) -> duration_pb2.Duration:
    """A span, to the microsecond."""
    message = duration_pb2.Duration()
    message.FromMicroseconds(round(seconds * 1e6))
    return message


def splits_from_proto(revision: dataset_pb2.DatasetRevision) -> DatasetSplits:
    """Names and digests of a dataset revision. DatasetNotReadyError."""
    if revision.state != dataset_pb2.DATASET_REVISION_STATE_READY:
        state = dataset_pb2.DatasetRevisionState.Name(revision.state).removeprefix("DATASET_REVISION_STATE_")
        raise DatasetNotReadyError(
            f"{revision.name} is {state}; wait until it is READY, or curate the dataset again",
            metadata={"dataset_revision": revision.name, "state": state},
        )
    by_split = {split.split: split for split in revision.splits}
    train, validation = by_split.get(dataset_pb2.SPLIT_TRAIN), by_split.get(dataset_pb2.SPLIT_VALIDATION)
    if train is None or not train.row_count:
        raise DatasetNotReadyError(
            f"{revision.name} has no training rows; curate the dataset with a smaller share for the other splits",
            metadata={"dataset_revision": revision.name, "state": "READY"},
        )
    return DatasetSplits(
        name=revision.name,
        sha256=revision.sha256,
        train_sha256=train.sha256,
        validation_sha256=validation.sha256 if validation and validation.row_count else "",
    )
