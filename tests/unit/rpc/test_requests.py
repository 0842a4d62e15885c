"""What no handler sees: messages that are none, and values that nothing can be done with."""

from __future__ import annotations

import math
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2, struct_pb2, timestamp_pb2
from google.protobuf.message import Message
from luthier.curation.v1 import dataset_pb2
from luthier.curation.v1 import dataset_service_pb2 as pb
from luthier.evaluator.v1 import evaluation_pb2, evaluation_service_pb2
from luthier.inference.v1 import feedback_pb2, feedback_service_pb2, inference_service_pb2
from luthierd.config import ServerConfig
from luthierd.errors import InvalidArgumentError
from luthierd.rpc.requests import MAX_VALUES, check_values
from support.scripted import FULL_NAME, SHAPES, scripted
from support.serving import bearer, error_info, running


def stage(**settings: Any) -> pb.CurateDatasetRequest:
    given = struct_pb2.Struct()
    given.update(settings)
    recipe = dataset_pb2.CurationRecipe(stages=[dataset_pb2.CurationStage(stage="clean", settings=given)])
    return pb.CurateDatasetRequest(recipe=recipe)


def unset_value() -> pb.CurateDatasetRequest:
    request = stage()
    request.recipe.stages[0].settings.fields["seed"].SetInParent()
    return request


def policy(**duration: int) -> feedback_service_pb2.UpdateCapturePolicyRequest:
    made = feedback_pb2.CapturePolicy(retention=duration_pb2.Duration(**duration))
    return feedback_service_pb2.UpdateCapturePolicyRequest(capture_policy=made)


def config(**fields: Any) -> evaluation_service_pb2.CreateEvaluationRequest:
    evaluation = evaluation_pb2.Evaluation(config=evaluation_pb2.EvaluationConfig(**fields))
    return evaluation_service_pb2.CreateEvaluationRequest(evaluation=evaluation)


def generation(**sampling: Any) -> inference_service_pb2.GenerateRequest:
    return inference_service_pb2.GenerateRequest(sampling=inference_service_pb2.Sampling(**sampling))


UNUSABLE: list[tuple[str, Message]] = [
    ("name", pb.GetDatasetRequest(name="tenants/acme/\0")),
    ("recipe.stages[0].stage", pb.CurateDatasetRequest(recipe={"stages": [{"stage": "a\0"}]})),
    ("recipe.stages[0].settings", stage(seed=math.nan)),
    ("recipe.stages[0].settings", stage(seed={"deep": [{"er": "\0"}]})),
    ("recipe.stages[0].settings", stage(**{"\0": 1})),
    ("recipe.stages[0].settings", unset_value()),
    ("sampling.temperature", generation(temperature=math.nan)),
    ("sampling.temperature", generation(temperature=-math.inf)),
    ("sampling.stop[1]", generation(stop=["a", "\0"])),
    ("split", pb.ReadDatasetRevisionRequest(split=999)),
    ("split", pb.ReadDatasetRevisionRequest(split=-1)),
    ("evaluation.config.arms[1]", config(arms=[1, 99])),
    ("capture_policy.retention", policy(seconds=2**63 - 1)),
    ("capture_policy.retention", policy(nanos=-(2**31))),
    ("capture_policy.retention", policy(seconds=1, nanos=-1)),
]


@pytest.mark.parametrize(("field", "request_"), UNUSABLE, ids=lambda value: value if isinstance(value, str) else "")
def test_a_value_that_nothing_can_be_done_with_names_its_field(field: str, request_: Message) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        check_values(request_)
    (violation,) = caught.value.violations
    assert violation.field.startswith(field)


USABLE: list[Message] = [
    pb.GetDatasetRequest(name="é\U0001f600\n"),
    generation(temperature=0.0, seed=-(2**63)),
    stage(seed=None, name="", more={"a": [1, True, {}]}),
    policy(seconds=315_576_000_000),
    policy(seconds=-1, nanos=-1),
    pb.ReadDatasetRevisionRequest(split=1),
    pb.ImportDatasetRequest(data=b"\0"),
]


@pytest.mark.parametrize("request_", USABLE, ids=lambda request: type(request).__name__)
def test_every_other_value_is_for_the_service_to_judge(request_: Message) -> None:
    check_values(request_)


@pytest.mark.parametrize("more", [{"stop": [""] * (MAX_VALUES + 1)}, {"choices": {"texts": [""] * MAX_VALUES}}])
def test_more_values_than_a_request_may_have_are_refused_before_they_are_checked(more: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match="more than 200,000 values"):
        check_values(generation(**more))


def test_what_only_the_server_sets_is_ignored() -> None:
    """A client may send back a resource as it was read."""
    made = feedback_pb2.CapturePolicy(update_time=timestamp_pb2.Timestamp(seconds=2**62))
    check_values(feedback_service_pb2.UpdateCapturePolicyRequest(capture_policy=made))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("data", [b"\xff", b"\x0a\xff", b"\x12\x03\xff\xff"], ids=["tag", "length", "cut off"])
async def test_bytes_that_are_no_message_are_refused_by_us(shape: str, data: bytes) -> None:
    async with running(scripted(), ServerConfig()) as channel:
        call = channel.unary_unary(f"/{FULL_NAME}/{shape}")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(data, metadata=bearer(), timeout=5)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(caught.value).metadata == {"field": "request"}
