"""Gate policies and their decisions (the evaluator service)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import cached_property

from luthier.evaluator.v1 import gate_pb2 as pb
from luthier.evaluator.v1 import gate_plan_pb2 as plan_pb
from luthier.evaluator.v1 import gate_service_pb2 as api
from luthier.evaluator.v1 import gate_service_pb2_grpc as rpc
from luthier.resources.reading import pages
from luthier.transport import Transport, new_request_id


class Gates:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @cached_property
    def _stub(self) -> rpc.GateServiceAsyncStub:
        return rpc.GateServiceStub(self._transport.channel)

    async def run(
        self, evaluation: str, *, policy: str | pb.GatePolicy, timeout_s: float | None = None
    ) -> pb.GateDecision:
        """Judges a SUCCEEDED evaluation by a stored policy (its name) or by one given here. Changes nothing."""
        request = api.RunGateRequest(evaluation=evaluation)
        if isinstance(policy, str):
            request.gate_policy = policy
        else:
            request.inline_policy.CopyFrom(policy)
        return (await self._transport.unary(self._stub.RunGate, request, timeout_s=timeout_s)).decision

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
        else from stated assumptions. Changes nothing.
        """
        request = api.PlanGateRequest(
            dataset_revision=dataset_revision, split=split, row_limit=row_limit, pilot_evaluation=pilot_evaluation
        )
        if isinstance(policy, str):
            request.gate_policy = policy
        else:
            request.inline_policy.CopyFrom(policy)
        return (await self._transport.unary(self._stub.PlanGate, request, timeout_s=timeout_s)).plan

    async def self_test(
        self, evaluation: str, *, experiment_count: int = 500, seed: int = 0, timeout_s: float | None = None
    ) -> plan_pb.GateSelfTest:
        """A/A test on the rows of a SUCCEEDED evaluation: how often two identical arms would be told apart. Takes
        seconds; changes nothing.
        """
        request = api.SelfTestGateRequest(evaluation=evaluation, experiment_count=experiment_count, seed=seed)
        return (await self._transport.unary(self._stub.SelfTestGate, request, timeout_s=timeout_s)).self_test

    async def create_policy(
        self,
        parent: str,
        *,
        gate_policy_id: str,
        policy: pb.GatePolicy,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> pb.GatePolicy:
        """Stores a policy of `tenants/{t}` under a name; policies do not change."""
        request = api.CreateGatePolicyRequest(
            parent=parent,
            gate_policy=policy,
            gate_policy_id=gate_policy_id,
            request_id=request_id or new_request_id(),
        )
        return (await self._transport.unary(self._stub.CreateGatePolicy, request, timeout_s=timeout_s)).gate_policy

    async def get_policy(self, name: str, *, timeout_s: float | None = None) -> pb.GatePolicy:
        request = api.GetGatePolicyRequest(name=name)
        return (await self._transport.unary(self._stub.GetGatePolicy, request, timeout_s=timeout_s)).gate_policy

    def list_policies(self, parent: str, *, page_size: int = 0) -> AsyncIterator[pb.GatePolicy]:
        """The policies of `tenants/{t}`, by name."""

        async def fetch(token: str) -> tuple[Sequence[pb.GatePolicy], str]:
            request = api.ListGatePoliciesRequest(parent=parent, page_size=page_size, page_token=token)
            page = await self._transport.unary(self._stub.ListGatePolicies, request)
            return page.gate_policies, page.next_page_token

        return pages(fetch)
