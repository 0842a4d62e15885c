"""Verdicts and comparisons over a real server: what they say of finished evaluations, and what they refuse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
import pytest
from luthier.evaluator.v1 import evaluation_pb2 as pb
from luthier.evaluator.v1 import verdict_pb2
from luthier.evaluator.v1 import verdict_service_pb2 as api
from luthierd.errors import InvalidArgumentError, LuthierError
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.rows import Message
from support.evaluator_material import ScriptedModel, adapter_knows, rows, to_split
from support.evaluator_service import Server, method, refused
from support.serving import bearer, error_info

MISSING = "tenants/acme/evaluations/none"
CALLS: list[tuple[str, Any]] = [
    ("DecideVerdict", api.DecideVerdictRequest(evaluation=MISSING)),
    ("CompareEvaluations", api.CompareEvaluationsRequest(evaluation=MISSING, reference=MISSING)),
]


async def decide(server: Server, evaluation: str, **preferences: Any) -> verdict_pb2.Verdict:
    wanted = verdict_pb2.VerdictPreferences(**preferences)
    request = api.DecideVerdictRequest(evaluation=evaluation, preferences=wanted)
    response = await server.verdicts.DecideVerdict(request, metadata=bearer())
    return response.verdict  # type: ignore[no-any-return]


async def compare(server: Server, evaluation: str, reference: str) -> api.CompareEvaluationsResponse:
    request = api.CompareEvaluationsRequest(evaluation=evaluation, reference=reference)
    return await server.verdicts.CompareEvaluations(request, metadata=bearer())  # type: ignore[no-any-return]


def retrieval_knows(arm: Arm, messages: Sequence[Message]) -> str | LuthierError:
    """A script: who was shown examples answers with the reference, the others with prose."""
    return adapter_knows(Arm.ADAPTER if arm.uses_retrieval else Arm.BASE, messages)


def fails_on_half(arm: Arm, messages: Sequence[Message]) -> str | LuthierError:
    """A script: questions with an even number are not answered."""
    number = int(messages[-1].content.rsplit(" ", 1)[1])
    return adapter_knows(arm, messages) if number % 2 else InvalidArgumentError("too long", metadata={})


@pytest.mark.parametrize(("name", "request_message"), CALLS, ids=[name for name, _ in CALLS])
async def test_verdicts_are_for_the_tenant_with_the_scope_and_of_evaluations_that_exist(
    server: Server, name: str, request_message: Any
) -> None:
    call = method(server, name)
    assert (await refused(call(request_message))).code() is grpc.StatusCode.UNAUTHENTICATED
    assert (await refused(call(request_message, metadata=bearer("rival")))).code() is grpc.StatusCode.PERMISSION_DENIED
    assert error_info(await refused(call(request_message, metadata=bearer()))).reason == "EVALUATION_NOT_FOUND"


async def test_an_adapter_that_knows_the_answers_is_to_be_tuned(large_server: Server) -> None:
    found = await decide(large_server, await large_server.evaluate())
    assert found.recommended == pb.ARM_ADAPTER
    assert found.headline.startswith("Fine-tune")
    assert [option.arm for option in found.options] == [1, 2, 3, 4, 5]
    assert found.options[0].standing == verdict_pb2.OPTION_STANDING_WORSE
    assert found.options[3].refresh_duration.seconds == 180
    assert len(found.differences) == 10
    assert found.interval_confidence == pytest.approx(0.995)


async def test_where_retrieval_alone_knows_the_answers_the_verdict_is_not_to_fine_tune(large_server: Server) -> None:
    found = await decide(large_server, await large_server.evaluate(chat_model=ScriptedModel(retrieval_knows)))
    assert found.recommended == pb.ARM_RAG
    assert found.headline.startswith("Retrieve, do not fine-tune")


async def test_equal_answers_everywhere_keep_the_base_model(server: Server) -> None:
    found = await decide(server, await server.evaluate(chat_model=ScriptedModel(lambda arm, messages: "the same")))
    assert found.recommended == pb.ARM_BASE
    assert "not shown to differ" in found.headline


async def test_an_arm_whose_calls_fail_is_excluded_from_the_verdict(large_server: Server) -> None:
    def script(arm: Arm, messages: Sequence[Message]) -> str | LuthierError:
        return InvalidArgumentError("too long") if arm is Arm.ADAPTER else adapter_knows(arm, messages)

    found = await decide(large_server, await large_server.evaluate(chat_model=ScriptedModel(script)))
    assert found.options[3].standing == verdict_pb2.OPTION_STANDING_EXCLUDED
    assert found.recommended == pb.ARM_ADAPTER_RAG


async def test_a_verdict_before_the_end_a_metric_without_rows_and_a_bad_preference_are_refused(server: Server) -> None:
    unfinished = (await server.create()).name
    assert error_info(await refused(decide(server, unfinished))).reason == "EVALUATION_NOT_SUCCEEDED"
    finished = await server.evaluate()
    error = await refused(decide(server, finished, metric="label_f1_macro"))
    assert error_info(error).reason == "METRIC_NOT_BY_ROW"
    assert "rouge_l" in error_info(error).metadata["known"]
    error = await refused(decide(server, finished, worth=1.5))
    assert error_info(error).metadata["field"] == "preferences.worth"
    error = await refused(decide(server, finished, max_price_per_1000=-1.0))
    assert error_info(error).metadata["field"] == "preferences.max_price_per_1000"


async def test_two_evaluations_are_compared_arm_by_arm_with_what_differs_between_them(server: Server) -> None:
    better = await server.evaluate(shot_count=2)
    worse = await server.evaluate(chat_model=ScriptedModel(lambda arm, messages: "It returns something."))
    found = await compare(server, better, worse)
    gains = {(d.arm, d.metric): d for d in found.differences}
    adapter = gains[pb.ARM_ADAPTER, "rouge_l"]
    assert adapter.reference == pb.ARM_ADAPTER
    assert adapter.interval_low > 0.3
    assert gains[pb.ARM_ADAPTER, "json_valid"].difference == 1.0
    assert (found.common_row_count, found.only_evaluation_row_count, found.only_reference_row_count) == (24, 0, 0)
    changes = {change.subject: change for change in found.changes}
    assert (changes["config.shot_count"].evaluation_value, changes["config.shot_count"].reference_value) == ("2", "3")
    assert not changes["config.shot_count"].affects_scoring


async def test_an_evaluation_compared_with_itself_differs_by_nothing(server: Server) -> None:
    name = await server.evaluate()
    found = await compare(server, name, name)
    assert {d.difference for d in found.differences} == {0.0}
    assert not any(d.interval_low > 0 or d.interval_high < 0 for d in found.differences)
    assert list(found.changes) == []


async def test_rows_that_only_one_evaluation_has_are_counted_and_left_out(server: Server) -> None:
    whole, part = await server.evaluate(), await server.evaluate(row_limit=10)
    found = await compare(server, whole, part)
    assert (found.common_row_count, found.only_evaluation_row_count, found.only_reference_row_count) == (10, 14, 0)
    assert {d.row_count for d in found.differences} == {10}


async def test_what_only_one_evaluation_has_is_named(server: Server) -> None:
    whole = await server.evaluate()
    part = await server.evaluate(arms=[pb.ARM_BASE, pb.ARM_ADAPTER])
    found = await compare(server, whole, part)
    gaps = {gap.subject: gap.reason for gap in found.not_compared}
    assert gaps["arm rag"] == "only the evaluation has it"
    assert {d.arm for d in found.differences} == {pb.ARM_BASE, pb.ARM_ADAPTER}
    assert not [gap for gap in (await compare(server, whole, whole)).not_compared if gap.subject.startswith("arm")]


async def test_a_common_row_that_failed_in_one_evaluation_stays_in_its_difference(server: Server) -> None:
    """By dropping it the evaluation that fails on what it cannot do would look the better one."""
    whole, half = await server.evaluate(), await server.evaluate(chat_model=ScriptedModel(fails_on_half))
    for first, second in ((half, whole), (whole, half)):
        found = await compare(server, first, second)
        adapter = next(d for d in found.differences if (d.arm, d.metric) == (pb.ARM_ADAPTER, "json_valid"))
        assert adapter.row_count == 24
        assert adapter.worst_difference < adapter.best_difference
        assert adapter.difference == (pytest.approx(adapter.worst_difference) if first == half else 0.0)


async def test_evaluations_of_different_rows_are_refused_with_the_names_of_both(server: Server) -> None:
    server.peers.splits["validation"] = server.blobs.put_bytes(to_split(rows(30, split="validation"))).sha256
    server.peers.counts["validation"] = 30
    holdout, validation = await server.evaluate(), await server.evaluate(split="validation")
    error = error_info(await refused(compare(server, holdout, validation)))
    assert error.reason == "EVALUATIONS_WITHOUT_COMMON_ROW"
    assert error.metadata["evaluation_rows"].endswith("revisions/r1/holdout")
    assert error.metadata["reference_rows"].endswith("revisions/r1/validation")


async def test_evaluations_of_two_tenants_are_not_compared(server: Server) -> None:
    error = await refused(compare(server, await server.evaluate(), "tenants/rival/evaluations/e1"))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
