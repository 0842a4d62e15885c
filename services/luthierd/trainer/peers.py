"""What the trainer asks of curation."""

from __future__ import annotations

from typing import Protocol

from luthierd.errors import NotFoundError
from luthierd.rpc.peers import translated
from luthierd.trainer import wire
from luthierd.trainer.domain import DatasetNotFoundError, DatasetSplits

SCOPES = ("curation.read",)


class DatasetReader(Protocol):
    """The SDK's datasets, acting for a tenant."""

    def __call__(self, tenant: str) -> wire.Datasets:
        """The datasets of `tenant`."""


class CurationDatasets:
    """See `training_jobs.Datasets`."""

    def __init__(self, of_tenant: DatasetReader) -> None:
        self._of_tenant = of_tenant

    async def splits(self, tenant: str, revision: str) -> DatasetSplits:
        """DatasetNotFoundError, DatasetNotReadyError; UnavailableError if curation does not answer."""
        try:
            found = await translated(self._of_tenant(tenant).get_revision(revision))
        except NotFoundError:
            raise DatasetNotFoundError(revision) from None
        return wire.splits_from_proto(found)
