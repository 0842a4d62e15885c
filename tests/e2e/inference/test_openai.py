"""The official OpenAI client, unchanged, against a deployment: what it can ask for, and what it hears of errors."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from luthier import AsyncClient, Endpoints
from support.inference_server import BASE, InferenceServer
from support.openai_clients import run_client

pytestmark = pytest.mark.e2e

MODEL = "helper"
MESSAGES: Any = [{"role": "user", "content": "a question"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks a word up.",
        "strict": True,
        "parameters": {"enum": [{"word": "a"}, {"word": "b"}]},
    },
}


def as_tenant(server: InferenceServer, tenant: str = "opus") -> openai.AsyncOpenAI:
    """The client of a tenant."""
    return openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{server.http_port}/v1", api_key=server.token(tenant), max_retries=0
    )


@pytest.fixture
async def client(server: InferenceServer) -> AsyncIterator[openai.AsyncOpenAI]:
    """The client of a tenant with one deployment."""
    async with AsyncClient(Endpoints(inference=f"127.0.0.1:{server.port}"), server.token("opus")) as luthier:
        revision = server.add_revision("opus", "r1", seed=71, adapter=MODEL)
        await luthier.deployments.deploy(f"tenants/opus/deployments/{MODEL}", adapter_revision=revision)
    async with as_tenant(server) as made:
        yield made


async def test_models_are_the_tenants_deployments_and_the_base_model(
    server: InferenceServer, client: openai.AsyncOpenAI
) -> None:
    mine = [model.id async for model in client.models.list()]
    async with as_tenant(server, "nobody") as other:
        theirs = [model.id async for model in other.models.list()]
    assert (mine, theirs) == ([MODEL, BASE], [BASE])


async def test_a_chat_streams_what_it_answers_whole_and_counts_its_tokens(client: openai.AsyncOpenAI) -> None:
    options: Any = {"model": MODEL, "messages": MESSAGES, "max_tokens": 8, "temperature": 0}
    whole = await client.chat.completions.create(**options)
    stream = await client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(deltas) == whole.choices[0].message.content
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 8
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 8
    assert {chunk.model for chunk in chunks} == {whole.model} == {MODEL}
    assert whole.id.startswith("chatcmpl-r-")


async def test_completions_take_several_prompts_and_give_several_choices(client: openai.AsyncOpenAI) -> None:
    answered = await client.completions.create(
        model=MODEL, prompt=["one", "two"], n=2, temperature=1, max_tokens=4, seed=3
    )
    assert [choice.index for choice in answered.choices] == [0, 1, 2, 3]
    base = await client.completions.create(model=BASE, prompt="one", max_tokens=4, temperature=0)
    assert base.model == BASE


async def test_log_probabilities_come_with_their_alternatives(client: openai.AsyncOpenAI) -> None:
    answered = await client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=4, temperature=0, logprobs=True, top_logprobs=5
    )
    told = answered.choices[0].logprobs
    assert told is not None
    assert told.content is not None
    assert [len(token.top_logprobs) for token in told.content] == [5] * 4
    assert all(token.top_logprobs[0].logprob == token.logprob for token in told.content)


async def test_a_response_format_is_kept(client: openai.AsyncOpenAI) -> None:
    schema = {"enum": [{"kind": "bug"}, {"kind": "wish"}]}
    answered = await client.chat.completions.create(
        model=MODEL,
        messages=MESSAGES,
        max_tokens=40,
        response_format={"type": "json_schema", "json_schema": {"name": "kind", "schema": schema, "strict": True}},
    )
    assert json.loads(answered.choices[0].message.content or "") in schema["enum"]


@pytest.mark.parametrize("choice", [{"type": "function", "function": {"name": "look_up"}}, "required"])
async def test_a_tool_that_must_be_called_is_called_with_arguments_of_its_schema(
    client: openai.AsyncOpenAI, choice: Any
) -> None:
    answered = await client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=200, temperature=0, tools=[TOOL], tool_choice=choice
    )
    call = (answered.choices[0].message.tool_calls or [])[0]
    assert call.type == "function"
    assert call.function.name == "look_up"
    assert json.loads(call.function.arguments) in TOOL["function"]["parameters"]["enum"]


async def test_a_tool_that_may_be_called_need_not_be(client: openai.AsyncOpenAI) -> None:
    answered = await client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=8, temperature=0, tools=[TOOL], tool_choice="auto"
    )
    assert (answered.choices[0].message.tool_calls or []) == []
    assert answered.choices[0].message.content


async def test_errors_are_those_of_openai(server: InferenceServer, client: openai.AsyncOpenAI) -> None:
    chat = client.chat.completions
    with pytest.raises(openai.NotFoundError) as unknown:
        await chat.create(model="none", messages=MESSAGES)
    with pytest.raises(openai.PermissionDeniedError):
        await chat.create(model="tenants/west/deployments/helper", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError):
        await chat.create(model=MODEL, messages=MESSAGES, temperature=-1)
    with pytest.raises(openai.BadRequestError):
        await chat.create(model=MODEL, messages=[{"role": "user", "content": "x" * 600}])
    with pytest.raises(openai.BadRequestError):
        await chat.create(
            model=MODEL,
            messages=MESSAGES,
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}},
        )
    async with openai.AsyncOpenAI(base_url=client.base_url, api_key="wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError):
            await stranger.models.list()
    with pytest.raises(openai.RateLimitError) as large:
        await chat.create(model=MODEL, messages=[{"role": "user", "content": "x" * 5_000_000}])
    assert (unknown.value.code, large.value.code) == ("DEPLOYMENT_NOT_FOUND", "BODY_TOO_LARGE")


def test_instructor_gets_its_objects_from_calls_and_from_a_response_format(server: InferenceServer) -> None:
    assert run_client("instructor", server).keys() == {"tool", "structured", "errors", "abort"}
