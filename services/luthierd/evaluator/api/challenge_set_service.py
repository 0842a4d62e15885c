"""The gRPC servicer of challenge sets: the wire to the use cases and back."""

from __future__ import annotations

from luthier.evaluator.v1 import challenge_set_service_pb2 as pb
from luthier.evaluator.v1 import challenge_set_service_pb2_grpc as rpc

from luthierd.evaluator.api import challenge_set_wire as wire
from luthierd.evaluator.suites.challenge_sets import ChallengeSets
from luthierd.rpc.auth import current_principal
from luthierd.rpc.contract import Context

DEFAULT_PER_KIND_COUNT = 20


class ChallengeSetServicer(rpc.ChallengeSetServiceServicer):
    """`luthier.evaluator.v1.ChallengeSetService`."""

    def __init__(self, sets: ChallengeSets) -> None:
        self._sets = sets

    async def GenerateChallengeCases(
        self, request: pb.GenerateChallengeCasesRequest, context: Context
    ) -> pb.GenerateChallengeCasesResponse:
        count = request.per_kind_count if request.HasField("per_kind_count") else DEFAULT_PER_KIND_COUNT
        cases = await self._sets.generate(
            request.dataset_revision, split=request.split or "holdout", per_kind_count=count, seed=request.seed
        )
        return pb.GenerateChallengeCasesResponse(cases=[wire.case_to_proto(case) for case in cases])

    async def CreateChallengeSet(
        self, request: pb.CreateChallengeSetRequest, context: Context
    ) -> pb.CreateChallengeSetResponse:
        cases = [wire.case_from_proto(case, field=f"cases[{index}]") for index, case in enumerate(request.cases)]
        created = await self._sets.create(request.parent, cases, reviewer=current_principal().subject)
        return pb.CreateChallengeSetResponse(challenge_set=wire.set_to_proto(created))

    async def GetChallengeSet(self, request: pb.GetChallengeSetRequest, context: Context) -> pb.GetChallengeSetResponse:
        return pb.GetChallengeSetResponse(challenge_set=wire.set_to_proto(await self._sets.get(request.name)))

    async def ListChallengeSets(
        self, request: pb.ListChallengeSetsRequest, context: Context
    ) -> pb.ListChallengeSetsResponse:
        page = await self._sets.list(request.parent, request.page_size, request.page_token)
        return pb.ListChallengeSetsResponse(
            challenge_sets=[wire.set_to_proto(item) for item in page.items], next_page_token=page.next_page_token
        )

    async def ListChallengeCases(
        self, request: pb.ListChallengeCasesRequest, context: Context
    ) -> pb.ListChallengeCasesResponse:
        page = await self._sets.cases(request.parent, request.page_size, request.page_token)
        return pb.ListChallengeCasesResponse(
            cases=[wire.case_to_proto(item) for item in page.items], next_page_token=page.next_page_token
        )
