"""The gRPC servicers of the evaluator: the wire to the use cases and back. They contain no rules."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator

from luthier.evaluator.v1 import evaluation_service_pb2 as pb
from luthier.evaluator.v1 import evaluation_service_pb2_grpc as evaluation_rpc
from luthier.evaluator.v1 import gate_pb2, gate_plan_pb2
from luthier.evaluator.v1 import gate_service_pb2 as gate_pb
from luthier.evaluator.v1 import gate_service_pb2_grpc as gate_rpc

from luthierd.evaluator.api import config_wire, gate_wire
from luthierd.evaluator.api import evaluation_wire as wire
from luthierd.evaluator.decisions.gate_selftest import DEFAULT_EXPERIMENTS
from luthierd.evaluator.decisions.gates import Gates
from luthierd.evaluator.run.evaluations import Evaluations
from luthierd.jobs.queue import JobQueue
from luthierd.names import EVALUATION, GATE_POLICY
from luthierd.rpc.auth import current_principal
from luthierd.rpc.contract import Context
from luthierd.rpc.deletion import delete
from luthierd.rpc.job_resource import JobResource
from luthierd.rpc.wire import page_to_proto, to_proto
from luthierd.storage.deletions import Deletions


class EvaluationServicer(evaluation_rpc.EvaluationServiceServicer):
    """`luthier.evaluator.v1.EvaluationService`."""

    def __init__(
        self, evaluations: Evaluations, queue: JobQueue, stopping: asyncio.Event, deletions: Deletions
    ) -> None:
        self._evaluations, self._deletions = evaluations, deletions
        self._jobs = JobResource(evaluations, queue, stopping, to_proto=wire.evaluation_to_proto)

    async def CreateEvaluation(
        self, request: pb.CreateEvaluationRequest, context: Context
    ) -> pb.CreateEvaluationResponse:
        created = await self._evaluations.create(
            request.parent,
            adapter_revision=request.evaluation.adapter_revision,
            dataset_revision=request.evaluation.dataset_revision,
            config=config_wire.config_from_proto(request.evaluation.config),
            evaluation_id=request.evaluation_id,
            subject=current_principal().subject,
        )
        return self._jobs.answer(pb.CreateEvaluationResponse, created)

    async def GetEvaluation(self, request: pb.GetEvaluationRequest, context: Context) -> pb.GetEvaluationResponse:
        return await self._jobs.get(request, pb.GetEvaluationResponse)

    async def ListEvaluations(self, request: pb.ListEvaluationsRequest, context: Context) -> pb.ListEvaluationsResponse:
        brief = functools.partial(wire.evaluation_to_proto, with_slices=False)
        return await self._jobs.list(request, pb.ListEvaluationsResponse, to_proto=brief)

    async def CancelEvaluation(
        self, request: pb.CancelEvaluationRequest, context: Context
    ) -> pb.CancelEvaluationResponse:
        return await self._jobs.cancel(request, pb.CancelEvaluationResponse)

    def WatchEvaluation(
        self, request: pb.WatchEvaluationRequest, context: Context
    ) -> AsyncIterator[pb.WatchEvaluationResponse]:
        return self._jobs.watch(request, pb.WatchEvaluationResponse, wire.event_to_proto)

    async def ListEvaluationRows(
        self, request: pb.ListEvaluationRowsRequest, context: Context
    ) -> pb.ListEvaluationRowsResponse:
        page = await self._evaluations.rows(request.parent, request.page_size, request.page_token)
        return page_to_proto(pb.ListEvaluationRowsResponse, page, wire.row_to_proto)

    async def ReadEvaluationReport(
        self, request: pb.ReadEvaluationReportRequest, context: Context
    ) -> pb.ReadEvaluationReportResponse:
        piece = await self._evaluations.report(request.name, request.offset_bytes, request.limit_bytes)
        return pb.ReadEvaluationReportResponse(data=piece.data, size_bytes=piece.size_bytes, sha256=piece.sha256)

    async def DeleteEvaluation(
        self, request: pb.DeleteEvaluationRequest, context: Context
    ) -> pb.DeleteEvaluationResponse:
        return await delete(self._deletions, EVALUATION, request, pb.DeleteEvaluationResponse)


class GateServicer(gate_rpc.GateServiceServicer):
    """`luthier.evaluator.v1.GateService`."""

    def __init__(self, gates: Gates, deletions: Deletions) -> None:
        self._gates, self._deletions = gates, deletions

    async def RunGate(self, request: gate_pb.RunGateRequest, context: Context) -> gate_pb.RunGateResponse:
        subject = current_principal().subject
        given = gate_wire.policy_of_request(request)
        decision = await self._gates.run(request.evaluation, given, subject=subject)
        return gate_pb.RunGateResponse(
            decision=to_proto(gate_pb2.GateDecision, decision, evaluation=request.evaluation)
        )

    async def PlanGate(self, request: gate_pb.PlanGateRequest, context: Context) -> gate_pb.PlanGateResponse:
        plan = await self._gates.plan(
            request.dataset_revision,
            gate_wire.policy_of_request(request),
            split=request.split,
            row_limit=request.row_limit,
            pilot=request.pilot_evaluation,
        )
        return gate_pb.PlanGateResponse(plan=gate_wire.plan_to_proto(plan, dataset_revision=request.dataset_revision))

    async def SelfTestGate(
        self, request: gate_pb.SelfTestGateRequest, context: Context
    ) -> gate_pb.SelfTestGateResponse:
        count = request.experiment_count if request.HasField("experiment_count") else DEFAULT_EXPERIMENTS
        found = await self._gates.self_test(request.evaluation, experiments=count, seed=request.seed)
        return gate_pb.SelfTestGateResponse(self_test=to_proto(gate_plan_pb2.GateSelfTest, found))

    async def CreateGatePolicy(
        self, request: gate_pb.CreateGatePolicyRequest, context: Context
    ) -> gate_pb.CreateGatePolicyResponse:
        policy = gate_wire.policy_from_proto(request.gate_policy)
        stored = await self._gates.create(request.parent, request.gate_policy_id, policy)
        return gate_pb.CreateGatePolicyResponse(gate_policy=gate_wire.policy_to_proto(stored))

    async def GetGatePolicy(
        self, request: gate_pb.GetGatePolicyRequest, context: Context
    ) -> gate_pb.GetGatePolicyResponse:
        stored = await self._gates.get(request.name)
        return gate_pb.GetGatePolicyResponse(gate_policy=gate_wire.policy_to_proto(stored))

    async def ListGatePolicies(
        self, request: gate_pb.ListGatePoliciesRequest, context: Context
    ) -> gate_pb.ListGatePoliciesResponse:
        page = await self._gates.list(request.parent, request.page_size, request.page_token)
        return page_to_proto(gate_pb.ListGatePoliciesResponse, page, gate_wire.policy_to_proto)

    async def DeleteGatePolicy(
        self, request: gate_pb.DeleteGatePolicyRequest, context: Context
    ) -> gate_pb.DeleteGatePolicyResponse:
        return await delete(self._deletions, GATE_POLICY, request, gate_pb.DeleteGatePolicyResponse)
