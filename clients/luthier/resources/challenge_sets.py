"""Challenge cases and the sets that people have reviewed (the evaluator service)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from functools import cached_property

from luthier.evaluator.v1 import challenge_set_pb2 as pb
from luthier.evaluator.v1 import challenge_set_service_pb2 as api
from luthier.evaluator.v1 import challenge_set_service_pb2_grpc as rpc
from luthier.resources.reading import pages
from luthier.transport import Transport, new_request_id


class ChallengeSets:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @cached_property
    def _stub(self) -> rpc.ChallengeSetServiceAsyncStub:
        return rpc.ChallengeSetServiceStub(self._transport.channel)

    async def generate(
        self,
        dataset_revision: str,
        *,
        split: str = "",
        per_kind_count: int | None = None,
        seed: int = 0,
        timeout_s: float | None = None,
    ) -> Sequence[pb.ChallengeCase]:
        """Proposals made of a split's rows and of templates, for people to review. Keeps nothing."""
        request = api.GenerateChallengeCasesRequest(
            dataset_revision=dataset_revision, split=split, per_kind_count=per_kind_count, seed=seed
        )
        return (await self._transport.unary(self._stub.GenerateChallengeCases, request, timeout_s=timeout_s)).cases

    async def create(
        self,
        parent: str,
        cases: Iterable[pb.ChallengeCase],
        *,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> pb.ChallengeSet:
        """Keeps reviewed cases of `tenants/{t}`; the same cases give the same set."""
        request = api.CreateChallengeSetRequest(parent=parent, cases=cases, request_id=request_id or new_request_id())
        return (await self._transport.unary(self._stub.CreateChallengeSet, request, timeout_s=timeout_s)).challenge_set

    async def get(self, name: str, *, timeout_s: float | None = None) -> pb.ChallengeSet:
        request = api.GetChallengeSetRequest(name=name)
        return (await self._transport.unary(self._stub.GetChallengeSet, request, timeout_s=timeout_s)).challenge_set

    def list(self, parent: str, *, page_size: int = 0) -> AsyncIterator[pb.ChallengeSet]:
        """The sets of `tenants/{t}`, by name."""

        async def fetch(token: str) -> tuple[Sequence[pb.ChallengeSet], str]:
            request = api.ListChallengeSetsRequest(parent=parent, page_size=page_size, page_token=token)
            page = await self._transport.unary(self._stub.ListChallengeSets, request)
            return page.challenge_sets, page.next_page_token

        return pages(fetch)

    def list_cases(self, parent: str, *, page_size: int = 0) -> AsyncIterator[pb.ChallengeCase]:
        """The cases of a set, in their order."""

        async def fetch(token: str) -> tuple[Sequence[pb.ChallengeCase], str]:
            request = api.ListChallengeCasesRequest(parent=parent, page_size=page_size, page_token=token)
            page = await self._transport.unary(self._stub.ListChallengeCases, request)
            return page.cases, page.next_page_token

        return pages(fetch)
