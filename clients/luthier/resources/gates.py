"""Gate policies and decisions (the evaluator service)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeVar

from luthier.evaluator.v1 import gate_pb2 as pb
from luthier.evaluator.v1 import gate_plan_pb2 as plan_pb
from luthier.evaluator.v1 import gate_service_pb2 as api
from luthier.evaluator.v1 import gate_service_pb2_grpc as rpc
from luthier.resources.resource import Deletion, Resource

Request = TypeVar("Request", api.RunGateRequest, api.PlanGateRequest)


class Gates(Resource["rpc.GateServiceAsyncStub"]):
    """`policy`: the name of a stored one, or a policy."""

    _make_stub = rpc.GateServiceStub

    async def run(
        self, evaluation: str, *, policy: str | pb.GatePolicy, timeout_s: float | None = None
    ) -> pb.GateDecision:
        """Judges a SUCCEEDED evaluation by a policy. Changes nothing."""
        request = _judging_by(policy, api.RunGateRequest(evaluation=evaluation))
        return (await self._call(self._stub.RunGate, request, timeout_s)).decision

    async def plan(
        self,
        dataset_revision: str,
        *,
        policy: str | pb.GatePolicy,
        split: str = "holdout",
        row_limit: int = 0,
        pilot_evaluation: str = "",
        timeout_s: float | None = None,
    ) -> plan_pb.GatePlan:
        """What a policy can prove on a revision's rows, before any training. Variances come from `pilot_evaluation`,
        or else from documented assumptions. Changes nothing.
        """
        request = api.PlanGateRequest(
            dataset_revision=dataset_revision, split=split, row_limit=row_limit, pilot_evaluation=pilot_evaluation
        )
        return (await self._call(self._stub.PlanGate, _judging_by(policy, request), timeout_s)).plan

    async def self_test(
        self, evaluation: str, *, experiment_count: int = 500, seed: int = 0, timeout_s: float | None = None
    ) -> plan_pb.GateSelfTest:
        """A/A test on the rows of a SUCCEEDED evaluation: how often two identical arms would be told apart. Takes
        seconds; changes nothing.
        """
        request = api.SelfTestGateRequest(evaluation=evaluation, experiment_count=experiment_count, seed=seed)
        return (await self._call(self._stub.SelfTestGate, request, timeout_s)).self_test

    async def create_policy(
        self,
        parent: str,
        *,
        gate_policy_id: str,
        policy: pb.GatePolicy,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> pb.GatePolicy:
        """Stores a policy of `tenants/{t}` under a name; stored policies never change."""
        request = api.CreateGatePolicyRequest(
            parent=parent, gate_policy=policy, gate_policy_id=gate_policy_id, request_id=request_id
        )
        return (await self._call(self._stub.CreateGatePolicy, request, timeout_s)).gate_policy

    async def get_policy(self, name: str, *, timeout_s: float | None = None) -> pb.GatePolicy:
        return (await self._call(self._stub.GetGatePolicy, api.GetGatePolicyRequest(name=name), timeout_s)).gate_policy

    def list_policies(self, parent: str, *, page_size: int = 0) -> AsyncIterator[pb.GatePolicy]:
        """The policies of `tenants/{t}`, by name."""
        request = api.ListGatePoliciesRequest(parent=parent, page_size=page_size)
        return self._pages(self._stub.ListGatePolicies, request, lambda page: page.gate_policies)

    async def delete_policy(
        self,
        name: str,
        *,
        cascade: bool = False,
        validate_only: bool = False,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> Deletion:
        """Deletes a stored policy; decisions by it stay in the ledger. See docs/storage.md."""
        request = api.DeleteGatePolicyRequest(
            name=name, cascade=cascade, validate_only=validate_only, request_id=request_id
        )
        return await self._delete(self._stub.DeleteGatePolicy, request, timeout_s)


def _judging_by(policy: str | pb.GatePolicy, request: Request) -> Request:
    if isinstance(policy, str):
        request.gate_policy = policy
    else:
        request.inline_policy.CopyFrom(policy)
    return request
