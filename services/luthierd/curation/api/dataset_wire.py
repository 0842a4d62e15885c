"""Between the contract and the domain, both ways."""

from __future__ import annotations

from typing import Any

from google.protobuf import timestamp_pb2
from luthier.curation.v1 import dataset_pb2 as pb

from luthierd.curation.domain import Dataset, Split, SplitFile, StepSummary
from luthierd.curation.recipe import Recipe, parse_recipe
from luthierd.curation.revisions import Revision
from luthierd.errors import InvalidArgumentError
from luthierd.jobs.queue import JobEvent, JobState
from luthierd.rpc import job_resource
from luthierd.rpc.status import status_from_failure

DOMAIN = "curation.luthier.dev"

_STATES = {
    JobState.QUEUED: pb.DATASET_REVISION_STATE_CURATING,
    JobState.RUNNING: pb.DATASET_REVISION_STATE_CURATING,
    JobState.SUCCEEDED: pb.DATASET_REVISION_STATE_READY,
    JobState.FAILED: pb.DATASET_REVISION_STATE_FAILED,
    JobState.CANCELLING: pb.DATASET_REVISION_STATE_CANCELLING,
    JobState.CANCELLED: pb.DATASET_REVISION_STATE_CANCELLED,
}
_SPLITS = {
    Split.TRAIN: pb.SPLIT_TRAIN,
    Split.VALIDATION: pb.SPLIT_VALIDATION,
    Split.HOLDOUT: pb.SPLIT_HOLDOUT,
}
_SPLIT_OF = {number: split for split, number in _SPLITS.items()}
_ACTION_PREFIX = "PII_ACTION_"


def recipe_from_proto(message: pb.CurationRecipe) -> Recipe:
    """The recipe with every default filled in. RecipeError for a value out of its range."""
    value: dict[str, Any] = {}
    for section, rules in message.ListFields():  # names the fields that are set, 0 included
        value[section.name] = {field.name: _plain(field.name, item) for field, item in rules.ListFields()}
    return parse_recipe(value)


def _plain(field: str, value: Any) -> Any:
    if field == "action":
        is_known = value in pb.PiiAction.values()
        return pb.PiiAction.Name(value).removeprefix(_ACTION_PREFIX).lower() if is_known else str(value)
    return list(value) if field == "entities" else value


def recipe_to_proto(recipe: Recipe) -> pb.CurationRecipe:
    """Every field set."""
    value = recipe.to_mapping()
    value["pii"]["action"] = pb.PiiAction.Value(f"{_ACTION_PREFIX}{recipe.pii.action.upper()}")
    return pb.CurationRecipe(
        clean=pb.CleanStep(**value["clean"]),
        deduplicate=pb.DeduplicateStep(**value["deduplicate"]),
        pii=pb.PiiStep(**value["pii"]),
        split=pb.SplitStep(**value["split"]),
    )


def dataset_to_proto(dataset: Dataset) -> pb.Dataset:
    """A dataset."""
    return pb.Dataset(
        name=dataset.name,
        create_time=_timestamp(dataset.create_time),
        update_time=_timestamp(dataset.update_time),
        etag=dataset.etag,
        source_sha256=dataset.source_sha256,
        row_count=dataset.row_count,
        latest_revision=dataset.latest_revision,
    )


def revision_to_proto(revision: Revision) -> pb.DatasetRevision:
    """A revision; its content is set once it is READY."""
    message = pb.DatasetRevision(
        name=revision.name,
        state=_STATES[revision.state],
        error=status_from_failure(revision.error, DOMAIN) if revision.error else None,
        create_time=_timestamp(revision.create_time),
        end_time=_timestamp(revision.end_time) if revision.end_time is not None else None,
        source_sha256=revision.source_sha256,
        recipe=recipe_to_proto(revision.recipe),
    )
    if revision.content is not None:
        message.sha256 = revision.content.sha256
        message.datasheet_sha256 = revision.content.datasheet_sha256
        message.splits.extend(split_file_to_proto(file) for file in revision.content.splits)
        message.steps.extend(step_to_proto(step) for step in revision.content.steps)
    return message


def split_file_to_proto(file: SplitFile) -> pb.SplitFile:
    """A split's file."""
    return pb.SplitFile(
        split=_SPLITS[file.split],
        sha256=file.sha256,
        size_bytes=file.size_bytes,
        row_count=file.row_count,
        group_count=file.group_count,
    )


def step_to_proto(step: StepSummary) -> pb.StepSummary:
    """A step's counts."""
    return pb.StepSummary(
        step=step.step,
        dropped_count=step.dropped_count,
        changed_count=step.changed_count,
        reason_counts=step.reason_counts,
    )


def event_to_proto(event: JobEvent | None) -> pb.DatasetRevisionEvent | None:
    """See `rpc.job_resource.event_to_proto`."""
    return job_resource.event_to_proto(
        pb.DatasetRevisionEvent,
        event,
        state=_STATES.__getitem__,
        progress=lambda data: pb.CurationProgress(**data),
    )


def split_from_proto(number: int) -> Split:
    """A split that the request names."""
    if number not in _SPLIT_OF:
        raise InvalidArgumentError.of_field("split", "name one of SPLIT_TRAIN, SPLIT_VALIDATION, SPLIT_HOLDOUT")
    return _SPLIT_OF[number]  # type: ignore[index]  # the stubs' keys are a NewType of int


def _timestamp(seconds: float) -> timestamp_pb2.Timestamp:
    timestamp = timestamp_pb2.Timestamp()
    timestamp.FromMicroseconds(round(seconds * 1_000_000))
    return timestamp
