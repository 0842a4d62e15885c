"""The contract of the inference service over a real socket, with a fake engine."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterable, Callable

import grpc
import pytest
from luthier.inference.v1 import deployment_pb2, inference_service_pb2
from luthier.inference.v1 import deployment_service_pb2 as deployment_api
from luthier.inference.v1.deployment_service_pb2_grpc import DeploymentServiceStub
from luthier.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from luthierd.inference.domain.deployment import AdapterRevision
from support.inference_calls import (
    CONFIG,
    OF_BETA,
    R1,
    R2,
    SUPPORT,
    TIMEOUT_S,
    ask,
    deploy,
    generate,
    refusal,
    state_of,
)
from support.inference_fakes import BASE, OTHER_BASE, revision
from support.inference_parts import Parts, make_parts
from support.serving import bearer, error_info, running
from support.waiting import until


async def test_a_base_model_answers_without_any_deployment() -> None:
    parts = await make_parts()
    async with running(parts.service, CONFIG) as channel:
        answer = await generate(channel, ask(BASE.name))
    assert answer.text == "I am base"
    assert (answer.origin.loaded_adapter, answer.origin.base_model) == ("base", BASE.name)
    assert (answer.finish.finish_reason, answer.finish.completion_token_count) == ("stop", 3)


async def test_a_deployment_answers_with_its_revision_and_says_so() -> None:
    parts = await make_parts(R1)
    async with running(parts.service, CONFIG) as channel:
        deployed = await deploy(channel, R1.name)
        answer = await generate(channel)
    assert answer.text == "I am acme-r1"
    assert (answer.origin.loaded_adapter, answer.origin.deployment_revision) == (R1.loaded_adapter, 1)
    assert (deployed.live.adapter_sha256, deployed.live.state) == (R1.sha256, deployment_pb2.LOADED_ADAPTER_STATE_READY)


async def test_a_stream_sends_the_origin_first_and_the_finish_last() -> None:
    parts = await make_parts(R1)
    async with running(parts.service, CONFIG) as channel:
        await deploy(channel, R1.name)
        request = inference_service_pb2.GenerateStreamRequest(target=ask().target, prompt="hi")
        call = InferenceServiceStub(channel).GenerateStream(request, metadata=bearer(), timeout=TIMEOUT_S)
        messages = [message async for message in call]
    assert "".join(message.delta for message in messages) == "I am acme-r1"
    assert messages[0].origin.loaded_adapter == messages[-1].origin.loaded_adapter == R1.loaded_adapter
    assert [message.HasField("finish") for message in messages] == [False, False, True]


async def test_a_conversation_goes_through_the_chat_template() -> None:
    parts = await make_parts(R1)
    async with running(parts.service, CONFIG) as channel:
        await deploy(channel, R1.name)
        turn = inference_service_pb2.Message(role="user", content="hello")
        stub = InferenceServiceStub(channel)
        request = inference_service_pb2.ChatRequest(target=ask().target, messages=[turn])
        answer = await stub.Chat(request, metadata=bearer(), timeout=TIMEOUT_S)
        stream = stub.ChatStream(
            inference_service_pb2.ChatStreamRequest(target=ask().target, messages=[turn]),
            metadata=bearer(),
            timeout=TIMEOUT_S,
        )
        deltas = [message.delta async for message in stream]
    assert answer.text == "".join(deltas) == "I am acme-r1"
    assert parts.engine.requests[0].prompt_ids == tuple(b"hello")


async def test_a_request_in_flight_keeps_its_loaded_adapter_while_another_goes_live() -> None:
    parts = await make_parts(R1, R2)
    async with running(parts.service, CONFIG) as channel:
        await deploy(channel, R1.name)
        parts.engine.gate.clear()
        early = asyncio.create_task(generate(channel))
        await parts.engine.began.wait()
        after = await deploy(channel, R2.name)
        await DeploymentServiceStub(channel).DeleteDeployment(
            deployment_api.DeleteDeploymentRequest(name=SUPPORT), metadata=bearer(), timeout=TIMEOUT_S
        )
        assert not [one for one in parts.engine.unloaded if one.engine_name.startswith(R1.loaded_adapter)]
        parts.engine.gate.set()
        answer = await early
        await parts.loaded_adapters.settled()
    assert after.live.adapter_revision == R2.name
    assert (answer.text, answer.origin.loaded_adapter) == ("I am acme-r1", R1.loaded_adapter)
    assert {one.engine_name.split(".")[0] for one in parts.engine.unloaded} == {R1.loaded_adapter, R2.loaded_adapter}


async def test_a_staged_revision_answers_only_after_its_promotion_and_can_be_rolled_back() -> None:
    parts = await make_parts(R1, R2)
    async with running(parts.service, CONFIG) as channel:
        stub = DeploymentServiceStub(channel)
        await deploy(channel, R1.name)
        staged = await deploy(channel, R2.name, stage_only=True)
        before = (await generate(channel)).text
        promoted = (
            await stub.PromoteDeployment(deployment_api.PromoteDeploymentRequest(name=SUPPORT), metadata=bearer())
        ).deployment
        during = (await generate(channel)).text
        rolled = (
            await stub.RollbackDeployment(deployment_api.RollbackDeploymentRequest(name=SUPPORT), metadata=bearer())
        ).deployment
        after = await generate(channel)
    assert (before, during, after.text) == ("I am acme-r1", "I am acme-r2", "I am acme-r1")
    assert (staged.candidate.adapter_revision, staged.revision) == (R2.name, 1)
    assert not promoted.HasField("candidate")
    assert (rolled.previous.adapter_revision, after.origin.deployment_revision) == (R2.name, 3)


async def test_deploying_what_is_live_changes_nothing() -> None:
    parts = await make_parts(R1)
    async with running(parts.service, CONFIG) as channel:
        first = await deploy(channel, R1.name)
        second = await deploy(channel, R1.name)
    assert (first.etag, first.revision) == (second.etag, second.revision)


async def test_the_same_request_id_deploys_once() -> None:
    parts = await make_parts(R1, R2)
    request_id = str(uuid.uuid4())
    async with running(parts.service, CONFIG) as channel:
        first = await deploy(channel, R1.name, request_id=request_id)
        await deploy(channel, R2.name)
        again = await deploy(channel, R1.name, request_id=request_id)
        now = await generate(channel)
    assert (first.etag, first.revision) == (again.etag, again.revision)
    assert now.text == "I am acme-r2"


async def test_equal_names_of_two_tenants_are_two_deployments_with_salts_of_their_own() -> None:
    parts = await make_parts(R1, OF_BETA)
    of_beta = SUPPORT.replace("acme", "beta")
    async with running(parts.service, CONFIG) as channel:
        await deploy(channel, R1.name)
        await deploy(channel, OF_BETA.name, name=of_beta, tenant="beta")
        texts = [(await generate(channel)).text, (await generate(channel, ask(of_beta), tenant="beta")).text]
        await generate(channel, ask(BASE.name))
        await generate(channel, ask(BASE.name), tenant="beta")
        listed = await DeploymentServiceStub(channel).ListDeployments(
            deployment_api.ListDeploymentsRequest(parent="tenants/beta"), metadata=bearer("beta"), timeout=TIMEOUT_S
        )
    assert texts == ["I am acme-r1", "I am beta-r1"]
    assert len({request.cache_salt for request in parts.engine.requests}) == 4
    assert [one.name for one in listed.deployments] == [of_beta]


async def test_equal_weights_of_two_tenants_are_loaded_once_and_their_caches_stay_apart() -> None:
    mine, theirs = revision("r1", content="same"), revision("r9", tenant="beta", content="same")
    parts = await make_parts(mine, theirs)
    of_beta = SUPPORT.replace("acme", "beta")
    async with running(parts.service, CONFIG) as channel:
        await deploy(channel, mine.name)
        await deploy(channel, theirs.name, name=of_beta, tenant="beta")
        await generate(channel)
        await generate(channel, ask(of_beta), tenant="beta")
        await DeploymentServiceStub(channel).DeleteDeployment(
            deployment_api.DeleteDeploymentRequest(name=SUPPORT), metadata=bearer(), timeout=TIMEOUT_S
        )
        still = await generate(channel, ask(of_beta), tenant="beta")
    assert len(parts.engine.loaded) == 1
    assert len({request.cache_salt for request in parts.engine.requests[:2]}) == 2
    assert still.origin.adapter_revision == theirs.name


async def test_adapters_that_no_deployment_holds_make_room_for_each_other() -> None:
    revisions = [revision(f"r{number}") for number in range(1, 5)]
    parts = await make_parts(*revisions, max_unheld_adapters=2)
    async with running(parts.service, CONFIG) as channel:
        for one in revisions:
            assert (await generate(channel, ask(one.name))).origin.loaded_adapter == one.loaded_adapter
    assert len(parts.engine.loaded) == 2
    assert len({adapter.number for adapter in parts.engine.unloaded}) == 2


BAD = revision("r7")


@pytest.mark.parametrize(
    ("stage", "spoil", "bad", "cause"),
    [
        ("fetch", lambda parts: parts.files.missing.add(BAD.sha256), BAD, "BLOB_NOT_FOUND"),
        ("verify", lambda parts: parts.files.broken.add(BAD.sha256), BAD, "ADAPTER_NOT_FINITE"),
        ("load", lambda parts: None, revision("refused"), "ADAPTER_INVALID"),
        ("parity_check", lambda parts: parts.parity.refused.add("acme-r7"), BAD, "ADAPTER_HAS_NO_EFFECT"),
    ],
    ids=["fetch", "verify", "load", "parity_check"],
)
async def test_a_deployment_that_fails_names_the_stage_and_changes_nothing(
    stage: str, spoil: Callable[[Parts], None], bad: AdapterRevision, cause: str
) -> None:
    parts = await make_parts(R2, bad)
    spoil(parts)
    async with running(parts.service, CONFIG) as channel:
        before = await deploy(channel, R2.name)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await deploy(channel, bad.name)
        answer = await generate(channel)
        after = await DeploymentServiceStub(channel).GetDeployment(
            deployment_api.GetDeploymentRequest(name=SUPPORT), metadata=bearer(), timeout=TIMEOUT_S
        )
    info = error_info(caught.value)
    assert (caught.value.code(), info.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "DEPLOY_FAILED")
    assert (info.metadata["stage"], info.metadata["cause"]) == (stage, cause)
    assert (answer.text, after.deployment.etag) == ("I am acme-r2", before.etag)
    assert [one.folder.name for one in parts.engine.loaded.values()] == ["acme-r2"]
    assert parts.loaded_adapters.get(bad) is None


async def test_a_stale_etag_is_refused() -> None:
    parts = await make_parts(R1, R2)
    async with running(parts.service, CONFIG) as channel:
        first = await deploy(channel, R1.name)
        await deploy(channel, R2.name, etag=first.etag)
        stub = DeploymentServiceStub(channel)
        refusals = [
            await refusal(deploy(channel, R1.name, etag=first.etag)),
            await refusal(
                stub.RollbackDeployment(
                    deployment_api.RollbackDeploymentRequest(name=SUPPORT, etag=first.etag), metadata=bearer()
                )
            ),
            await refusal(
                stub.DeleteDeployment(
                    deployment_api.DeleteDeploymentRequest(name=SUPPORT, etag=first.etag), metadata=bearer()
                )
            ),
        ]
    assert set(refusals) == {(grpc.StatusCode.ABORTED, "ETAG_MISMATCH")}


async def test_another_base_model_than_the_engine_holds_is_refused() -> None:
    elsewhere = revision("r7", base=OTHER_BASE)
    same_files = revision("r8", content="acmer1", base=OTHER_BASE)
    assert same_files.sha256 == R1.sha256
    parts = await make_parts(R1, elsewhere, same_files)
    async with running(parts.service, CONFIG) as channel:
        await deploy(channel, R1.name)
        refusals = [
            await refusal(deploy(channel, elsewhere.name)),
            await refusal(deploy(channel, same_files.name)),
            await refusal(generate(channel, ask(OTHER_BASE.name))),
        ]
    assert set(refusals) == {(grpc.StatusCode.FAILED_PRECONDITION, "ENGINE_HOLDS_OTHER_BASE_MODEL")}


async def test_a_restarted_server_serves_what_was_deployed() -> None:
    parts = await make_parts(R1, R2)
    async with running(parts.service, CONFIG) as channel:
        await deploy(channel, R1.name)
        before = await deploy(channel, R2.name)
    again = await make_parts(R1, R2, store=parts.store)
    async with running(again.service, CONFIG) as channel:
        await until(lambda: state_of(again) == "READY")
        answer = await generate(channel)
        after = await DeploymentServiceStub(channel).GetDeployment(
            deployment_api.GetDeploymentRequest(name=SUPPORT), metadata=bearer(), timeout=TIMEOUT_S
        )
    assert answer.text == "I am acme-r2"
    assert (after.deployment.etag, after.deployment.previous.adapter_revision) == (before.etag, R1.name)


async def test_a_cancelled_stream_returns_its_lease_and_stops_the_engine() -> None:
    parts = await make_parts(R1)
    async with running(parts.service, CONFIG) as channel:
        await deploy(channel, R1.name)
        parts.engine.gate.clear()
        request = inference_service_pb2.GenerateStreamRequest(target=ask().target, prompt="hi")
        call = InferenceServiceStub(channel).GenerateStream(request, metadata=bearer(), timeout=TIMEOUT_S)
        await call.read()
        await parts.engine.began.wait()
        call.cancel()
        await until(lambda: parts.engine.aborted > 0)
        loaded_adapter = parts.loaded_adapters.get(R1)
    assert loaded_adapter is not None
    assert loaded_adapter.lease_count == 0


async def whole(stream: AsyncIterable[object]) -> list[object]:
    """All messages of a stream."""
    return [message async for message in stream]


@pytest.mark.parametrize("method", ["Generate", "GenerateStream", "BatchGenerate"])
@pytest.mark.parametrize("end", ["deadline", "cancel", "limit"])
async def test_a_call_that_is_over_before_its_answer_frees_its_slots_in_the_engine(method: str, end: str) -> None:
    parts = await make_parts(R1, max_answer_s=0.2 if end == "limit" else 600.0)
    requests = {
        "Generate": ask(),
        "GenerateStream": inference_service_pb2.GenerateStreamRequest(target=ask().target, prompt="hi"),
        "BatchGenerate": inference_service_pb2.BatchGenerateRequest(
            target=ask().target, inputs=[{"prompt": "x"}, {"prompt": "y"}]
        ),
    }
    async with running(parts.service, CONFIG) as channel, asyncio.timeout(TIMEOUT_S):
        await deploy(channel, R1.name)
        parts.engine.gate.clear()
        timeout_s = 0.2 if end == "deadline" else 600.0
        call = getattr(InferenceServiceStub(channel), method)(requests[method], metadata=bearer(), timeout=timeout_s)
        await parts.engine.began.wait()
        if end == "cancel":
            call.cancel()
        await parts.engine.stopped.wait()
        await until(lambda: parts.engine.aborted == len(parts.engine.requests))
        loaded_adapter = parts.loaded_adapters.get(R1)
        assert loaded_adapter is not None
        await until(lambda: loaded_adapter.lease_count == 0)
        with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):  # a status comes after all messages
            await (whole(call) if method == "GenerateStream" else call)
        code = await call.code()
    assert code is (grpc.StatusCode.CANCELLED if end == "cancel" else grpc.StatusCode.DEADLINE_EXCEEDED)


async def test_a_full_server_refuses_at_once_with_a_time_to_come_back() -> None:
    parts = await make_parts(R1, max_in_flight=1)
    async with running(parts.service, CONFIG) as channel:
        await deploy(channel, R1.name)
        parts.engine.gate.clear()
        first = asyncio.create_task(generate(channel))
        await parts.engine.began.wait()
        refused = await refusal(generate(channel))
        parts.engine.gate.set()
        assert (await first).text == "I am acme-r1"
    assert refused == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (inference_service_pb2.GenerateRequest(prompt="x"), "target"),
        (ask("baseModels/Tiny!"), "target.base_model"),
        (ask(prompt=""), "prompt"),
        (ask(prompt="x" * 64), "prompt"),
        (ask(sampling=inference_service_pb2.Sampling(max_tokens=0)), "sampling.max_tokens"),
        (ask(sampling=inference_service_pb2.Sampling(temperature=-1)), "sampling.temperature"),
        (ask(sampling=inference_service_pb2.Sampling(top_p=0)), "sampling.top_p"),
        (ask(sampling=inference_service_pb2.Sampling(stop=[""])), "sampling.stop"),
        (ask(sampling=inference_service_pb2.Sampling(seed=-4)), "sampling.seed"),
    ],
)
async def test_a_bad_request_is_refused_by_field(request_: inference_service_pb2.GenerateRequest, field: str) -> None:
    parts = await make_parts(R1)
    async with running(parts.service, CONFIG) as channel:
        await deploy(channel, R1.name)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await generate(channel, request_)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in caught.value.details() or error_info(caught.value).reason == "PROMPT_TOO_LONG"


@pytest.mark.parametrize(
    "messages", [[], [("robot", "x")], [("user", "x"), ("assistant", "y")]], ids=["none", "role", "last"]
)
async def test_a_bad_conversation_is_refused(messages: list[tuple[str, str]]) -> None:
    parts = await make_parts()
    turns = [inference_service_pb2.Message(role=role, content=content) for role, content in messages]
    async with running(parts.service, CONFIG) as channel:
        request = inference_service_pb2.ChatRequest(target=ask(BASE.name).target, messages=turns)
        refused = await refusal(InferenceServiceStub(channel).Chat(request, metadata=bearer(), timeout=TIMEOUT_S))
    assert refused == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")


async def test_deployments_are_listed_in_pages() -> None:
    parts = await make_parts(R1)
    names = [f"tenants/acme/deployments/d{number}" for number in range(5)]
    async with running(parts.service, CONFIG) as channel:
        for name in names:
            await deploy(channel, R1.name, name=name)
        stub, token, found = DeploymentServiceStub(channel), "", []
        while True:
            page = await stub.ListDeployments(
                deployment_api.ListDeploymentsRequest(parent="tenants/acme", page_size=2, page_token=token),
                metadata=bearer(),
            )
            found += [one.name for one in page.deployments]
            if not (token := page.next_page_token):
                break
    assert found == names
