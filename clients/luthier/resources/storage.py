"""What the services keep and refer to, for operators and for the services themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

from google.protobuf.duration_pb2 import Duration

from luthier.resources.resource import Resource
from luthier.storage.v1 import storage_service_pb2 as pb
from luthier.storage.v1 import storage_service_pb2_grpc as rpc
from luthier.transport import Transport


class _OneStorage(Resource["rpc.StorageServiceAsyncStub"]):
    _make_stub = rpc.StorageServiceStub


class Storage(Resource["rpc.StorageServiceAsyncStub"]):
    """Every service serves the same methods; `service` is the one to ask. Needs the scope storage.admin."""

    _make_stub = rpc.StorageServiceStub

    def __init__(self, transports: Mapping[str, Transport]) -> None:
        self._by_service = {name: _OneStorage(transport) for name, transport in transports.items()}

    @classmethod
    def over(cls, transports: Mapping[str, Transport]) -> Self:
        return cls(transports)

    async def references(
        self, service: str, names: Sequence[str], *, timeout_s: float | None = None
    ) -> Sequence[pb.Reference]:
        """What the service has that refers to resources of another one."""
        one, request = self._by_service[service], pb.GetReferencesRequest(names=names)
        return (await one._call(one._stub.GetReferences, request, timeout_s)).references

    async def live_blobs(
        self, service: str, *, grace_s: float | None = None, timeout_s: float | None = None
    ) -> pb.GetLiveBlobsResponse:
        """The digests of the blobs that the service needs."""
        one, request = self._by_service[service], pb.GetLiveBlobsRequest(grace=_duration(grace_s))
        return await one._call(one._stub.GetLiveBlobs, request, timeout_s)

    async def get(self, service: str, *, timeout_s: float | None = None) -> pb.GetStorageResponse:
        """What holds the service's disk space."""
        one = self._by_service[service]
        return await one._call(one._stub.GetStorage, pb.GetStorageRequest(), timeout_s)

    async def sweep(
        self,
        service: str,
        *,
        validate_only: bool = False,
        grace_s: float | None = None,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> pb.SweepStorageResponse:
        """Deletes what nothing needs; with `validate_only`, only counts. grace_s: 60 or more; None: as configured."""
        one = self._by_service[service]
        request = pb.SweepStorageRequest(validate_only=validate_only, grace=_duration(grace_s), request_id=request_id)
        return await one._call(one._stub.SweepStorage, request, timeout_s)


def _duration(seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    made = Duration()
    made.FromMicroseconds(round(seconds * 1e6))
    return made
