"""What curation knows of a dataset revision, asked through the SDK with a short-lived token of the tenant."""

from __future__ import annotations

from luthier import AsyncClient

from luthierd.names import DATASET_REVISION
from luthierd.rpc.auth import TokenIssuer
from luthierd.rpc.peers import acting_for, translated
from luthierd.trainer.api import training_wire as wire
from luthierd.trainer.domain.training import DatasetSplits

SCOPES = ("curation.read",)


class CurationCatalog:
    """See `jobs.DatasetCatalog`."""

    def __init__(self, client: AsyncClient, issuer: TokenIssuer, *, timeout_s: float) -> None:
        self._client, self._issuer, self._timeout_s = client, issuer, timeout_s

    async def splits(self, name: str) -> DatasetSplits:
        """DatasetNotReadyError; curation's own errors, such as NotFoundError, pass through."""
        tenant, *_ = DATASET_REVISION.parse(name, field="training_job.dataset_revision")
        client = acting_for(tenant, client=self._client, issuer=self._issuer, service="trainer", scopes=SCOPES)
        return wire.splits_from_proto(await translated(client.datasets.get_revision(name, timeout_s=self._timeout_s)))
