"""Between the contract and the domain, both ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.curation.v1 import dataset_pb2
from luthier.trainer.v1 import adapter_import_pb2, adapter_pb2, base_model_pb2, training_job_pb2

from luthierd.codec import from_json
from luthierd.jobs.queue import Job, JobEvent
from luthierd.rpc import job_resource
from luthierd.rpc.status import status_from_failure
from luthierd.rpc.wire import plain, to_proto
from luthierd.trainer.domain.adapter import Adapter, AdapterRevision
from luthierd.trainer.domain.adapter_import import AdapterImportTask
from luthierd.trainer.domain.base_model import BaseModel
from luthierd.trainer.domain.training import DatasetNotReadyError, DatasetSplits, TrainingProgress, TrainingTask

DOMAIN = "trainer.luthier.dev"


def config_from_proto(message: training_job_pb2.TrainingConfig) -> dict[str, Any]:
    """The settings that are set, for `TrainingConfig.from_given`."""
    given = {field.name: plain(value) for field, value in message.ListFields()}  # names what is set, 0 included
    return given | ({"target_modules": tuple(given["target_modules"])} if "target_modules" in given else {})


def job_to_proto(job: Job) -> training_job_pb2.TrainingJob:
    """A job as callers see it."""
    task = from_json(TrainingTask, job.payload)
    return to_proto(
        training_job_pb2.TrainingJob,
        job,
        dataset_revision=task.dataset.name,
        base_model=task.base_model,
        adapter=task.adapter,
        config=task.config,
        progress=progress_to_proto(job.progress) if job.progress is not None else None,
        adapter_revision=(job.result or {}).get("adapter_revision", ""),
        error=status_from_failure(job.error, DOMAIN) if job.error is not None else None,
    )


def progress_to_proto(progress: Mapping[str, Any]) -> training_job_pb2.TrainingProgress:
    """Progress as it is stored."""
    return to_proto(training_job_pb2.TrainingProgress, TrainingProgress(**progress))


def event_to_proto(event: JobEvent | None) -> training_job_pb2.TrainingJobEvent | None:
    """See `rpc.job_resource.event_to_proto`."""
    return job_resource.event_to_proto(training_job_pb2.TrainingJobEvent, event, progress=progress_to_proto)


def adapter_import_to_proto(job: Job) -> adapter_import_pb2.AdapterImport:
    """An import as callers see it."""
    task, result = from_json(AdapterImportTask, job.payload), job.result or {}
    return to_proto(
        adapter_import_pb2.AdapterImport,
        job,
        adapter=task.adapter,
        base_model=task.base_model,
        files=[adapter_import_pb2.AdapterFile(path=path, sha256=sha256) for path, sha256 in task.files.items()],
        adapter_revision=result.get("adapter_revision", ""),
        notes=result.get("notes", ()),
        subject=task.subject,
        source_sha256=task.source_sha256,
        error=status_from_failure(job.error, DOMAIN) if job.error is not None else None,
    )


def import_event_to_proto(event: JobEvent | None) -> adapter_import_pb2.AdapterImportEvent | None:
    """See `rpc.job_resource.event_to_proto`. An import has no progress but its messages."""
    return job_resource.event_to_proto(adapter_import_pb2.AdapterImportEvent, event)


def base_model_to_proto(model: BaseModel) -> base_model_pb2.BaseModel:
    """A model as callers see it."""
    return to_proto(
        base_model_pb2.BaseModel,
        model,
        source=model.source.label,
        error=status_from_failure(model.error, DOMAIN) if model.error is not None else None,
        **vars(model.info) if model.info else {},
    )


def adapter_to_proto(adapter: Adapter) -> adapter_pb2.Adapter:
    """An adapter as callers see it."""
    return to_proto(adapter_pb2.Adapter, adapter)


def revision_to_proto(revision: AdapterRevision) -> adapter_pb2.AdapterRevision:
    """A revision as callers see it."""
    return to_proto(adapter_pb2.AdapterRevision, revision)


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
