"""The gRPC servicer of difficult sets: the wire to the use cases and back."""

from __future__ import annotations

from typing import Any

import grpc
from luthier.evaluator.v1 import difficult_set_service_pb2 as pb
from luthier.evaluator.v1 import difficult_set_service_pb2_grpc as rpc

from luthierd.evaluator.api import challenge_set_wire as wire
from luthierd.evaluator.suites.challenge_sets import DifficultSets
from luthierd.rpc.auth import current_principal

FULL_NAME = "luthier.evaluator.v1.DifficultSetService"
SCOPES = {
    "GenerateDifficultCases": "evaluator.read",
    "CreateDifficultSet": "evaluator.write",
    "GetDifficultSet": "evaluator.read",
    "ListDifficultSets": "evaluator.read",
    "ListDifficultCases": "evaluator.read",
}
DEFAULT_PER_KIND_COUNT = 20

Context = grpc.aio.ServicerContext[Any, Any]


class DifficultSetServicer(rpc.DifficultSetServiceServicer):
    """`luthier.evaluator.v1.DifficultSetService`."""

    def __init__(self, sets: DifficultSets) -> None:
        self._sets = sets

    async def GenerateDifficultCases(self, request: pb.GenerateDifficultCasesRequest, context: Context) -> Any:
        count = request.per_kind_count if request.HasField("per_kind_count") else DEFAULT_PER_KIND_COUNT
        cases = await self._sets.generate(
            request.dataset_revision, split=request.split or "holdout", per_kind_count=count, seed=request.seed
        )
        return pb.GenerateDifficultCasesResponse(cases=[wire.case_to_proto(case) for case in cases])

    async def CreateDifficultSet(self, request: pb.CreateDifficultSetRequest, context: Context) -> Any:
        cases = [wire.case_from_proto(case, field=f"cases[{index}]") for index, case in enumerate(request.cases)]
        created = await self._sets.create(request.parent, cases, reviewer=current_principal().subject)
        return pb.CreateDifficultSetResponse(difficult_set=wire.set_to_proto(created))

    async def GetDifficultSet(self, request: pb.GetDifficultSetRequest, context: Context) -> Any:
        return pb.GetDifficultSetResponse(difficult_set=wire.set_to_proto(await self._sets.get(request.name)))

    async def ListDifficultSets(self, request: pb.ListDifficultSetsRequest, context: Context) -> Any:
        page = await self._sets.list(request.parent, request.page_size, request.page_token)
        return pb.ListDifficultSetsResponse(
            difficult_sets=[wire.set_to_proto(item) for item in page.items], next_page_token=page.next_page_token
        )

    async def ListDifficultCases(self, request: pb.ListDifficultCasesRequest, context: Context) -> Any:
        page = await self._sets.cases(request.parent, request.page_size, request.page_token)
        return pb.ListDifficultCasesResponse(
            cases=[wire.case_to_proto(item) for item in page.items], next_page_token=page.next_page_token
        )
