"""What curation knows of a dataset revision, asked through the SDK with a short-lived token of the tenant."""

from __future__ import annotations

from luthier import AsyncClient
from luthier.curation.v1 import dataset_pb2

from luthierd.names import DATASET_REVISION
from luthierd.rpc.auth import TokenIssuer
from luthierd.rpc.peers import acting_for, translated
from luthierd.trainer.domain import DatasetNotReadyError, DatasetSplits

SCOPES = ("curation.read",)


class CurationCatalog:
    """See `jobs.DatasetCatalog`."""

    def __init__(self, client: AsyncClient, issuer: TokenIssuer, *, timeout_s: float) -> None:
        self._client, self._issuer, self._timeout_s = client, issuer, timeout_s

    async def splits(self, name: str) -> DatasetSplits:
        """DatasetNotReadyError; curation's own errors, such as NotFoundError, pass through."""
        tenant, *_ = DATASET_REVISION.parse(name, field="training_job.dataset_revision")
        client = acting_for(tenant, client=self._client, issuer=self._issuer, service="trainer", scopes=SCOPES)
        return splits_of(await translated(client.datasets.get_revision(name, timeout_s=self._timeout_s)))


def splits_of(revision: dataset_pb2.DatasetRevision) -> DatasetSplits:
    """Its names and digests. DatasetNotReadyError."""
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
