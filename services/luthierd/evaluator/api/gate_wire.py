"""Gate policies, decisions, plans and self-tests between the contract and the domain."""

from __future__ import annotations

from typing import TypeVar

from luthier.evaluator.v1 import gate_pb2, gate_plan_pb2, gate_service_pb2

from luthierd.errors import InvalidArgumentError
from luthierd.evaluator.api.metric_wire import metric_from_name
from luthierd.evaluator.decisions.gate_plan import ConditionPlan, GatePlan
from luthierd.evaluator.decisions.gate_policy import GateCondition, GateLimit, GatePolicy, Quantity
from luthierd.evaluator.decisions.gates import StoredPolicy
from luthierd.rpc.wire import enum_from_proto, from_proto, to_proto

PolicyRequest = TypeVar("PolicyRequest", gate_service_pb2.RunGateRequest, gate_service_pb2.PlanGateRequest)


def policy_of_request(request: PolicyRequest) -> str | GatePolicy:
    """The name of a stored policy, or the policy given. InvalidArgumentError if there is neither."""
    if request.WhichOneof("policy") is None:
        raise InvalidArgumentError.of_field("policy", "name a stored policy or give one in the request")
    return request.gate_policy or policy_from_proto(request.inline_policy)


def policy_from_proto(message: gate_pb2.GatePolicy) -> GatePolicy:
    """InvalidArgumentError for an unknown metric, arm, tier or quantity."""
    return from_proto(
        GatePolicy,
        message,
        conditions=tuple(_condition(one, f"conditions[{index}]") for index, one in enumerate(message.conditions)),
        limits=tuple(_limit(one, f"limits[{index}]") for index, one in enumerate(message.limits)),
    )


def _condition(message: gate_pb2.GateCondition, path: str) -> GateCondition:
    metric = metric_from_name(message.metric, field=f"{path}.metric")
    return from_proto(GateCondition, message, path=path, metric=metric)


def _limit(message: gate_pb2.GateLimit, path: str) -> GateLimit:
    quantities = gate_pb2.GateQuantity.DESCRIPTOR
    quantity = enum_from_proto(Quantity, quantities, message.quantity, path=f"{path}.quantity")
    return from_proto(GateLimit, message, path=path, quantity=quantity, at_most=message.at_most)


def policy_to_proto(stored: StoredPolicy) -> gate_pb2.GatePolicy:
    """A stored policy."""
    return to_proto(gate_pb2.GatePolicy, stored.policy, create_time=stored.create_time)


def plan_to_proto(plan: GatePlan, *, dataset_revision: str) -> gate_plan_pb2.GatePlan:
    """What a policy can prove on a dataset revision."""
    conditions = [_plan(one) for one in plan.conditions]
    return to_proto(gate_plan_pb2.GatePlan, plan, conditions=conditions, dataset_revision=dataset_revision)


def _plan(found: ConditionPlan) -> gate_plan_pb2.ConditionPlan:
    return to_proto(
        gate_plan_pb2.ConditionPlan,
        found,
        standard_deviation=found.variance.deviation,
        group_correlation=found.variance.correlation,
        variance_source=found.variance.source,
    )
