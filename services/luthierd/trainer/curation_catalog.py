"""What curation knows of a dataset revision, asked through the SDK with a short-lived token of the tenant."""

from __future__ import annotations

from typing import Protocol

from luthier import AsyncClient
from luthier import errors as client_errors
from luthier.curation.v1 import dataset_pb2

from luthierd.errors import UnavailableError
from luthierd.names import DATASET_REVISION
from luthierd.trainer.domain import DatasetNotFoundError, DatasetNotReadyError, DatasetSplits

TOKEN_TTL_S = 60.0
SUBJECT, SCOPES = "service:trainer", ("curation.read",)


class CurationUnavailableError(UnavailableError):
    """Curation does not answer."""

    reason = "CURATION_UNAVAILABLE"


class Issuer(Protocol):
    """Signs tokens."""

    def issue(self, *, tenant: str, subject: str, scopes: tuple[str, ...], ttl_s: float) -> str:
        """A token of a tenant."""


class CurationCatalog:
    """See `jobs.DatasetCatalog`."""

    def __init__(self, client: AsyncClient, issuer: Issuer, *, timeout_s: float) -> None:
        self._client, self._issuer, self._timeout_s = client, issuer, timeout_s

    async def splits(self, name: str) -> DatasetSplits:
        """DatasetNotFoundError, DatasetNotReadyError, CurationUnavailableError."""
        tenant, *_ = DATASET_REVISION.parse(name, field="training_job.dataset_revision")
        token = self._issuer.issue(tenant=tenant, subject=SUBJECT, scopes=SCOPES, ttl_s=TOKEN_TTL_S)
        try:
            found = await self._client.with_token(token).datasets.get_revision(name, timeout_s=self._timeout_s)
        except client_errors.NotFoundError:
            raise DatasetNotFoundError(name) from None
        except client_errors.RpcError as error:
            raise CurationUnavailableError(
                f"curation did not answer ({error.code}: {error.message}); `luthier status` shows whether it runs",
                metadata={"code": error.code},
                retry_after_s=2.0,
            ) from error
        return splits_of(found)


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
