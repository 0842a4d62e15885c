"""Between the contract and the domain, both ways."""

from __future__ import annotations

from luthier.curation.v1 import dataset_pb2 as pb

from luthierd.curation.domain import Dataset, Split
from luthierd.curation.recipe import Recipe, parse_recipe
from luthierd.curation.revisions import Revision
from luthierd.jobs.queue import JobEvent, JobState
from luthierd.rpc import job_resource
from luthierd.rpc.status import status_from_failure
from luthierd.rpc.wire import enum_from_proto, plain, to_proto

DOMAIN = "curation.luthier.dev"

_STATES = {
    JobState.QUEUED: pb.DATASET_REVISION_STATE_CURATING,
    JobState.RUNNING: pb.DATASET_REVISION_STATE_CURATING,
    JobState.SUCCEEDED: pb.DATASET_REVISION_STATE_READY,
    JobState.FAILED: pb.DATASET_REVISION_STATE_FAILED,
    JobState.CANCELLING: pb.DATASET_REVISION_STATE_CANCELLING,
    JobState.CANCELLED: pb.DATASET_REVISION_STATE_CANCELLED,
}


def recipe_from_proto(message: pb.CurationRecipe) -> Recipe:
    """The recipe with every default filled in. RecipeError."""
    return parse_recipe({"stages": [{"stage": one.stage, "settings": plain(one.settings)} for one in message.stages]})


def dataset_to_proto(dataset: Dataset) -> pb.Dataset:
    """A dataset."""
    return to_proto(pb.Dataset, dataset)


def revision_to_proto(revision: Revision) -> pb.DatasetRevision:
    """A revision; its content is set once it is READY."""
    return to_proto(
        pb.DatasetRevision,
        revision,
        state=_STATES[revision.state],
        error=status_from_failure(revision.error, DOMAIN) if revision.error else None,
        recipe=pb.CurationRecipe(**revision.recipe),
        **vars(revision.content) if revision.content else {},
    )


def event_to_proto(event: JobEvent | None) -> pb.DatasetRevisionEvent | None:
    """See `rpc.job_resource.event_to_proto`."""
    return job_resource.event_to_proto(
        pb.DatasetRevisionEvent, event, state=_STATES.__getitem__, progress=lambda data: pb.CurationProgress(**data)
    )


def split_from_proto(number: int) -> Split:
    """A split named by a request."""
    return enum_from_proto(Split, pb.Split.DESCRIPTOR, number, path="split")
