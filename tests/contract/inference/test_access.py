"""Who may call what: every method over a real socket."""

from __future__ import annotations

import grpc
from luthier.inference.v1 import deployment_service_pb2 as deployment_api
from luthier.inference.v1 import engine_service_pb2 as engine_api
from luthier.inference.v1 import inference_service_pb2
from luthier.inference.v1.deployment_service_pb2_grpc import DeploymentServiceStub
from luthier.inference.v1.engine_service_pb2_grpc import EngineServiceStub
from luthier.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from support.inference_calls import (
    CONFIG,
    R1,
    SUPPORT,
    TIMEOUT_S,
    ask,
    generate,
    refusal,
)
from support.inference_parts import Parts, make_parts
from support.serving import bearer, running


async def test_an_undeployed_revision_answers_only_with_the_scope_for_it() -> None:
    parts = await make_parts(R1)
    async with running(parts.service, CONFIG) as channel:
        answer = await generate(channel, ask(R1.name))
        metadata = bearer(scopes=("inference.generate",))
        refused = await refusal(
            InferenceServiceStub(channel).Generate(ask(R1.name), metadata=metadata, timeout=TIMEOUT_S)
        )
    assert (answer.text, answer.origin.deployment_revision) == ("I am acme-r1", 0)
    assert refused == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")


async def call_each(
    parts: Parts, channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...]
) -> list[tuple[str, str]]:
    """Calls every method on what does not exist, or may not be seen; method, status and reason of each refusal."""
    deployments, engine, inference = (
        DeploymentServiceStub(channel),
        EngineServiceStub(channel),
        InferenceServiceStub(channel),
    )
    target = ask().target
    turn = inference_service_pb2.Message(role="user", content="x")
    named = {"name": SUPPORT}
    calls = {
        "DeployAdapter": lambda: deployments.DeployAdapter(
            deployment_api.DeployAdapterRequest(**named, adapter_revision=R1.name), metadata=metadata
        ),
        "PromoteDeployment": lambda: deployments.PromoteDeployment(
            deployment_api.PromoteDeploymentRequest(**named), metadata=metadata
        ),
        "RollbackDeployment": lambda: deployments.RollbackDeployment(
            deployment_api.RollbackDeploymentRequest(**named), metadata=metadata
        ),
        "DeleteDeployment": lambda: deployments.DeleteDeployment(
            deployment_api.DeleteDeploymentRequest(**named), metadata=metadata
        ),
        "PinDeployment": lambda: deployments.PinDeployment(
            deployment_api.PinDeploymentRequest(**named, pinned=True), metadata=metadata
        ),
        "SetTraffic": lambda: deployments.SetTraffic(deployment_api.SetTrafficRequest(**named), metadata=metadata),
        "PrefetchDeployment": lambda: deployments.PrefetchDeployment(
            deployment_api.PrefetchDeploymentRequest(**named), metadata=metadata
        ),
        "GetDeployment": lambda: deployments.GetDeployment(
            deployment_api.GetDeploymentRequest(**named), metadata=metadata
        ),
        "StartEngine": lambda: engine.StartEngine(
            engine_api.StartEngineRequest(base_model="baseModels/none"), metadata=metadata
        ),
        "Generate": lambda: inference.Generate(ask(), metadata=metadata),
        "BatchGenerate": lambda: inference.BatchGenerate(
            inference_service_pb2.BatchGenerateRequest(target=target, inputs=[{"prompt": "x"}]), metadata=metadata
        ),
        "Score": lambda: inference.Score(
            inference_service_pb2.ScoreRequest(target=target, prompt_text="x", completion_text="y"), metadata=metadata
        ),
        "Embed": lambda: inference.Embed(
            inference_service_pb2.EmbedRequest(target=target, texts=["x"]), metadata=metadata
        ),
        "Chat": lambda: inference.Chat(
            inference_service_pb2.ChatRequest(target=target, messages=[turn]), metadata=metadata
        ),
        "GenerateStream": lambda: inference.GenerateStream(
            inference_service_pb2.GenerateStreamRequest(target=target, prompt="x"), metadata=metadata
        ).read(),
        "ChatStream": lambda: inference.ChatStream(
            inference_service_pb2.ChatStreamRequest(target=target, messages=[turn]), metadata=metadata
        ).read(),
    }
    found = []
    for method, call in calls.items():
        code, reason = await refusal(call())
        found.append((method, f"{code.name} {reason}"))
    return found


async def test_every_method_refuses_a_call_without_a_token() -> None:
    parts = await make_parts()
    async with running(parts.service, CONFIG) as channel:
        found = await call_each(parts, channel, ())
    assert {answer for _, answer in found} == {"UNAUTHENTICATED UNAUTHENTICATED"}


async def test_every_method_refuses_a_token_without_its_scope() -> None:
    parts = await make_parts()
    async with running(parts.service, CONFIG) as channel:
        found = await call_each(parts, channel, bearer(scopes=("curation.read",)))
    assert {answer for _, answer in found} == {"PERMISSION_DENIED PERMISSION_DENIED"}


async def test_every_method_refuses_another_tenants_name_whether_or_not_it_exists() -> None:
    parts = await make_parts()
    async with running(parts.service, CONFIG) as channel:
        found = dict(await call_each(parts, channel, bearer("beta")))
    del found["StartEngine"]  # base models belong to all tenants
    assert set(found.values()) == {"PERMISSION_DENIED PERMISSION_DENIED"}


async def test_every_method_says_what_does_not_exist() -> None:
    parts = await make_parts()
    async with running(parts.service, CONFIG) as channel:
        found = dict(await call_each(parts, channel, bearer()))
    assert found.pop("DeployAdapter") == "NOT_FOUND ADAPTER_REVISION_NOT_FOUND"
    assert found.pop("StartEngine") == "NOT_FOUND BASE_MODEL_NOT_FOUND"
    assert set(found.values()) == {"NOT_FOUND DEPLOYMENT_NOT_FOUND"}
