"""The gRPC servicer of challenge sets: the wire to the use cases and back."""

from __future__ import annotations

from luthier.evaluator.v1 import challenge_set_service_pb2 as pb
from luthier.evaluator.v1 import challenge_set_service_pb2_grpc as rpc

from luthierd.evaluator.api.challenge_set_wire import case_from_proto
from luthierd.evaluator.suites.challenge_sets import ChallengeSets
from luthierd.names import CHALLENGE_SET
from luthierd.rpc.auth import current_principal
from luthierd.rpc.contract import Context
from luthierd.rpc.deletion import delete
from luthierd.rpc.wire import to_proto
from luthierd.storage.deletions import Deletions

DEFAULT_PER_KIND_COUNT = 20


class ChallengeSetServicer(rpc.ChallengeSetServiceServicer):
    """`luthier.evaluator.v1.ChallengeSetService`."""

    def __init__(self, sets: ChallengeSets, deletions: Deletions) -> None:
        self._sets, self._deletions = sets, deletions

    async def GenerateChallengeCases(
        self, request: pb.GenerateChallengeCasesRequest, context: Context
    ) -> pb.GenerateChallengeCasesResponse:
        count = request.per_kind_count if request.HasField("per_kind_count") else DEFAULT_PER_KIND_COUNT
        cases = await self._sets.generate(
            request.dataset_revision, split=request.split or "holdout", per_kind_count=count, seed=request.seed
        )
        return to_proto(pb.GenerateChallengeCasesResponse, None, cases=cases)

    async def CreateChallengeSet(
        self, request: pb.CreateChallengeSetRequest, context: Context
    ) -> pb.CreateChallengeSetResponse:
        cases = [case_from_proto(case, path=f"cases[{index}]") for index, case in enumerate(request.cases)]
        created = await self._sets.create(request.parent, cases, reviewer=current_principal().subject)
        return to_proto(pb.CreateChallengeSetResponse, None, challenge_set=created)

    async def GetChallengeSet(self, request: pb.GetChallengeSetRequest, context: Context) -> pb.GetChallengeSetResponse:
        return to_proto(pb.GetChallengeSetResponse, None, challenge_set=await self._sets.get(request.name))

    async def ListChallengeSets(
        self, request: pb.ListChallengeSetsRequest, context: Context
    ) -> pb.ListChallengeSetsResponse:
        page = await self._sets.list(request.parent, request.page_size, request.page_token)
        return to_proto(pb.ListChallengeSetsResponse, page, challenge_sets=page.items)

    async def ListChallengeCases(
        self, request: pb.ListChallengeCasesRequest, context: Context
    ) -> pb.ListChallengeCasesResponse:
        page = await self._sets.cases(request.parent, request.page_size, request.page_token)
        return to_proto(pb.ListChallengeCasesResponse, page, cases=page.items)

    async def DeleteChallengeSet(
        self, request: pb.DeleteChallengeSetRequest, context: Context
    ) -> pb.DeleteChallengeSetResponse:
        return await delete(self._deletions, CHALLENGE_SET, request, pb.DeleteChallengeSetResponse)
