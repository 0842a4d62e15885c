"""Challenge cases and the reviewed sets of them (the evaluator service)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence

from luthier.evaluator.v1 import challenge_set_pb2 as pb
from luthier.evaluator.v1 import challenge_set_service_pb2 as api
from luthier.evaluator.v1 import challenge_set_service_pb2_grpc as rpc
from luthier.resources.resource import DeletableResource


class ChallengeSets(DeletableResource["rpc.ChallengeSetServiceAsyncStub"]):
    _make_stub = rpc.ChallengeSetServiceStub
    _delete_request = api.DeleteChallengeSetRequest

    async def generate(
        self,
        dataset_revision: str,
        *,
        split: str = "",
        per_kind_count: int | None = None,
        seed: int = 0,
        timeout_s: float | None = None,
    ) -> Sequence[pb.ChallengeCase]:
        """Proposes cases, made from the rows of a split and from templates, for people to review. Stores nothing."""
        request = api.GenerateChallengeCasesRequest(
            dataset_revision=dataset_revision, split=split, per_kind_count=per_kind_count, seed=seed
        )
        return (await self._call(self._stub.GenerateChallengeCases, request, timeout_s)).cases

    async def create(
        self,
        parent: str,
        cases: Iterable[pb.ChallengeCase],
        *,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> pb.ChallengeSet:
        """Stores reviewed cases for `tenants/{t}`; the same cases make the same set."""
        request = api.CreateChallengeSetRequest(parent=parent, cases=cases, request_id=request_id)
        return (await self._call(self._stub.CreateChallengeSet, request, timeout_s)).challenge_set

    async def get(self, name: str, *, timeout_s: float | None = None) -> pb.ChallengeSet:
        request = api.GetChallengeSetRequest(name=name)
        return (await self._call(self._stub.GetChallengeSet, request, timeout_s)).challenge_set

    def list(self, parent: str, *, page_size: int = 0) -> AsyncIterator[pb.ChallengeSet]:
        """The sets of `tenants/{t}`, by name."""
        request = api.ListChallengeSetsRequest(parent=parent, page_size=page_size)
        return self._pages(self._stub.ListChallengeSets, request, lambda page: page.challenge_sets)

    def list_cases(self, parent: str, *, page_size: int = 0) -> AsyncIterator[pb.ChallengeCase]:
        """The cases of a set, in order."""
        request = api.ListChallengeCasesRequest(parent=parent, page_size=page_size)
        return self._pages(self._stub.ListChallengeCases, request, lambda page: page.cases)
