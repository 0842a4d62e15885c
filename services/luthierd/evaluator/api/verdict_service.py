"""The gRPC servicer of verdicts: the wire to the use cases and back."""

from __future__ import annotations

from luthier.evaluator.v1 import verdict_service_pb2 as pb
from luthier.evaluator.v1 import verdict_service_pb2_grpc as rpc

from luthierd.evaluator.api import verdict_wire as wire
from luthierd.evaluator.decisions.verdicts import Verdicts
from luthierd.rpc.contract import Context


class VerdictServicer(rpc.VerdictServiceServicer):
    """`luthier.evaluator.v1.VerdictService`."""

    def __init__(self, verdicts: Verdicts) -> None:
        self._verdicts = verdicts

    async def DecideVerdict(self, request: pb.DecideVerdictRequest, context: Context) -> pb.DecideVerdictResponse:
        preferences = wire.preferences_from_proto(request.preferences)
        verdict = await self._verdicts.decide(request.evaluation, preferences)
        return pb.DecideVerdictResponse(verdict=wire.verdict_to_proto(verdict, evaluation=request.evaluation))

    async def CompareEvaluations(
        self, request: pb.CompareEvaluationsRequest, context: Context
    ) -> pb.CompareEvaluationsResponse:
        return wire.comparison_to_proto(await self._verdicts.compare(request.evaluation, request.reference))
