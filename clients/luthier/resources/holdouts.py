"""Holdouts and the ledger of accesses to them (the evaluator service)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import cached_property

from luthier.evaluator.v1 import holdout_pb2 as pb
from luthier.evaluator.v1 import holdout_service_pb2 as api
from luthier.evaluator.v1 import holdout_service_pb2_grpc as rpc
from luthier.resources.reading import pages
from luthier.transport import Transport


class Holdouts:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @cached_property
    def _stub(self) -> rpc.HoldoutServiceAsyncStub:
        return rpc.HoldoutServiceStub(self._transport.channel)

    async def get(self, dataset_revision: str, *, timeout_s: float | None = None) -> pb.Holdout:
        """The holdout of a dataset revision: its size, how worn it is, its final slice."""
        request = api.GetHoldoutRequest(name=f"{dataset_revision}/holdout")
        return (await self._transport.unary(self._stub.GetHoldout, request, timeout_s=timeout_s)).holdout

    def list_accesses(self, dataset_revision: str, *, page_size: int = 0) -> AsyncIterator[pb.HoldoutAccess]:
        """Every look at the holdout of a dataset revision, newest first."""

        async def fetch(token: str) -> tuple[Sequence[pb.HoldoutAccess], str]:
            request = api.ListHoldoutAccessesRequest(
                parent=f"{dataset_revision}/holdout", page_size=page_size, page_token=token
            )
            page = await self._transport.unary(self._stub.ListHoldoutAccesses, request)
            return page.accesses, page.next_page_token

        return pages(fetch)
