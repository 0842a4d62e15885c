"""`luthier.storage.v1.StorageService`, the same in every service."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from luthier.client import AsyncClient
from luthier.storage.v1 import storage_service_pb2 as pb
from luthier.storage.v1 import storage_service_pb2_grpc as rpc

from luthierd.config import ServerConfig
from luthierd.errors import InvalidArgumentError, ResourceExhaustedError
from luthierd.names import check_name
from luthierd.rpc.contract import Context
from luthierd.rpc.peer_storage import PeerStorage
from luthierd.rpc.wire import timestamp, to_proto
from luthierd.storage.blobs import BlobStore
from luthierd.storage.database import Database
from luthierd.storage.deletions import Deletions, Kind
from luthierd.storage.references import References, Referrers
from luthierd.storage.sweep import AskLive, Keeping, Sweeper
from luthierd.storage.usage import usage_of

MAX_NAMES = 1000
MIN_GRACE_S = 60.0
"""A call records the blobs that it has stored within seconds; jobs are protected by their start."""
MAX_DIGESTS = 400_000
"""Of 32 bytes: 12.8 MB, below the default of `max_message_bytes`; documented in the contract."""


class TooManyBlobsError(ResourceExhaustedError):
    """The digests of the live blobs do not fit into one message."""

    reason = "TOO_MANY_BLOBS"

    def __init__(self, count: int) -> None:
        super().__init__(
            f"{count} digests are more than {MAX_DIGESTS}; delete what is no longer needed",
            metadata={"count": str(count), "limit": str(MAX_DIGESTS)},
        )


class StorageServicer(rpc.StorageServiceServicer):
    """What the service keeps and refers to. `sweep` is its background task."""

    def __init__(
        self,
        service: str,
        database: Database,
        blobs: BlobStore,
        keeping: Keeping,
        *,
        references: References,
        ask_peers: AskLive,
    ) -> None:
        self._service, self._database, self._blobs, self._references = service, database, blobs, references
        self._sweeper = Sweeper(database, blobs, keeping, ask_peers=ask_peers)
        self.sweep = self._sweeper.run

    async def GetReferences(self, request: pb.GetReferencesRequest, context: Context) -> pb.GetReferencesResponse:
        if not 1 <= len(request.names) <= MAX_NAMES:
            raise InvalidArgumentError.of_field("names", f"{len(request.names)} are not 1 to {MAX_NAMES}")
        for index, name in enumerate(request.names):
            check_name(name, field=f"names[{index}]")
        found = await self._references.of(list(request.names))
        return pb.GetReferencesResponse(references=[pb.Reference(**vars(one)) for one in found])

    async def GetLiveBlobs(self, request: pb.GetLiveBlobsRequest, context: Context) -> pb.GetLiveBlobsResponse:
        live = await self._sweeper.live(grace_s=_grace_s(request))
        if len(live.digests) > MAX_DIGESTS:
            raise TooManyBlobsError(len(live.digests))
        return pb.GetLiveBlobsResponse(
            digests=b"".join(map(bytes.fromhex, live.digests)), oldest_job_time=timestamp(live.oldest_job_time)
        )

    async def GetStorage(self, request: pb.GetStorageRequest, context: Context) -> pb.GetStorageResponse:
        usage = await usage_of(self._service, self._database, self._blobs, self._sweeper.keeping)
        return to_proto(pb.GetStorageResponse, usage)

    async def SweepStorage(self, request: pb.SweepStorageRequest, context: Context) -> pb.SweepStorageResponse:
        swept = await self._sweeper.sweep(validate_only=request.validate_only, grace_s=_grace_s(request))
        freed = [pb.StorageEntry(kind=kind, size_bytes=size) for kind, size in swept.freed.items()]
        return pb.SweepStorageResponse(freed=freed, cutoff_time=timestamp(swept.cutoff_time))


def _grace_s(request: Any) -> float | None:
    """None for the configured one. InvalidArgumentError below the minimum."""
    if not request.HasField("grace"):
        return None
    grace_s: float = request.grace.ToNanoseconds() / 1e9
    if grace_s < MIN_GRACE_S:
        raise InvalidArgumentError.of_field("grace", f"{grace_s:g} s is less than {MIN_GRACE_S:g} s")
    return grace_s


@dataclass(frozen=True)
class Storage:
    """The deletions of a service, and its storage servicer."""

    deletions: Deletions
    servicer: StorageServicer

    @classmethod
    def of(
        cls,
        config: ServerConfig,
        service: str,
        database: Database,
        *,
        client: AsyncClient,
        referrers: Sequence[Referrers],
        kinds: Sequence[Kind] = (),
        referred_by: Sequence[str] = (),
        **keeping: Any,
    ) -> Storage:
        """`referred_by`: services that may refer to resources of this one. `keeping`: fields of `Keeping` that are not
        configuration.
        """
        references, peers = References(database, referrers), PeerStorage(client, config, service=service)
        ask_peers = functools.partial(peers.references, services=referred_by) if referred_by else None
        what = Keeping(
            home=config.home,
            grace_s=config.sweep_grace_s,
            interval_s=config.sweep_interval_s,
            event_retention_s=config.event_retention_s,
            log_retention_s=config.log_retention_s,
            logs=f"logs/{service}-workers",
            **keeping,
        )
        servicer = StorageServicer(
            service, database, BlobStore.of(config), what, references=references, ask_peers=peers.live
        )
        return cls(Deletions(database, kinds, references, ask_peers=ask_peers), servicer)
