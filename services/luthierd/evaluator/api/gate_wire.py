"""Gate policies, decisions, plans and self-tests between the contract and the domain, both ways."""

from __future__ import annotations

from typing import TypeVar

from luthier.evaluator.v1 import gate_pb2, gate_plan_pb2, gate_service_pb2

from luthierd.errors import InvalidArgumentError
from luthierd.evaluator.api.evaluation_wire import ends_of, number
from luthierd.evaluator.api.metric_wire import metric_from_name
from luthierd.evaluator.api.wire_parts import arm_from_proto, arm_to_proto, timestamp
from luthierd.evaluator.decisions.gate import (
    DEFAULT_MIN_COVERAGE,
    ConditionDecision,
    ConditionOutcome,
    GateCondition,
    GateDecision,
    GateLimit,
    GateOutcome,
    GatePolicy,
    LimitDecision,
    Quantity,
    Tier,
)
from luthierd.evaluator.decisions.gate_plan import ConditionPlan, GatePlan
from luthierd.evaluator.decisions.gate_policies import StoredPolicy
from luthierd.evaluator.decisions.gate_selftest import SelfTest
from luthierd.evaluator.domain.arm import Arm

PolicyRequest = TypeVar("PolicyRequest", gate_service_pb2.RunGateRequest, gate_service_pb2.PlanGateRequest)

_TIERS = {
    gate_pb2.GATE_TIER_UNSPECIFIED: Tier.CRITICAL,
    gate_pb2.GATE_TIER_CRITICAL: Tier.CRITICAL,
    gate_pb2.GATE_TIER_SUPPORTING: Tier.SUPPORTING,
    gate_pb2.GATE_TIER_ADVISORY: Tier.ADVISORY,
}
_QUANTITIES = {
    gate_pb2.GATE_QUANTITY_TTFT_MS_P50: Quantity.TTFT_MS_P50,
    gate_pb2.GATE_QUANTITY_LATENCY_MS_P50: Quantity.LATENCY_MS_P50,
    gate_pb2.GATE_QUANTITY_LATENCY_MS_P95: Quantity.LATENCY_MS_P95,
    gate_pb2.GATE_QUANTITY_COST_PER_1000: Quantity.COST_PER_1000,
}
_QUANTITY_NUMBERS = {quantity: value for value, quantity in _QUANTITIES.items()}


def policy_of_request(request: PolicyRequest) -> str | GatePolicy:
    """The name of a stored policy, or the policy given. InvalidArgumentError if there is neither."""
    if request.WhichOneof("policy") is None:
        raise InvalidArgumentError.of_field("policy", "name a stored policy or give one in the request")
    return request.gate_policy or policy_from_proto(request.inline_policy)


def policy_from_proto(message: gate_pb2.GatePolicy) -> GatePolicy:
    """A policy given with a request, with every default filled in. InvalidArgumentError for an unknown metric."""
    return GatePolicy(
        conditions=tuple(
            _condition_from_proto(condition, field=f"conditions[{index}]")
            for index, condition in enumerate(message.conditions)
        ),
        min_coverage=message.min_coverage if message.HasField("min_coverage") else DEFAULT_MIN_COVERAGE,
        name=message.name,
        limits=tuple(_limit_from_proto(limit, field=f"limits[{index}]") for index, limit in enumerate(message.limits)),
        candidate_count=message.candidate_count if message.HasField("candidate_count") else 1,
    )


def _condition_from_proto(message: gate_pb2.GateCondition, *, field: str) -> GateCondition:
    return GateCondition(
        metric=metric_from_name(message.metric, field=f"{field}.metric"),
        arm=arm_from_proto(message.arm, field=f"{field}.arm") if message.arm else Arm.ADAPTER,
        reference=arm_from_proto(message.reference, field=f"{field}.reference") if message.reference else None,
        at_least=message.at_least,
        tier=_tier(message.tier, field=f"{field}.tier"),
        slice=message.slice,
        expected=message.expected if message.HasField("expected") else None,
    )


def _limit_from_proto(message: gate_pb2.GateLimit, *, field: str) -> GateLimit:
    if message.quantity not in _QUANTITIES:
        raise InvalidArgumentError.of_field(f"{field}.quantity", f"choose of {', '.join(_QUANTITIES.values())}")
    return GateLimit(
        quantity=_QUANTITIES[message.quantity],
        at_most=message.at_most,
        arm=arm_from_proto(message.arm, field=f"{field}.arm") if message.arm else Arm.ADAPTER,
        reference=arm_from_proto(message.reference, field=f"{field}.reference") if message.reference else None,
        tier=_tier(message.tier, field=f"{field}.tier"),
    )


def _tier(number: gate_pb2.GateTier.ValueType, *, field: str) -> Tier:
    if number not in _TIERS:
        raise InvalidArgumentError.of_field(field, f"{number} is not a tier; choose of {', '.join(Tier)}")
    return _TIERS[number]


def condition_to_proto(condition: GateCondition) -> gate_pb2.GateCondition:
    """A condition with its defaults filled in."""
    return gate_pb2.GateCondition(
        metric=condition.metric,
        arm=arm_to_proto(condition.arm),
        reference=arm_to_proto(condition.reference),
        at_least=condition.at_least,
        tier=_tier_to_proto(condition.tier),
        slice=condition.slice,
        expected=condition.expected,
    )


def limit_to_proto(limit: GateLimit) -> gate_pb2.GateLimit:
    """A limit with its defaults filled in."""
    return gate_pb2.GateLimit(
        quantity=_QUANTITY_NUMBERS[limit.quantity],
        arm=arm_to_proto(limit.arm),
        reference=arm_to_proto(limit.reference),
        at_most=limit.at_most,
        tier=_tier_to_proto(limit.tier),
    )


def policy_to_proto(stored: StoredPolicy) -> gate_pb2.GatePolicy:
    """A stored policy."""
    return gate_pb2.GatePolicy(
        name=stored.policy.name,
        create_time=timestamp(stored.create_time),
        conditions=[condition_to_proto(condition) for condition in stored.policy.conditions],
        min_coverage=stored.policy.min_coverage,
        limits=[limit_to_proto(limit) for limit in stored.policy.limits],
        candidate_count=stored.policy.candidate_count,
    )


def decision_to_proto(decision: GateDecision, *, evaluation: str) -> gate_pb2.GateDecision:
    """What a policy says."""
    return gate_pb2.GateDecision(
        outcome=_outcome(decision.outcome),
        conditions=[_condition_decision_to_proto(found) for found in decision.conditions],
        evaluation=evaluation,
        limits=[_limit_decision_to_proto(found) for found in decision.limits],
        warnings=decision.warnings,
    )


def _condition_decision_to_proto(found: ConditionDecision) -> gate_pb2.ConditionDecision:
    low, high = ends_of(found.interval)
    return gate_pb2.ConditionDecision(
        condition=condition_to_proto(found.condition),
        outcome=_condition_outcome(found.outcome),
        estimate=found.estimate,
        interval_low=low,
        interval_high=high,
        explanation=found.explanation,
        p_value=number(found.p_value),
        adjusted_p_value=number(found.adjusted_p_value),
        coverage=found.coverage,
        confidence=found.confidence,
        worst_estimate=found.bounds.worst if found.bounds else found.estimate,
        best_estimate=found.bounds.best if found.bounds else found.estimate,
        row_count=found.row_count,
        group_count=found.group_count,
    )


def _limit_decision_to_proto(found: LimitDecision) -> gate_pb2.LimitDecision:
    total = found.limit.quantity is Quantity.COST_PER_1000
    low, high = (number(found.value), number(found.value)) if total else ends_of(found.interval)
    return gate_pb2.LimitDecision(
        limit=limit_to_proto(found.limit),
        outcome=_condition_outcome(found.outcome),
        value=number(found.value),
        interval_low=low,
        interval_high=high,
        explanation=found.explanation,
    )


def plan_to_proto(plan: GatePlan, *, dataset_revision: str) -> gate_plan_pb2.GatePlan:
    """What a policy can prove."""
    return gate_plan_pb2.GatePlan(
        outcome=_outcome(plan.outcome),
        conditions=[_condition_plan_to_proto(found) for found in plan.conditions],
        row_count=plan.row_count,
        group_count=plan.group_count,
        dataset_revision=dataset_revision,
    )


def _condition_plan_to_proto(found: ConditionPlan) -> gate_plan_pb2.ConditionPlan:
    return gate_plan_pb2.ConditionPlan(
        condition=condition_to_proto(found.condition),
        outcome=_condition_outcome(found.outcome),
        minimum_detectable_effect=number(found.minimum_detectable_effect),
        expected_difference=found.expected_difference,
        needed_row_count=found.needed_row_count,
        needed_group_count=found.needed_group_count,
        row_count=found.row_count,
        group_count=found.group_count,
        standard_deviation=number(found.variance.deviation),
        group_correlation=number(found.variance.correlation),
        variance_source=found.variance.source,
        explanation=found.explanation,
    )


def self_test_to_proto(found: SelfTest) -> gate_plan_pb2.GateSelfTest:
    """How often identical arms were told apart."""
    return gate_plan_pb2.GateSelfTest(
        outcome=_condition_outcome(found.outcome),
        results=[
            gate_plan_pb2.SelfTestResult(
                metric=one.metric,
                arm=arm_to_proto(one.arm),
                reference=arm_to_proto(one.reference),
                false_go_rate=one.false_go_rate,
                interval_low=one.low,
                interval_high=one.high,
                group_count=one.group_count,
            )
            for one in found.results
        ],
        experiment_count=found.experiment_count,
        alpha=found.alpha,
    )


def _tier_to_proto(tier: Tier) -> gate_pb2.GateTier.ValueType:
    return gate_pb2.GateTier.Value(f"GATE_TIER_{tier.name}")


def _outcome(outcome: GateOutcome) -> gate_pb2.GateOutcome.ValueType:
    return gate_pb2.GateOutcome.Value(f"GATE_OUTCOME_{outcome.name}")


def _condition_outcome(outcome: ConditionOutcome) -> gate_pb2.ConditionOutcome.ValueType:
    return gate_pb2.ConditionOutcome.Value(f"CONDITION_OUTCOME_{outcome.name}")
