"""Adapters and their immutable revisions (the trainer service)."""

from __future__ import annotations

from collections.abc import AsyncIterator

from luthier.resources.resource import Resource
from luthier.trainer.v1 import adapter_pb2 as pb
from luthier.trainer.v1 import adapter_service_pb2 as api
from luthier.trainer.v1 import adapter_service_pb2_grpc as rpc


class Adapters(Resource["rpc.AdapterServiceAsyncStub"]):
    _make_stub = rpc.AdapterServiceStub

    def list(self, parent: str, *, page_size: int = 0) -> AsyncIterator[pb.Adapter]:
        """The adapters of `tenants/{t}`, by name."""
        request = api.ListAdaptersRequest(parent=parent, page_size=page_size)
        return self._pages(self._stub.ListAdapters, request, lambda page: page.adapters)

    async def get_revision(self, name: str, *, timeout_s: float | None = None) -> pb.AdapterRevision:
        request = api.GetAdapterRevisionRequest(name=name)
        return (await self._call(self._stub.GetAdapterRevision, request, timeout_s)).revision

    def list_revisions(self, parent: str, *, page_size: int = 0) -> AsyncIterator[pb.AdapterRevision]:
        """The revisions of `tenants/{t}/adapters/{a}`, newest first."""
        request = api.ListAdapterRevisionsRequest(parent=parent, page_size=page_size)
        return self._pages(self._stub.ListAdapterRevisions, request, lambda page: page.revisions)
