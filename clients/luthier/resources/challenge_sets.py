"""Difficult cases and the sets that people have reviewed (the evaluator service)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from functools import cached_property

from luthier.evaluator.v1 import difficult_set_pb2 as pb
from luthier.evaluator.v1 import difficult_set_service_pb2 as api
from luthier.evaluator.v1 import difficult_set_service_pb2_grpc as rpc
from luthier.resources.reading import pages
from luthier.transport import Transport, new_request_id


class DifficultSets:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @cached_property
    def _stub(self) -> rpc.DifficultSetServiceAsyncStub:
        return rpc.DifficultSetServiceStub(self._transport.channel)

    async def generate(
        self,
        dataset_revision: str,
        *,
        split: str = "",
        per_kind_count: int | None = None,
        seed: int = 0,
        timeout_s: float | None = None,
    ) -> Sequence[pb.DifficultCase]:
        """Proposals made of a split's rows and of templates, for people to review. Keeps nothing."""
        request = api.GenerateDifficultCasesRequest(
            dataset_revision=dataset_revision, split=split, per_kind_count=per_kind_count, seed=seed
        )
        return (await self._transport.unary(self._stub.GenerateDifficultCases, request, timeout_s=timeout_s)).cases

    async def create(
        self,
        parent: str,
        cases: Iterable[pb.DifficultCase],
        *,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> pb.DifficultSet:
        """Keeps reviewed cases of `tenants/{t}`; the same cases give the same set."""
        request = api.CreateDifficultSetRequest(parent=parent, cases=cases, request_id=request_id or new_request_id())
        return (await self._transport.unary(self._stub.CreateDifficultSet, request, timeout_s=timeout_s)).difficult_set

    async def get(self, name: str, *, timeout_s: float | None = None) -> pb.DifficultSet:
        request = api.GetDifficultSetRequest(name=name)
        return (await self._transport.unary(self._stub.GetDifficultSet, request, timeout_s=timeout_s)).difficult_set

    def list(self, parent: str, *, page_size: int = 0) -> AsyncIterator[pb.DifficultSet]:
        """The sets of `tenants/{t}`, by name."""

        async def fetch(token: str) -> tuple[Sequence[pb.DifficultSet], str]:
            request = api.ListDifficultSetsRequest(parent=parent, page_size=page_size, page_token=token)
            page = await self._transport.unary(self._stub.ListDifficultSets, request)
            return page.difficult_sets, page.next_page_token

        return pages(fetch)

    def list_cases(self, parent: str, *, page_size: int = 0) -> AsyncIterator[pb.DifficultCase]:
        """The cases of a set, in their order."""

        async def fetch(token: str) -> tuple[Sequence[pb.DifficultCase], str]:
            request = api.ListDifficultCasesRequest(parent=parent, page_size=page_size, page_token=token)
            page = await self._transport.unary(self._stub.ListDifficultCases, request)
            return page.cases, page.next_page_token

        return pages(fetch)
