"""Our own inference service as a judge and as what chooses, over a real channel."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from luthier.client import AsyncClient
from luthier.endpoints import Endpoints
from luthierd.evaluator.api.peers import InferenceModel, SdkChat
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.rows import Message
from luthierd.evaluator.graders.judge import Judge, JudgeError
from luthierd.evaluator.graders.judge_models import InferenceJudge
from luthierd.evaluator.scorers.judged import StyleGrade
from support import canned
from support.canned import Canned
from support.grading import MemoryJudgementStore

BASE, TESTED = "baseModels/tiny", "tenants/acme/adapters/docs"


def endpoints(address: str) -> Endpoints:
    return Endpoints(curation=address, trainer=address, evaluator=address, inference=address)


def judge(client: AsyncClient) -> Judge:
    model = InferenceJudge(BASE, "d" * 64, {TESTED}, 64, SdkChat(client, timeout_s=5.0))
    return Judge(model=model, store=MemoryJudgementStore())


async def test_the_base_model_judges_in_the_form_that_the_engine_enforces() -> None:
    service = Canned()
    service.answers["Chat"] = {"text": '{"grade": 3}', "origin": {"loaded_adapter": "g1", "base_model": BASE}}
    async with canned.serving(service) as address, AsyncClient(endpoints(address), token="t") as client:
        found = await judge(client).ask("How alike?", StyleGrade)
    assert found.grade == 3
    asked = service.asked["Chat"][0]
    assert asked.target.base_model == BASE
    assert '"grade"' in asked.sampling.json_schema


async def test_an_answer_of_the_adapter_under_test_is_no_judgement() -> None:
    service = Canned()
    origin = {"loaded_adapter": "g1", "adapter_revision": f"{TESTED}/revisions/r9"}
    service.answers["Chat"] = {"text": '{"grade": 5}', "origin": origin}
    async with canned.serving(service) as address, AsyncClient(endpoints(address), token="t") as client:
        with pytest.raises(JudgeError, match="JUDGE_IS_GENERATOR"):
            await judge(client).ask("How alike?", StyleGrade)


async def test_an_engine_that_enforces_no_form_is_asked_without() -> None:
    service = Canned()
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason="ENGINE_CANNOT_STRUCTURE", domain="inference.luthier.dev"))
    refusal = status_pb2.Status(code=grpc.StatusCode.FAILED_PRECONDITION.value[0], message="no", details=[detail])
    details = (("grpc-status-details-bin", refusal.SerializeToString()),)
    service.answers["Chat"] = (grpc.StatusCode.FAILED_PRECONDITION, "no", details)
    async with canned.serving(service) as address, AsyncClient(endpoints(address), token="t") as client:
        with pytest.raises(JudgeError, match="JUDGE_ENGINE_CANNOT_STRUCTURE"):
            await judge(client).ask("How alike?", StyleGrade)
    assert [bool(asked.sampling.json_schema) for asked in service.asked["Chat"]] == [True, False]


async def test_the_likelihood_of_a_choice_comes_from_score() -> None:
    service = Canned()
    service.answers["Score"] = {"total_logprob": -3.0, "tokens": [{}, {}, {}], "prompt_token_count": 9}
    async with canned.serving(service) as address, AsyncClient(endpoints(address), token="t") as client:
        chat_model = InferenceModel(client, lambda arm: BASE, timeout_s=5.0)
        found = await chat_model.likelihood(Arm.BASE, [Message("user", "Which?")], "Paris")
    assert (found.for_each_token, found.prompt_tokens) == (-1.0, 9)
    assert service.asked["Score"][0].completion_text == "Paris"
