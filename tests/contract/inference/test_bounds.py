"""A request larger than its seat: bounded before it costs anything, and computed in parts. Over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest
from luthier.inference.v1 import inference_service_pb2 as api
from luthier.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from luthierd.config import ServerConfig
from luthierd.inference.config import InferenceConfig
from luthierd.inference.domain.completion import Sampling
from luthierd.inference.engine.engine import EngineRequest, OpenAIApplication, OpenAICall
from luthierd.inference.http.server import HttpServer
from support.inference_fakes import BASE, TIMEOUT_S, FakeEngine
from support.inference_parts import Parts, make_parts
from support.serving import bearer, error_info, running
from support.waiting import until

TARGET = api.Target(base_model=BASE.name)
SLOTS = 6
HUGE = "x" * 3_000_000


def completions(engine: FakeEngine) -> OpenAIApplication:
    """Sends the engine each prompt of a body with all its choices, all at once, as vLLM's application does."""

    async def application(call: OpenAICall, send: Any) -> None:
        body = call.body

        async def answer(index: int) -> None:
            sampling = Sampling(choice_count=body.get("n", 1))
            request = EngineRequest(
                request_id=f"{call.response_id}.{index}",
                prompt_ids=(1,),
                sampling=sampling,
                adapter=None,
                cache_salt="x",
            )
            async with (
                call.take_slot(prompt_token_count=1, max_answer_token_count=8, slot_count=sampling.choice_count),
                contextlib.aclosing(engine.generate(request)) as deltas,
            ):
                async for _ in deltas:
                    pass

        prompts = body["prompt"] if isinstance(body.get("prompt"), list) else [body]
        async with asyncio.TaskGroup() as group:
            for index in range(len(prompts)):
                group.create_task(answer(index))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    return application


@contextlib.asynccontextmanager
async def served(**options: Any) -> AsyncIterator[tuple[Parts, InferenceServiceStub, httpx.AsyncClient]]:
    """The service with its engine started, over gRPC and HTTP."""
    parts = await make_parts(
        application=completions, **{"max_num_seqs": SLOTS, "max_http_body_bytes": 2**23, **options}
    )
    http = HttpServer(parts.front, InferenceConfig(grace_s=2))
    async with running(parts.service, ServerConfig()) as channel:
        serving = asyncio.create_task(http.run())
        await parts.host.engine_for(BASE)
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{http.port}", timeout=TIMEOUT_S) as client:
                yield parts, InferenceServiceStub(channel), client
        finally:
            await http.close()
            serving.cancel()


async def generate(stub: InferenceServiceStub, prompt: str, tenant: str = "acme", **sampling: Any) -> Any:
    request = api.GenerateRequest(target=TARGET, prompt=prompt, sampling=api.Sampling(**sampling))
    return await stub.Generate(request, metadata=bearer(tenant), timeout=TIMEOUT_S)


async def post(client: httpx.AsyncClient, path: str = "/v1/completions", tenant: str = "acme", **body: Any) -> Any:
    return await client.post(path, json={"model": BASE.name, **body}, headers=dict(bearer(tenant)))


TURN = api.Message(role="user", content="x" * 40)
TOO_LONG = {
    "Generate": api.GenerateRequest(target=TARGET, prompt=HUGE),
    "Chat": api.ChatRequest(target=TARGET, messages=[TURN] * 2),
    "Score": api.ScoreRequest(target=TARGET, prompt_text="x", completion_text=HUGE),
    "Embed": api.EmbedRequest(target=TARGET, texts=[HUGE]),
}


@pytest.mark.parametrize("method", TOO_LONG)
async def test_a_prompt_that_cannot_fit_is_refused_before_it_is_tokenised(method: str) -> None:
    async with served() as (parts, stub, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(stub, method)(TOO_LONG[method], metadata=bearer(), timeout=TIMEOUT_S)
    assert (caught.value.code(), error_info(caught.value).reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "PROMPT_TOO_LONG",
    )
    assert max(map(len, parts.engine.tokenized), default=0) < 64


async def test_an_input_of_a_batch_that_cannot_fit_fails_alone_and_is_not_tokenised() -> None:
    async with served() as (parts, stub, _):
        batch = api.BatchGenerateRequest(target=TARGET, inputs=[{"prompt": HUGE}, {"prompt": "x"}])
        found = await stub.BatchGenerate(batch, metadata=bearer(), timeout=TIMEOUT_S)
    assert [one.WhichOneof("result") for one in found.results] == ["error", "answer"]
    assert parts.engine.tokenized == ["x"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": HUGE}),
        ("/v1/completions", {"prompt": ["x", HUGE]}),
        ("/v1/completions", {"prompt": [1] * 65}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 40}] * 2}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "text", "text": HUGE}]}]}),
        (
            "/v1/chat/completions",
            {
                "messages": [{"role": "user", "content": "x"}],
                "tools": [{"function": {"name": "f", "description": HUGE}}],
            },
        ),
    ],
    ids=["text", "texts", "tokens", "messages", "parts", "tools"],
)
async def test_over_http_the_application_never_sees_a_prompt_that_cannot_fit(path: str, body: dict[str, Any]) -> None:
    async with served() as (parts, _, client):
        found = await post(client, path, **body)
    assert (found.status_code, parts.engine.requests) == (400, [])
    assert found.json()["error"]["message"].startswith("the prompt has ")


async def test_many_prompts_with_many_choices_are_computed_in_parts_that_fit_the_batch() -> None:
    async with served() as (parts, _, client):
        found = await post(client, prompt=["x"] * 64, n=4)
        theirs = await post(client, tenant="beta", prompt="x")
    assert (found.status_code, theirs.status_code) == (200, 200)
    assert sum(one.sampling.choice_count for one in parts.engine.requests) == 64 * 4 + 1
    assert parts.engine.most_running <= SLOTS


async def test_a_tenant_s_many_prompts_leave_the_slots_of_another_s() -> None:
    async with served(spare_batch=3) as (parts, stub, client):
        parts.engine.gate.clear()
        flood = asyncio.create_task(post(client, prompt=["x"] * 64, n=2))
        await until(lambda: parts.admission.load("acme").waiting_count == 61)
        theirs = asyncio.create_task(generate(stub, "mine", "beta"))
        await until(lambda: any(one.tenant == "beta" for one in parts.engine.requests))
        parts.engine.gate.set()
        await theirs
        assert (await flood).status_code == 200


async def test_more_choices_than_slots_are_refused_by_name() -> None:
    async with served() as (_, stub, client):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await generate(stub, "x", choice_count=SLOTS + 1, temperature=1)
        found = await post(client, prompt="x", n=SLOTS + 1)
    assert error_info(caught.value).metadata["field"] == "sampling.choice_count"
    assert (found.status_code, found.json()["error"]["param"]) == (400, "n")


async def test_a_batch_is_computed_in_parts_that_fit_the_batch_of_the_engine() -> None:
    async with served() as (parts, stub, _):
        batch = api.BatchGenerateRequest(target=TARGET, inputs=[{"prompt": "x"}] * 64)
        await stub.BatchGenerate(batch, metadata=bearer(), timeout=TIMEOUT_S)
    assert parts.engine.most_running <= SLOTS


async def test_while_a_tenant_s_prompts_are_tokenised_others_are_answered() -> None:
    async with served() as (parts, stub, client):
        parts.engine.reading_gate.clear()
        slow = [asyncio.create_task(generate(stub, "slow")) for _ in range(12)]
        await until(lambda: "slow" in parts.engine.tokenized)
        await generate(stub, "quick", "beta")
        assert (await post(client, tenant="beta", prompt="x")).status_code == 200
        assert parts.engine.tokenized.count("slow") == 1
        parts.engine.reading_gate.set()
        await asyncio.gather(*slow)


async def test_a_caller_who_leaves_before_its_turn_is_never_read() -> None:
    async with served() as (parts, stub, _):
        parts.engine.reading_gate.clear()
        first = asyncio.create_task(generate(stub, "slow"))
        await until(lambda: parts.engine.tokenized == ["slow"])
        gone = asyncio.create_task(generate(stub, "gone"))
        await until(lambda: parts.admission.load("acme").running_count == 2)
        gone.cancel()
        await until(lambda: parts.admission.load("acme").running_count == 1)
        parts.engine.reading_gate.set()
        await first
        await generate(stub, "next")
    assert parts.engine.tokenized == ["slow", "next"]


async def test_reading_a_prompt_is_charged_before_it_is_done() -> None:
    async with served(quota_tokens_per_minute=60) as (parts, stub, _):
        parts.engine.reading_gate.clear()
        slow = asyncio.create_task(generate(stub, "slow", max_tokens=30))
        await until(lambda: parts.engine.tokenized == ["slow"])
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await generate(stub, "x" * 36, max_tokens=24)
        assert error_info(caught.value).reason == "QUOTA_EXCEEDED"
        parts.engine.reading_gate.set()
        await slow
    assert parts.engine.tokenized == ["slow"]
