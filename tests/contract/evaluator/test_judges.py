"""What an evaluation may be told of metrics, judges and tasks, over a real server; and what it answers."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest
from luthier.evaluator.v1 import metrics_pb2 as measuring
from support.evaluator_service import Server
from support.serving import error_info

DEPLOYMENT = "tenants/acme/deployments/support"


async def refusal(server: Server, **config: Any) -> tuple[grpc.StatusCode, str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.create(**config)
    return caught.value.code(), error_info(caught.value).reason, caught.value.details() or ""


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"metrics": ["rouge"]}, "metrics[0]"),
        ({"metrics": ["bleu", "bleu"]}, "metrics"),
        ({"metrics": ["pairwise"], "arms": [4]}, "metrics"),
        ({"metrics": ["forgetting_likelihood"]}, "metrics"),
        ({"metrics": ["rubric"]}, "rubric"),
        ({"task": measuring.TASK_KIND_RUBRIC}, "rubric"),
        ({"rubric": [{"name": "Tone", "description": "x"}]}, "rubric[0].name"),
        ({"rubric": [{"name": "tone", "description": "x", "scale": 1}]}, "rubric[0].scale"),
        ({"json_schema": '{"type": "strin"}'}, "json_schema"),
        ({"json_schema": '{"$ref": "http://127.0.0.1:1/"}'}, "json_schema"),
        ({"metrics": ["json_schema_valid"]}, "json_schema"),
        ({"judge": {"target": "baseModels/tiny", "max_tokens": 1}}, "judge.max_tokens"),
        ({"judge": {"target": "baseModels/tiny", "model": "m"}}, "judge.model"),
        ({"repeat_count": 1}, "repeat_count"),
        ({"repeat_temperature": 0.0}, "repeat_temperature"),
        ({"task": measuring.TASK_KIND_PREFERENCE, "metrics": ["consistency_repeats"]}, "metrics"),
    ],
)
async def test_what_cannot_be_measured_is_refused_by_its_field(server: Server, config: Any, field: str) -> None:
    code, reason, message = await refusal(server, **config)
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert f"evaluation.config.{field}" in message


async def test_a_judge_that_is_the_adapter_under_test_is_refused(server: Server) -> None:
    server.peers.deployed[DEPLOYMENT] = ["tenants/acme/adapters/docs/revisions/r7"]
    code, reason, _ = await refusal(server, judge={"target": DEPLOYMENT})
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "JUDGE_IS_GENERATOR")
    server.peers.deployed[DEPLOYMENT] = ["tenants/acme/adapters/other/revisions/r1"]
    assert (await server.create(judge={"target": DEPLOYMENT})).config.judge.target == DEPLOYMENT


async def test_an_endpoint_that_the_operator_did_not_allow_is_refused(server: Server) -> None:
    code, reason, _ = await refusal(server, judge={"endpoint": "somewhere"})
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "ENDPOINT_NOT_FOUND")


async def test_a_judge_of_another_tenant_is_refused(server: Server) -> None:
    code, _, _ = await refusal(server, judge={"target": "tenants/rival/deployments/support"})
    assert code is grpc.StatusCode.PERMISSION_DENIED


async def test_labels_are_reported_by_class_with_their_confusions(server: Server) -> None:
    found = await server.get(await server.evaluate())
    arm = next(one for one in found.arms if one.labels.classes)
    assert [one.label for one in arm.labels.classes] == ["linalg", "stats"]
    assert sum(cell.count for cell in arm.labels.confusion) == arm.row_count
    assert 0 <= arm.labels.precision_macro <= 1
    assert not found.HasField("judge_report")


async def test_an_extraction_is_scored_by_schema_and_by_field(server: Server) -> None:
    schema = json.dumps({"type": "object", "required": ["summary", "module"]})
    name = await server.evaluate(task=measuring.TASK_KIND_EXTRACTION, json_schema=schema)
    found = {value.metric: value.mean for arm in (await server.get(name)).arms if arm.arm == 4 for value in arm.metrics}
    assert found["json_schema_valid"] == found["field_f1"] == 1.0
