"""Between the contract and the domain, both ways."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol

from google.protobuf import duration_pb2, timestamp_pb2
from luthier.curation.v1 import dataset_pb2
from luthier.trainer.v1 import adapter_pb2, base_model_pb2
from luthier.trainer.v1 import training_job_pb2 as pb

from luthierd.jobs.queue import JobEvent, JobState
from luthierd.rpc.status import status_from_failure
from luthierd.trainer.domain import (
    Adapter,
    AdapterRevision,
    BaseModel,
    DatasetNotReadyError,
    DatasetSplits,
    TrainingConfig,
    TrainingProgress,
)
from luthierd.trainer.training_jobs import TrainingJob

DOMAIN = "trainer.luthier.dev"


class Datasets(Protocol):
    """The part of the SDK's datasets that is used here."""

    def get_revision(self, name: str) -> Awaitable[dataset_pb2.DatasetRevision]:
        """The revision."""


def config_from_proto(message: pb.TrainingConfig) -> dict[str, Any]:
    """The settings that were given; `TrainingConfig.from_given` fills in the rest."""
    given = {field.name: value for field, value in message.ListFields()}
    if "target_modules" in given:
        given["target_modules"] = tuple(given["target_modules"])
    return given


def config_to_proto(config: TrainingConfig) -> pb.TrainingConfig:
    """Every setting, defaults included."""
    return pb.TrainingConfig(**config.to_dict())


def progress_to_proto(progress: TrainingProgress) -> pb.TrainingProgress:
    """The progress of a run."""
    remaining = duration_pb2.Duration()
    remaining.FromMilliseconds(int(progress.remaining_s * 1000))
    return pb.TrainingProgress(
        step=progress.step,
        total_steps=progress.total_steps,
        loss=progress.loss,
        validation_loss=progress.validation_loss,
        learning_rate=progress.learning_rate,
        tokens_per_second=progress.tokens_per_second,
        remaining_duration=remaining,
        gradient_norm=progress.gradient_norm,
    )


def state_to_proto(state: JobState) -> pb.TrainingJobState.ValueType:
    """A job's state."""
    return pb.TrainingJobState.Value(f"TRAINING_JOB_STATE_{state.value}")


def training_job_to_proto(job: TrainingJob) -> pb.TrainingJob:
    """A job."""
    return pb.TrainingJob(
        name=job.name,
        dataset_revision=job.task.dataset.name,
        base_model=job.task.base_model,
        adapter=job.task.adapter,
        config=config_to_proto(job.task.config),
        state=state_to_proto(job.state),
        error=status_from_failure(job.error, DOMAIN) if job.error else None,
        create_time=time_to_proto(job.create_time),
        start_time=time_to_proto(job.start_time),
        end_time=time_to_proto(job.end_time),
        progress=progress_to_proto(job.progress) if job.progress else None,
        adapter_revision=job.adapter_revision,
        attempt_count=job.attempt_count,
    )


def event_to_proto(event: JobEvent | None) -> pb.TrainingJobEvent:
    """An event of a job's watch; None is the heartbeat."""
    if event is None:
        return pb.TrainingJobEvent(heartbeat=pb.TrainingJobHeartbeat())
    message = pb.TrainingJobEvent(event_id=event.event_id, create_time=time_to_proto(event.create_time))
    if event.kind == "state":
        message.state = state_to_proto(JobState(event.data["state"]))
    elif event.kind == "progress":
        message.progress.CopyFrom(progress_to_proto(TrainingProgress(**event.data)))
    else:
        message.message = event.data["message"]
    return message


def base_model_to_proto(model: BaseModel) -> base_model_pb2.BaseModel:
    """A base model."""
    message = base_model_pb2.BaseModel(
        name=model.name,
        state=base_model_pb2.BaseModelState.Value(f"BASE_MODEL_STATE_{model.state.value}"),
        error=status_from_failure(model.error, DOMAIN) if model.error else None,
        create_time=time_to_proto(model.create_time),
        end_time=time_to_proto(model.end_time),
        source=model.source,
    )
    if model.info:
        info = model.info
        message.sha256, message.size_bytes = info.sha256, info.size_bytes
        message.tokenizer_sha256, message.chat_template_sha256 = info.tokenizer_sha256, info.chat_template_sha256
        message.architecture, message.parameter_count = info.architecture, info.parameter_count
        message.context_window_tokens = info.context_window_tokens
    return message


def adapter_to_proto(adapter: Adapter) -> adapter_pb2.Adapter:
    """An adapter."""
    return adapter_pb2.Adapter(
        name=adapter.name, create_time=time_to_proto(adapter.create_time), latest_revision=adapter.latest_revision
    )


def revision_to_proto(revision: AdapterRevision) -> adapter_pb2.AdapterRevision:
    """An adapter revision."""
    return adapter_pb2.AdapterRevision(
        name=revision.name,
        create_time=time_to_proto(revision.create_time),
        sha256=revision.sha256,
        size_bytes=revision.size_bytes,
        base_model=revision.base_model,
        base_model_sha256=revision.base_model_sha256,
        dataset_revision=revision.dataset_revision,
        dataset_sha256=revision.dataset_sha256,
        training_job=revision.training_job,
        rank=revision.rank,
        target_modules=revision.target_modules,
        validation_loss=revision.validation_loss,
    )


def splits_from_proto(message: dataset_pb2.DatasetRevision) -> DatasetSplits:
    """What the trainer reads of a dataset revision. DatasetNotReadyError."""
    if message.state != dataset_pb2.DATASET_REVISION_STATE_READY:
        state = dataset_pb2.DatasetRevisionState.Name(message.state).removeprefix("DATASET_REVISION_STATE_")
        raise DatasetNotReadyError(
            f"{message.name} is {state}; train on a revision that is READY",
            metadata={"dataset_revision": message.name, "state": state},
        )
    digests = {split.split: split.sha256 for split in message.splits if split.row_count}
    return DatasetSplits(
        name=message.name,
        sha256=message.sha256,
        train_sha256=digests.get(dataset_pb2.SPLIT_TRAIN, ""),
        validation_sha256=digests.get(dataset_pb2.SPLIT_VALIDATION, ""),
    )


def time_to_proto(seconds: float | None) -> timestamp_pb2.Timestamp | None:
    """Unix time, to the microsecond."""
    if seconds is None:
        return None
    message = timestamp_pb2.Timestamp()
    message.FromMicroseconds(int(seconds * 1_000_000))
    return message
