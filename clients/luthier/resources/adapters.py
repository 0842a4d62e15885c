"""Adapters and their immutable revisions (the trainer service)."""

from __future__ import annotations

from collections.abc import AsyncIterator

from luthier.resources.resource import Deletion, Resource
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

    async def delete(
        self,
        name: str,
        *,
        cascade: bool = False,
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> Deletion:
        """Deletes an adapter; with `cascade` also its revisions. See docs/storage.md."""
        request = api.DeleteAdapterRequest(
            name=name, cascade=cascade, validate_only=validate_only, request_id=request_id
        )
        return await self._delete(self._stub.DeleteAdapter, request, timeout_s)

    async def delete_revision(
        self,
        name: str,
        *,
        cascade: bool = False,
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> Deletion:
        """Deletes a revision that no deployment holds; see docs/storage.md."""
        request = api.DeleteAdapterRevisionRequest(
            name=name, cascade=cascade, validate_only=validate_only, request_id=request_id
        )
        return await self._delete(self._stub.DeleteAdapterRevision, request, timeout_s)
