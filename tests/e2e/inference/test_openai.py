"""The official OpenAI client, unchanged, against a deployment: what it can ask for, and what it hears of errors."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
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
    with pytest.raises(openai.BadRequestError) as long:
        await chat.create(model=MODEL, messages=[{"role": "user", "content": "x" * 600}])
    assert (long.value.code, long.value.param) == ("context_length_exceeded", "messages")
    with pytest.raises(openai.BadRequestError):
        await chat.create(
            model=MODEL,
            messages=MESSAGES,
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}},
        )
    async with openai.AsyncOpenAI(base_url=client.base_url, api_key="wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError):
            await stranger.models.list()
    with pytest.raises(openai.APIStatusError) as large:
        await chat.create(model=MODEL, messages=[{"role": "user", "content": "x" * 5_000_000}])
    assert (unknown.value.code, large.value.code) == ("model_not_found", "BODY_TOO_LARGE")
    assert large.value.status_code == 413


async def test_a_response_streams_what_it_answers_whole_and_is_not_stored(client: openai.AsyncOpenAI) -> None:
    options: Any = {"model": MODEL, "input": "a question", "instructions": "be brief"}
    options |= {"max_output_tokens": 8, "temperature": 0}
    whole = await client.responses.create(**options)
    stream = await client.responses.create(**options, stream=True)
    events = [event async for event in stream]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text != ""
    assert events[-1].type in ("response.completed", "response.incomplete")
    assert whole.usage is not None
    assert (whole.usage.output_tokens, whole.model, whole.id[:7]) == (8, MODEL, "resp_r-")
    with pytest.raises(openai.BadRequestError) as stored:
        await client.responses.create(**options, previous_response_id=whole.id)
    assert stored.value.param == "previous_response_id"


async def test_embeddings_and_tokens_of_a_text_belong_together(
    server: InferenceServer, client: openai.AsyncOpenAI
) -> None:
    headers = {"authorization": f"Bearer {server.token('opus')}"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.http_port}", headers=headers) as http:
        tokens = (await http.post("/tokenize", json={"model": MODEL, "prompt": "a text"})).json()
        chat = (await http.post("/v1/tokenize", json={"model": MODEL, "messages": MESSAGES})).json()
        text = (await http.post("/v1/detokenize", json={"model": MODEL, "tokens": tokens["tokens"]})).json()
        unknown = await http.post("/detokenize", json={"model": MODEL, "tokens": [2**31 - 1]})
    assert (tokens["count"], tokens["max_model_len"]) == (len(tokens["tokens"]), 512)
    assert chat["count"] > 0
    assert "a text" in text["prompt"]
    assert unknown.status_code in (200, 400)
    made = [await client.embeddings.create(model=MODEL, input=given) for given in ("a text", tokens["tokens"])]
    assert made[0].data[0].embedding == made[1].data[0].embedding
    assert made[0].usage.prompt_tokens == tokens["count"]


async def test_tokens_of_a_prompt_that_were_cached_are_counted(client: openai.AsyncOpenAI) -> None:
    asked: Any = {"model": MODEL, "prompt": "the same long question " * 12, "max_tokens": 2}
    first, second = [(await client.completions.create(**asked)).usage for _ in range(2)]
    assert first is not None
    assert second is not None
    assert second.prompt_tokens_details is not None
    assert (second.prompt_tokens_details.cached_tokens or 0) >= 128
    assert not (first.prompt_tokens_details and first.prompt_tokens_details.cached_tokens)


HOSTILE: list[dict[str, Any]] = [
    {"structured_outputs": {"json": 3}},
    {"structured_outputs": {"choice": []}},
    {"structured_outputs": {"choice": "yes"}},
    {"structured_outputs": {"regex": "("}},
    {"structured_outputs": {"grammar": 3}},
    {"structured_outputs": {"json": "{"}},
    {"structured_outputs": {"bogus": 1}},
    {"structured_outputs": {}},
    {"response_format": {}},
    {"response_format": {"type": 3}},
    {"response_format": {"type": "json_schema"}},
    {"response_format": {"type": "json_schema", "json_schema": 3}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": "y"}}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": 3}}}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#/nowhere"}}}},
    {"tools": [{"function": {"name": "f", "parameters": {"type": 3}}}], "tool_choice": "required"},
    {"tools": [{"function": {"name": "f"}}], "tool_choice": {"type": "function", "function": {"name": "g"}}},
    {"tools": [{"function": {"name": "f"}}], "tool_choice": {"type": "function"}},
    {"tools": [{"function": {"name": "f"}}], "tool_choice": {}},
    {"tool_choice": "required"},
    {"logit_bias": {"x": 1}},
    {"logit_bias": {"999999": 1}},
    {"stop_token_ids": [2**31 - 1]},
    {"allowed_token_ids": []},
    {"allowed_token_ids": [2**31 - 1]},
    {"logprob_token_ids": [2**31 - 1], "logprobs": True},
    {"bad_words": ["\u200b"]},
    {"min_tokens": 100},
    {"top_logprobs": 5},
    {"prompt_logprobs": 20, "stream": True},
    {"truncate_prompt_tokens": 2**31 - 1},
    {"truncate_prompt_tokens": 0},
    {"chat_template_kwargs": {"chat_template": "x"}},
    {"chat_template_kwargs": {"tokenize": False, "messages": 3}},
    {"continue_final_message": True},
    {"add_generation_prompt": True, "continue_final_message": True},
    {"repetition_detection": {"max_pattern_size": "x"}},
    {"thinking_token_budget": 5},
    {"reasoning_effort": "x"},
    {"seed": -(2**63)},
    {"seed": 2**63 - 1},
    {"max_tokens": 2**31 - 1},
    {"stream_options": {"include_usage": True}},
    {"documents": [{"a": "b"}]},
    {"messages": [{"role": "tool", "content": "x"}]},
    {"messages": [{"role": "user"}]},
    {"messages": [{"role": "assistant", "content": None}]},
    {"messages": [{"role": "user", "content": []}]},
    {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
    {"messages": [{"role": "user", "content": [{"type": "refusal", "text": "x"}]}]},
    {"messages": [{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{"}}]}]},
    {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}]},
]
HOSTILE_RESPONSES: list[dict[str, Any]] = [
    {"input": [{}]},
    {"input": [{"type": "bogus"}]},
    {"input": [{"type": "function_call"}]},
    {"input": [{"type": "function_call_output", "call_id": 3, "output": []}]},
    {"input": [{"type": "reasoning", "summary": 3}]},
    {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
    {"text": {"format": {"type": "json_schema"}}},
    {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": 3}}}},
    {"text": {"format": 3}},
    {"text": {"verbosity": "x"}},
    {"reasoning": {"effort": 3}},
    {"include": ["bogus"]},
    {"tools": [{"type": "function", "name": "f"}], "tool_choice": {"type": "function", "name": "g"}},
    {"tool_choice": {"type": "bogus"}},
    {"top_logprobs": 20},
]


async def test_whatever_a_body_has_is_answered_or_refused_by_its_field(
    server: InferenceServer, client: openai.AsyncOpenAI
) -> None:
    headers = {"authorization": f"Bearer {server.token('opus')}"}
    chats = [("chat/completions", {"messages": MESSAGES, "max_tokens": 1, **more}) for more in HOSTILE]
    responses = [("responses", {"input": "x", "max_output_tokens": 1, **more}) for more in HOSTILE_RESPONSES]
    prompts = [("completions", {"max_tokens": 1, "prompt": prompt}) for prompt in ([2**31 - 1], [[]], "", [0] * 600)]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.http_port}/v1", headers=headers) as http:
        for path, body in [*chats, *responses, *prompts]:
            answer = await http.post(f"/{path}", json={"model": MODEL, **body}, timeout=60)
            assert answer.status_code in (200, 400, 501), (body, answer.text)
            if answer.status_code != 200:
                error = answer.json()["error"]
                assert error["reason"] in ("INVALID_ARGUMENT", "PROMPT_TOO_LONG", "REQUEST_UNSUPPORTED"), (body, error)
                assert answer.status_code == 501 or error["param"], (body, error)
                assert not re.search(r"validation error|vllm|/site-packages|Traceback", error["message"]), error
            elif answer.headers["content-type"].startswith("text/event-stream"):
                assert '"error"' not in answer.text, (body, answer.text)


async def test_calls_over_grpc_are_still_logged_after_one_over_http(
    server: InferenceServer, client: openai.AsyncOpenAI
) -> None:
    await client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=1)
    size = server.log.stat().st_size
    async with AsyncClient(Endpoints(inference=f"127.0.0.1:{server.port}"), server.token("opus")) as luthier:
        await luthier.deployments.get(f"tenants/opus/deployments/{MODEL}")
    with server.log.open("rb") as log:
        log.seek(size)
        events = [json.loads(line) for line in log if line.startswith(b"{")]
    assert any(event["event"] == "rpc" and "GetDeployment" in event["method"] for event in events), events


def test_instructor_gets_its_objects_from_calls_and_from_a_response_format(server: InferenceServer) -> None:
    assert run_client("instructor", server).keys() == {"tool", "structured", "errors", "abort"}
