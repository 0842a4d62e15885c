"""Planning and self-testing a gate over a real server, and the results that a gate judges by."""

from __future__ import annotations

import math
from typing import Any

import grpc
import pytest
from luthier.evaluator.v1 import evaluation_pb2 as pb
from luthier.evaluator.v1 import gate_pb2
from luthier.evaluator.v1 import gate_service_pb2 as api
from support.evaluator_material import FakePeers
from support.evaluator_service import ADAPTER, Server, refused
from support.serving import bearer, error_info

REVISION = FakePeers.adapter.dataset_revision
POLICY = gate_pb2.GatePolicy(conditions=[gate_pb2.GateCondition(metric="rouge_l", reference=pb.ARM_BASE)])


async def planned(server: Server, **changes: Any) -> Any:
    fields = {"dataset_revision": REVISION, "inline_policy": POLICY, **changes}
    response = await server.gates.PlanGate(api.PlanGateRequest(**fields), metadata=bearer())
    return response.plan


async def test_a_policy_is_refused_before_anything_is_trained_and_told_how_many_rows_would_do(server: Server) -> None:
    plan = await planned(server)
    assert plan.outcome == gate_pb2.GATE_OUTCOME_NO_GO
    assert (plan.row_count, plan.group_count, plan.dataset_revision) == (24, 8, REVISION)
    (condition,) = plan.conditions
    assert condition.variance_source == "assumed"
    assert condition.condition.expected == pytest.approx(0.1)
    assert condition.needed_row_count > 24
    assert f"{condition.needed_row_count} rows in {condition.needed_group_count} groups" in condition.explanation


async def test_a_pilot_evaluation_gives_the_variance(server: Server) -> None:
    name = await server.evaluate(arms=[pb.ARM_BASE, pb.ARM_ADAPTER])
    plan = await planned(server, pilot_evaluation=name)
    assert plan.conditions[0].variance_source == name
    assert math.isnan(plan.conditions[0].standard_deviation)
    assert plan.conditions[0].minimum_detectable_effect > 0


async def test_what_cannot_be_planned_is_refused_with_its_field(server: Server) -> None:
    for changes, field in (({"split": "train"}, "split"), ({"row_limit": -1}, "row_limit")):
        error = await refused(planned(server, **changes))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert error_info(error).metadata["field"] == field
    assert error_info(await refused(planned(server, split="validation"))).reason == "SPLIT_EMPTY"
    server.peers.is_ready = False
    assert error_info(await refused(planned(server))).reason == "DATASET_REVISION_NOT_READY"


async def test_a_pilot_of_another_tenant_is_refused(server: Server) -> None:
    error = await refused(planned(server, pilot_evaluation="tenants/rival/evaluations/e"))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_identical_arms_are_told_apart_no_more_often_than_the_level_allows(server: Server) -> None:
    name = await server.evaluate(arms=[pb.ARM_BASE, pb.ARM_ADAPTER])
    request = api.SelfTestGateRequest(evaluation=name, experiment_count=200)
    found = (await server.gates.SelfTestGate(request, metadata=bearer())).self_test
    assert found.outcome == gate_pb2.CONDITION_OUTCOME_PASS
    assert {one.metric for one in found.results} == {"exact_match", "json_valid", "label_accuracy", "rouge_l"}
    assert all(one.interval_low <= found.alpha for one in found.results)
    request.experiment_count = 99
    assert error_info(await refused(server.gates.SelfTestGate(request, metadata=bearer()))).metadata["field"] == (
        "experiment_count"
    )


async def test_slices_bounds_p_values_and_latency_intervals_are_in_the_contract_and_gated(server: Server) -> None:
    name = await server.evaluate(arms=[pb.ARM_BASE, pb.ARM_ADAPTER])
    found = await server.get(name)
    assert [part.slice for part in found.slices] == ["label:linalg", "label:stats"]
    assert [part.row_count for part in found.slices] == [12, 12]
    assert found.slices[0].arms[1].metrics[0].mean == 1.0
    value = found.arms[1].metrics[0]
    assert (value.worst_mean, value.best_mean, value.scored_mean) == (1.0, 1.0, 1.0)
    difference = found.differences[0]
    assert difference.adjusted_p_value >= difference.p_value
    assert difference.common_row_count == difference.row_count
    assert found.arms[1].latency_intervals.latency_ms_p50_low <= found.arms[1].latency_ms_p50
    policy = gate_pb2.GatePolicy(
        conditions=[gate_pb2.GateCondition(metric="rouge_l", reference=pb.ARM_BASE, slice="label:stats")],
        limits=[gate_pb2.GateLimit(quantity=gate_pb2.GATE_QUANTITY_COST_PER_1000, at_most=1000.0)],
    )
    request = api.RunGateRequest(evaluation=name, inline_policy=policy)
    decision = (await server.gates.RunGate(request, metadata=bearer())).decision
    assert decision.limits[0].outcome == gate_pb2.CONDITION_OUTCOME_PASS
    assert decision.conditions[0].condition.slice == "label:stats"
    assert decision.conditions[0].row_count == 12
    assert found.adapter_revision == ADAPTER


async def test_limits_tiers_and_candidates_out_of_range_are_refused(server: Server) -> None:
    for wrong in (
        gate_pb2.GatePolicy(conditions=POLICY.conditions, candidate_count=0),
        gate_pb2.GatePolicy(conditions=POLICY.conditions, limits=[gate_pb2.GateLimit(quantity=1, at_most=0.0)]),
        gate_pb2.GatePolicy(conditions=[gate_pb2.GateCondition(metric="rouge_l", expected=2.0)]),
        gate_pb2.GatePolicy(conditions=[gate_pb2.GateCondition(metric="rouge_l", slice="x" * 257)]),
    ):
        error = await refused(planned(server, inline_policy=wrong))
        assert error_info(error).reason == "GATE_POLICY_INVALID"
    unknown = gate_pb2.GatePolicy(conditions=POLICY.conditions, limits=[gate_pb2.GateLimit(at_most=1.0)])
    error = await refused(planned(server, inline_policy=unknown))
    assert error_info(error).metadata["field"] == "limits[0].quantity"
