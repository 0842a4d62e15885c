"""What finished evaluations mean (the evaluator service)."""

from __future__ import annotations

from luthier.evaluator.v1 import verdict_pb2 as pb
from luthier.evaluator.v1 import verdict_service_pb2 as api
from luthier.evaluator.v1 import verdict_service_pb2_grpc as rpc
from luthier.resources.resource import Resource


class Verdicts(Resource["rpc.VerdictServiceAsyncStub"]):
    _make_stub = rpc.VerdictServiceStub

    async def decide(
        self, evaluation: str, *, preferences: pb.VerdictPreferences | None = None, timeout_s: float | None = None
    ) -> pb.Verdict:
        """Which way of answering to use: base, prompt, retrieval, tuning or both. `evaluation` must be SUCCEEDED."""
        request = api.DecideVerdictRequest(evaluation=evaluation, preferences=preferences)
        return (await self._call(self._stub.DecideVerdict, request, timeout_s)).verdict

    async def compare(
        self, evaluation: str, reference: str, *, timeout_s: float | None = None
    ) -> api.CompareEvaluationsResponse:
        """`evaluation` minus `reference`, arm by arm over their common rows; and what else differs between the two."""
        request = api.CompareEvaluationsRequest(evaluation=evaluation, reference=reference)
        return await self._call(self._stub.CompareEvaluations, request, timeout_s)
