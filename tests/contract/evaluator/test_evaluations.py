"""Every RPC of the evaluator over a real server: what it answers, and what it refuses with which reason."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import math
import uuid
from typing import Any

import grpc
import pytest
from luthier.evaluator.v1 import evaluation_pb2 as pb
from luthier.evaluator.v1 import evaluation_service_pb2 as api
from luthier.evaluator.v1 import gate_pb2
from luthier.evaluator.v1 import gate_service_pb2 as gate_api
from luthierd.errors import UnavailableError
from support.evaluator_material import FakePeers, ScriptedModel, adapter_knows
from support.evaluator_service import ADAPTER, PARENT, Server, method, refused
from support.serving import bearer, details, error_info

MISSING = "tenants/acme/evaluations/none"


def gate_policy(**changes: Any) -> gate_pb2.GatePolicy:
    condition = {"metric": "rouge_l", "arm": pb.ARM_ADAPTER, "reference": pb.ARM_BASE, **changes}
    return gate_pb2.GatePolicy(conditions=[gate_pb2.GateCondition(**condition)])


CALLS: list[tuple[str, Any]] = [
    (
        "CreateEvaluation",
        api.CreateEvaluationRequest(parent=PARENT, evaluation=pb.Evaluation(adapter_revision=ADAPTER)),
    ),
    ("GetEvaluation", api.GetEvaluationRequest(name=MISSING)),
    ("ListEvaluations", api.ListEvaluationsRequest(parent=PARENT)),
    ("CancelEvaluation", api.CancelEvaluationRequest(name=MISSING)),
    ("ListEvaluationRows", api.ListEvaluationRowsRequest(parent=MISSING)),
    ("ReadEvaluationReport", api.ReadEvaluationReportRequest(name=MISSING)),
    ("RunGate", gate_api.RunGateRequest(evaluation=MISSING, inline_policy=gate_policy())),
    (
        "PlanGate",
        gate_api.PlanGateRequest(dataset_revision=FakePeers.adapter.dataset_revision, inline_policy=gate_policy()),
    ),
    ("SelfTestGate", gate_api.SelfTestGateRequest(evaluation=MISSING)),
    (
        "CreateGatePolicy",
        gate_api.CreateGatePolicyRequest(parent=PARENT, gate_policy_id="p", gate_policy=gate_policy()),
    ),
    ("GetGatePolicy", gate_api.GetGatePolicyRequest(name="tenants/acme/gatePolicies/none")),
    ("ListGatePolicies", gate_api.ListGatePoliciesRequest(parent=PARENT)),
]


@pytest.mark.parametrize(("name", "request_message"), CALLS, ids=[name for name, _ in CALLS])
async def test_without_a_token_every_call_is_refused(server: Server, name: str, request_message: Any) -> None:
    error = await refused(method(server, name)(request_message))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(("name", "request_message"), CALLS, ids=[name for name, _ in CALLS])
async def test_another_tenant_learns_nothing_not_even_existence(
    server: Server, name: str, request_message: Any
) -> None:
    error = await refused(method(server, name)(request_message, metadata=bearer("rival")))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(("name", "request_message"), CALLS, ids=[name for name, _ in CALLS])
async def test_a_token_without_the_scope_is_refused(server: Server, name: str, request_message: Any) -> None:
    metadata = bearer(scopes=("inference.generate",))
    assert (await refused(method(server, name)(request_message, metadata=metadata))).code() is (
        grpc.StatusCode.PERMISSION_DENIED
    )


@pytest.mark.parametrize(
    ("name", "request_message", "reason"),
    [
        ("GetEvaluation", api.GetEvaluationRequest(name=MISSING), "EVALUATION_NOT_FOUND"),
        ("CancelEvaluation", api.CancelEvaluationRequest(name=MISSING), "EVALUATION_NOT_FOUND"),
        ("ListEvaluationRows", api.ListEvaluationRowsRequest(parent=MISSING), "EVALUATION_NOT_FOUND"),
        ("ReadEvaluationReport", api.ReadEvaluationReportRequest(name=MISSING), "EVALUATION_NOT_FOUND"),
        ("RunGate", gate_api.RunGateRequest(evaluation=MISSING, inline_policy=gate_policy()), "EVALUATION_NOT_FOUND"),
        ("SelfTestGate", gate_api.SelfTestGateRequest(evaluation=MISSING), "EVALUATION_NOT_FOUND"),
        (
            "PlanGate",
            gate_api.PlanGateRequest(
                dataset_revision=FakePeers.adapter.dataset_revision,
                inline_policy=gate_policy(),
                pilot_evaluation=MISSING,
            ),
            "EVALUATION_NOT_FOUND",
        ),
        (
            "GetGatePolicy",
            gate_api.GetGatePolicyRequest(name="tenants/acme/gatePolicies/none"),
            "GATE_POLICY_NOT_FOUND",
        ),
    ],
)
async def test_an_unknown_name_is_named_in_the_error(
    server: Server, name: str, request_message: Any, reason: str
) -> None:
    error = await refused(method(server, name)(request_message, metadata=bearer()))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error_info(error).reason == reason
    assert error_info(error).domain == "evaluator.luthier.dev"


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"shot_count": 17}, "evaluation.config.shot_count"),
        ({"concurrency": 0}, "evaluation.config.concurrency"),
        ({"row_limit": -1}, "evaluation.config.row_limit"),
        ({"split": "train"}, "evaluation.config.split"),
        ({"arms": [pb.ARM_BASE, pb.ARM_BASE]}, "evaluation.config.arms"),
        ({"arms": [0]}, "evaluation.config.arms[0]"),
    ],
)
async def test_a_bad_configuration_names_its_field_and_creates_nothing(
    server: Server, config: dict[str, Any], field: str
) -> None:
    error = await refused(server.create(**config))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(error).metadata["field"] == field
    listed = await server.evaluations.ListEvaluations(api.ListEvaluationsRequest(parent=PARENT), metadata=bearer())
    assert list(listed.evaluations) == []


async def test_an_adapter_that_does_not_exist_stops_the_evaluation_from_being_created(server: Server) -> None:
    evaluation = pb.Evaluation(adapter_revision="tenants/acme/adapters/docs/revisions/r9")
    request = api.CreateEvaluationRequest(parent=PARENT, evaluation=evaluation)
    error = await refused(server.evaluations.CreateEvaluation(request, metadata=bearer()))
    assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_an_imported_adapter_is_evaluated_on_the_dataset_that_is_named(server: Server) -> None:
    server.peers.adapter = dataclasses.replace(FakePeers.adapter, dataset_revision="")
    error = await refused(server.create())
    assert error_info(error).metadata["field"] == "evaluation.dataset_revision"
    evaluation = pb.Evaluation(adapter_revision=ADAPTER, dataset_revision=FakePeers.adapter.dataset_revision)
    request = api.CreateEvaluationRequest(parent=PARENT, evaluation=evaluation)
    created = (await server.evaluations.CreateEvaluation(request, metadata=bearer())).evaluation
    assert (created.state, created.dataset_revision) == (pb.EVALUATION_STATE_QUEUED, evaluation.dataset_revision)


async def test_a_revision_that_is_not_ready_and_an_empty_split_are_refused(server: Server) -> None:
    server.peers.is_ready = False
    assert error_info(await refused(server.create())).reason == "DATASET_REVISION_NOT_READY"
    server.peers.is_ready = True
    assert error_info(await refused(server.create(split="validation"))).reason == "SPLIT_EMPTY"


async def test_a_created_evaluation_is_queued_with_every_default_and_its_digests(server: Server) -> None:
    created = await server.create()
    assert created.state == pb.EVALUATION_STATE_QUEUED
    assert created.dataset_revision == FakePeers.adapter.dataset_revision
    assert created.config.shot_count == 3
    assert created.config.max_answer_tokens == 96
    assert list(created.config.arms) == [1, 2, 3, 4, 5]
    assert created.lineage.adapter_sha256 == "a" * 64
    assert await server.get(created.name) == created


async def test_the_same_request_id_creates_one_evaluation(server: Server) -> None:
    request = api.CreateEvaluationRequest(
        parent=PARENT, evaluation=pb.Evaluation(adapter_revision=ADAPTER), request_id=str(uuid.uuid4())
    )
    first = await server.evaluations.CreateEvaluation(request, metadata=bearer())
    assert await server.evaluations.CreateEvaluation(request, metadata=bearer()) == first


async def test_a_taken_id_already_exists(server: Server) -> None:
    evaluation = pb.Evaluation(adapter_revision=ADAPTER)
    request = api.CreateEvaluationRequest(parent=PARENT, evaluation=evaluation, evaluation_id="mine")
    await server.evaluations.CreateEvaluation(request, metadata=bearer())
    assert (await refused(server.evaluations.CreateEvaluation(request, metadata=bearer()))).code() is (
        grpc.StatusCode.ALREADY_EXISTS
    )


async def test_a_finished_evaluation_has_arms_differences_rows_and_a_report(server: Server) -> None:
    name = (await server.create()).name
    await server.work(name)
    found = await server.get(name)
    assert found.state == pb.EVALUATION_STATE_SUCCEEDED
    assert [arm.arm for arm in found.arms] == [1, 2, 3, 4, 5]
    assert all(
        value.coverage == 1.0 and not math.isnan(value.interval_low) for arm in found.arms for value in arm.metrics
    )
    beats_base = next(
        d for d in found.differences if (d.metric, d.arm, d.reference) == ("rouge_l", pb.ARM_ADAPTER, pb.ARM_BASE)
    )
    assert beats_base.interval_low > 0
    assert beats_base.group_count == 8
    assert found.lineage.index_sha256
    assert found.lineage.versions["ragas"] == "0.4.3"


async def test_rows_come_in_pages_in_order(server: Server) -> None:
    name = (await server.create()).name
    await server.work(name)
    ids: list[str] = []
    token = ""
    while True:
        request = api.ListEvaluationRowsRequest(parent=name, page_size=10, page_token=token)
        page = await server.evaluations.ListEvaluationRows(request, metadata=bearer())
        ids += [row.row_id for row in page.rows]
        token = page.next_page_token
        if not token:
            break
    assert ids == [f"holdout-{number}" for number in range(24)]
    assert page.rows[0].answers[3].arm == pb.ARM_ADAPTER
    assert page.rows[0].answers[3].scores["rouge_l"] == 1.0
    assert len(page.rows[0].answers[2].shown_row_ids) == 3


async def test_the_report_arrives_in_pieces_with_its_digest(server: Server) -> None:
    name = (await server.create()).name
    await server.work(name)
    data = b""
    while True:
        request = api.ReadEvaluationReportRequest(name=name, offset_bytes=len(data), limit_bytes=5000)
        piece = await server.evaluations.ReadEvaluationReport(request, metadata=bearer())
        if not piece.data:
            break
        data += piece.data
    assert len(data) == piece.size_bytes
    assert hashlib.sha256(data).hexdigest() == piece.sha256
    assert data.startswith(b"<!DOCTYPE html>")


async def test_an_unfinished_evaluation_has_no_rows_no_report_and_no_decision(server: Server) -> None:
    name = (await server.create()).name
    for call in (
        server.evaluations.ListEvaluationRows(api.ListEvaluationRowsRequest(parent=name), metadata=bearer()),
        server.evaluations.ReadEvaluationReport(api.ReadEvaluationReportRequest(name=name), metadata=bearer()),
        server.gates.RunGate(gate_api.RunGateRequest(evaluation=name, inline_policy=gate_policy()), metadata=bearer()),
    ):
        error = await refused(call)
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert error_info(error).metadata["state"] == "QUEUED"


async def test_a_watch_tells_progress_and_ends_with_the_final_state(server: Server) -> None:
    name = (await server.create()).name
    stream = server.evaluations.WatchEvaluation(api.WatchEvaluationRequest(name=name), metadata=bearer())
    work = asyncio.create_task(server.work(name))
    events = [message.event async for message in stream]
    await work
    ids = [event.event_id for event in events]
    assert ids == sorted(ids)
    assert {event.progress.phase for event in events if event.HasField("progress")} == {
        "index",
        "answer",
        "score",
        "report",
    }
    assert events[-1].state == pb.EVALUATION_STATE_SUCCEEDED
    later = server.evaluations.WatchEvaluation(
        api.WatchEvaluationRequest(name=name, after_event_id=ids[-2]), metadata=bearer()
    )
    assert [message.event.event_id async for message in later] == [ids[-1]]


async def test_a_failure_of_the_run_is_the_evaluation_s_error_and_no_error_of_the_call(server: Server) -> None:
    name = (await server.create()).name
    await server.work(name, chat_model=ScriptedModel(lambda arm, _: UnavailableError("gone", retry_after_s=50.0)))
    found = await server.get(name)
    assert found.state == pb.EVALUATION_STATE_FAILED
    assert "the answers so far are kept" in found.error.message


async def test_a_queued_evaluation_is_cancelled_at_once_and_stays_so(server: Server) -> None:
    name = (await server.create()).name
    request = api.CancelEvaluationRequest(name=name)
    first = await server.evaluations.CancelEvaluation(request, metadata=bearer())
    assert first.evaluation.state == pb.EVALUATION_STATE_CANCELLED
    assert await server.evaluations.CancelEvaluation(request, metadata=bearer()) == first


async def test_lists_are_paged_newest_first(server: Server) -> None:
    names = [(await server.create()).name for _ in range(3)]
    request = api.ListEvaluationsRequest(parent=PARENT, page_size=2)
    first = await server.evaluations.ListEvaluations(request, metadata=bearer())
    request.page_token = first.next_page_token
    second = await server.evaluations.ListEvaluations(request, metadata=bearer())
    assert [found.name for found in [*first.evaluations, *second.evaluations]] == names[::-1]
    request.page_size = -1
    assert (await refused(server.evaluations.ListEvaluations(request, metadata=bearer()))).code() is (
        grpc.StatusCode.INVALID_ARGUMENT
    )


async def test_a_gate_decides_by_the_paired_interval(server: Server) -> None:
    name = (await server.create()).name
    await server.work(name)

    async def outcome(policy: gate_pb2.GatePolicy) -> gate_pb2.GateDecision:
        request = gate_api.RunGateRequest(evaluation=name, inline_policy=policy)
        response = await server.gates.RunGate(request, metadata=bearer())
        return response.decision  # type: ignore[no-any-return]

    go = await outcome(gate_policy())
    assert go.outcome == gate_pb2.GATE_OUTCOME_GO
    assert go.conditions[0].interval_low > 0
    assert go.conditions[0].condition.tier == gate_pb2.GATE_TIER_CRITICAL
    swapped = gate_policy(arm=pb.ARM_BASE, reference=0, at_least=0.9)
    assert (await outcome(swapped)).outcome == gate_pb2.GATE_OUTCOME_NO_GO
    unmeasured = await outcome(gate_policy(metric="chrf"))
    assert unmeasured.outcome == gate_pb2.GATE_OUTCOME_INCONCLUSIVE
    assert math.isnan(unmeasured.conditions[0].interval_low)


async def test_an_unknown_metric_gets_the_nearest_known_one(server: Server) -> None:
    request = gate_api.RunGateRequest(evaluation=MISSING, inline_policy=gate_policy(metric="rogue_l"))
    error = await refused(server.gates.RunGate(request, metadata=bearer()))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "did you mean 'rouge_l'?" in details(error).message


async def test_a_policy_without_conditions_or_against_itself_is_refused(server: Server) -> None:
    for policy in (
        gate_pb2.GatePolicy(),
        gate_policy(reference=pb.ARM_ADAPTER),
        gate_policy(at_least=2.0),
        gate_pb2.GatePolicy(conditions=gate_policy().conditions, min_coverage=1.5),
    ):
        request = gate_api.CreateGatePolicyRequest(parent=PARENT, gate_policy_id="p", gate_policy=policy)
        error = await refused(server.gates.CreateGatePolicy(request, metadata=bearer()))
        assert error_info(error).reason == "GATE_POLICY_INVALID"
    error = await refused(server.gates.RunGate(gate_api.RunGateRequest(evaluation=MISSING), metadata=bearer()))
    assert error_info(error).metadata["field"] == "policy"


async def test_stored_policies_do_not_change_and_are_judged_by_name(server: Server) -> None:
    request = gate_api.CreateGatePolicyRequest(parent=PARENT, gate_policy_id="live", gate_policy=gate_policy())
    created = (await server.gates.CreateGatePolicy(request, metadata=bearer())).gate_policy
    assert created.name == "tenants/acme/gatePolicies/live"
    assert created.min_coverage == 0.95
    assert (await refused(server.gates.CreateGatePolicy(request, metadata=bearer()))).code() is (
        grpc.StatusCode.ALREADY_EXISTS
    )
    got = await server.gates.GetGatePolicy(gate_api.GetGatePolicyRequest(name=created.name), metadata=bearer())
    assert got.gate_policy == created
    listed = await server.gates.ListGatePolicies(gate_api.ListGatePoliciesRequest(parent=PARENT), metadata=bearer())
    assert list(listed.gate_policies) == [created]
    name = (await server.create()).name
    await server.work(name, chat_model=ScriptedModel(adapter_knows))
    run = gate_api.RunGateRequest(evaluation=name, gate_policy=created.name)
    decision = (await server.gates.RunGate(run, metadata=bearer())).decision
    assert decision.outcome == gate_pb2.GATE_OUTCOME_GO
    assert decision.evaluation == name
