"""Holdouts and the ledger of accesses to them (the evaluator service)."""

from __future__ import annotations

from collections.abc import AsyncIterator

from luthier.evaluator.v1 import holdout_pb2 as pb
from luthier.evaluator.v1 import holdout_service_pb2 as api
from luthier.evaluator.v1 import holdout_service_pb2_grpc as rpc
from luthier.resources.resource import Resource


class Holdouts(Resource["rpc.HoldoutServiceAsyncStub"]):
    _make_stub = rpc.HoldoutServiceStub

    async def get(self, dataset_revision: str, *, timeout_s: float | None = None) -> pb.Holdout:
        """The holdout of a dataset revision: its size, how often it was used, its final slice."""
        request = api.GetHoldoutRequest(name=f"{dataset_revision}/holdout")
        return (await self._call(self._stub.GetHoldout, request, timeout_s)).holdout

    def list_accesses(self, dataset_revision: str, *, page_size: int = 0) -> AsyncIterator[pb.HoldoutAccess]:
        """Every access to the holdout of a dataset revision, newest first."""
        request = api.ListHoldoutAccessesRequest(parent=f"{dataset_revision}/holdout", page_size=page_size)
        return self._pages(self._stub.ListHoldoutAccesses, request, lambda page: page.accesses)
