"""Structured answers of a model that knows nothing (random weights): held by grammars, not by what it has learned."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from luthier import AsyncClient, Endpoints
from luthier.errors import InvalidArgumentError
from support.inference_server import BASE, InferenceServer

pytestmark = pytest.mark.e2e

BOOKING = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}, "nights": {"enum": [1, 2]}},
    "required": ["city", "nights"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "book", "parameters": BOOKING}}
NAMED = {"type": "function", "function": {"name": "book"}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "booking", "schema": BOOKING}}
LIMIT_S = 45.0
"""For a refusal, on a machine that is busy with other things."""


def doubling(keyword: str, count: int) -> dict[str, Any]:
    """A schema of 2 kB with 2^count parts when its references are followed."""
    parts: dict[str, Any] = {"d0": {"type": "object", "properties": {"a": {"type": "string"}}}}
    for number in range(1, count):
        parts[f"d{number}"] = {keyword: [{"$ref": f"#/$defs/d{number - 1}"}] * 2}
    return {"$ref": f"#/$defs/d{count - 1}", "$defs": parts}


SLOW = "(a|aa)+(.*){5000}"
HOSTILE: list[dict[str, Any]] = [
    {"json_schema": doubling("allOf", 30)},
    {"json_schema": {"type": "string", "pattern": SLOW}},
    {"grammar": 'root ::= word{200} "c"\nword ::= word word | "a"'},
]


@pytest.fixture
async def client(server: InferenceServer) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(Endpoints(inference=f"127.0.0.1:{server.port}"), server.token("east")) as made:
        yield made


@pytest.fixture
async def http(server: InferenceServer, client: AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {server.token('east')}"}
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{server.http_port}/v1", headers=headers, timeout=60
    ) as made:
        yield made


async def chat(http: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    """The first choice."""
    body = {"model": BASE, "messages": [{"role": "user", "content": "x"}], "temperature": 1, "seed": 1, **fields}
    answered = await http.post("/chat/completions", json=body)
    assert answered.status_code == 200, answered.text
    return dict(answered.json()["choices"][0])


def has_run_of_white_space(text: str) -> bool:
    """Outside of the strings."""
    return re.search(r"\s\s", re.sub(r'"(\\.|[^"\\])*("|$)', '""', text, flags=re.DOTALL)) is not None


async def test_json_has_no_runs_of_white_space(http: httpx.AsyncClient, client: AsyncClient) -> None:
    free = {"type": "array", "items": {"type": "integer"}, "minItems": 20}
    wanted: list[dict[str, Any]] = [
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": free}}},
        {"structured_outputs": {"json": free}},
        {"structured_outputs": {"json_object": True}},
    ]
    texts = [(await chat(http, max_tokens=80, **fields))["message"]["content"] for fields in wanted]
    texts.append((await client.inference.chat(BASE, "x", json_schema=free, temperature=1, seed=1, max_tokens=80)).text)
    assert not [text for text in texts if has_run_of_white_space(text)]
    assert all(text.startswith(("{", "[")) for text in texts)


@pytest.mark.parametrize(
    ("choice", "strict", "stream"),
    [(NAMED, None, False), (NAMED, False, True), ("required", None, True), ("required", True, False)],
)
async def test_a_forced_call_follows_the_schema_with_and_without_strict(
    http: httpx.AsyncClient, choice: Any, *, strict: bool | None, stream: bool
) -> None:
    tool = {"type": "function", "function": {**TOOL["function"], **({} if strict is None else {"strict": strict})}}
    body = {"model": BASE, "messages": [{"role": "user", "content": "x"}], "tools": [tool], "tool_choice": choice}
    body |= {"max_tokens": 200, "temperature": 1, "seed": 2, "stream": stream, "parallel_tool_calls": False}
    answered = await http.post("/chat/completions", json=body)
    assert answered.status_code == 200, answered.text
    if stream:
        chunks = [json.loads(line[6:]) for line in answered.text.splitlines() if line.startswith("data: {")]
        parts = [call for chunk in chunks for one in chunk["choices"] for call in one["delta"].get("tool_calls") or ()]
        name = "".join(part["function"].get("name") or "" for part in parts)
        arguments = "".join(part["function"].get("arguments") or "" for part in parts)
    else:
        (call,) = answered.json()["choices"][0]["message"]["tool_calls"]
        name, arguments = call["function"]["name"], call["function"]["arguments"]
    given = json.loads(arguments)
    assert (name, given.keys()) == ("book", {"city", "nights"})
    assert given["city"] in ("Oslo", "Rome")
    assert given["nights"] in (1, 2)


async def test_tools_with_a_schema_that_cannot_be_held_are_refused_if_forced_and_allowed_if_not(
    http: httpx.AsyncClient,
) -> None:
    unheld = {"type": "object", "properties": {"tags": {"type": "array", "uniqueItems": True}}}
    tools = [{"type": "function", "function": {"name": "tag", "parameters": unheld}}]
    await chat(http, tools=tools, max_tokens=4)
    body = {"model": BASE, "messages": [{"role": "user", "content": "x"}], "tools": tools, "tool_choice": "required"}
    refused = await http.post("/chat/completions", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tools")
    assert "#/properties/tags" in refused.json()["error"]["message"]


@pytest.mark.parametrize("hostile", HOSTILE, ids=[json.dumps(one)[:40] for one in HOSTILE])
async def test_a_hostile_structure_is_refused_in_time_and_nobody_else_waits(
    server: InferenceServer, client: AsyncClient, hostile: dict[str, Any]
) -> None:
    async with AsyncClient(Endpoints(inference=f"127.0.0.1:{server.port}"), server.token("west")) as other:
        began = time.monotonic()
        refusing = asyncio.create_task(client.inference.generate(BASE, "x", max_tokens=500, **hostile))
        gaps = []
        while not refusing.done():
            asked = time.monotonic()
            await other.inference.generate(BASE, "x", max_tokens=1)
            gaps.append(time.monotonic() - asked)
        with pytest.raises(InvalidArgumentError) as caught:
            await refusing
    print(f"refused after {time.monotonic() - began:.2f} s, others' longest {max(gaps):.2f} s: {caught.value.message}")
    assert caught.value.metadata["field"] == f"sampling.{next(iter(hostile))}"
    assert time.monotonic() - began < LIMIT_S
    assert max(gaps) < 2.0
    assert (await client.inference.generate(BASE, "x", max_tokens=3, choices=["yes"])).text == "yes"


async def test_a_grammar_that_becomes_slow_ends_its_request(client: AsyncClient) -> None:
    beyond_the_check = 'root ::= "b"{260} word{200} "c"\nword ::= word word | "a"'
    with pytest.raises(InvalidArgumentError, match="became too slow") as caught:
        await client.inference.generate(BASE, "x", max_tokens=500, grammar=beyond_the_check)
    assert caught.value.metadata["field"] == "sampling.grammar"
    assert (await client.inference.generate(BASE, "x", max_tokens=3, choices=["yes"])).text == "yes"


async def test_a_hostile_structure_over_http_is_refused_before_vllm_parses_it(http: httpx.AsyncClient) -> None:
    schema = {"type": "string", "pattern": SLOW}
    for fields, field in (
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}},
            "response_format",
        ),
        ({"structured_outputs": {"json": schema}}, "structured_outputs.json"),
        ({"tools": [{"type": "function", "function": {"name": "x", "parameters": schema}}]}, "tools"),
    ):
        body = {"model": BASE, "messages": [{"role": "user", "content": "x"}], **fields}
        refused = await http.post("/chat/completions", json=body)
        assert refused.status_code == 400, refused.text
        assert refused.json()["error"]["param"].startswith(field)
