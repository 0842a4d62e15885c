"""Adapters and their immutable revisions (the trainer service)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import cached_property

from luthier.resources.reading import pages
from luthier.trainer.v1 import adapter_pb2 as pb
from luthier.trainer.v1 import adapter_service_pb2 as api
from luthier.trainer.v1 import adapter_service_pb2_grpc as rpc
from luthier.transport import Transport


class Adapters:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @cached_property
    def _stub(self) -> rpc.AdapterServiceAsyncStub:
        return rpc.AdapterServiceStub(self._transport.channel)

    def list(self, parent: str, *, page_size: int = 0) -> AsyncIterator[pb.Adapter]:
        """The adapters of `tenants/{t}`, by name."""

        async def fetch(token: str) -> tuple[Sequence[pb.Adapter], str]:
            request = api.ListAdaptersRequest(parent=parent, page_size=page_size, page_token=token)
            page = await self._transport.unary(self._stub.ListAdapters, request)
            return page.adapters, page.next_page_token

        return pages(fetch)

    async def get_revision(self, name: str, *, timeout_s: float | None = None) -> pb.AdapterRevision:
        request = api.GetAdapterRevisionRequest(name=name)
        return (await self._transport.unary(self._stub.GetAdapterRevision, request, timeout_s=timeout_s)).revision

    def list_revisions(self, parent: str, *, page_size: int = 0) -> AsyncIterator[pb.AdapterRevision]:
        """The revisions of `tenants/{t}/adapters/{a}`, newest first."""

        async def fetch(token: str) -> tuple[Sequence[pb.AdapterRevision], str]:
            request = api.ListAdapterRevisionsRequest(parent=parent, page_size=page_size, page_token=token)
            page = await self._transport.unary(self._stub.ListAdapterRevisions, request)
            return page.revisions, page.next_page_token

        return pages(fetch)
