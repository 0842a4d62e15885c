"""Gate policies and their decisions (the evaluator service)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import cached_property

from luthier.evaluator.v1 import gate_pb2 as pb
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
