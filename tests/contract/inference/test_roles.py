"""Conversations with tools over gRPC: what arrives at the chat template, and what is refused by its field."""

from __future__ import annotations

from typing import Any

import pytest
from luthier import AsyncClient, Endpoints
from luthier.errors import ConfigError, InvalidArgumentError
from luthier.inference.v1 import inference_service_pb2 as api
from luthier.services import SCOPES
from luthierd.inference.domain.completion import MAX_MESSAGES, ToolCall, Turn
from support.inference_calls import CONFIG
from support.inference_fakes import BASE
from support.inference_parts import make_parts
from support.serving import ISSUER, serving

CALL = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"word": "a"}'}}
CONVERSATION: list[Any] = [
    {"role": "developer", "content": "be brief"},
    {"role": "user", "name": "ada", "content": [{"type": "text", "text": "what"}, {"type": "text", "text": "is a?"}]},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "a letter"},
]
TURNS = (
    Turn("developer", "be brief"),
    Turn("user", "what\nis a?", name="ada"),
    Turn("assistant", "", tool_calls=(ToolCall("c1", "look_up", '{"word": "a"}'),)),
    Turn("tool", "a letter", tool_call_id="c1"),
)
USER = {"role": "user", "content": "x"}
CALLS = api.ToolCall(id="c", name="n", arguments="{}")


def token() -> str:
    """A caller's token."""
    return ISSUER.issue(tenant="acme", subject="tester", scopes=SCOPES, ttl_s=600)


async def test_roles_names_parts_and_calls_arrive_at_the_chat_template_as_the_client_wrote_them() -> None:
    parts = await make_parts()
    async with (
        serving(parts.service, CONFIG) as bound,
        AsyncClient(Endpoints(inference=bound.address), token()) as client,
    ):
        answer = await client.inference.chat(BASE.name, CONVERSATION)
        await client.inference.batch_generate(BASE.name, [CONVERSATION])
        _ = [part async for part in client.inference.chat_stream(BASE.name, CONVERSATION)]
    assert answer.text == "I am base"
    assert [tuple(turns) for turns in parts.engines[0].rendered] == [TURNS] * 3


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (api.Message(role="robot", content="x"), "role"),
        (api.Message(role="user", content="x", parts=[api.ContentPart(text="y")]), "parts"),
        (api.Message(role="user", content="x", tool_calls=[CALLS]), "tool_calls"),
        (api.Message(role="assistant", tool_calls=[CALLS] * 129), "tool_calls"),
        (api.Message(role="assistant", tool_calls=[api.ToolCall(name="n", arguments="{}")]), "tool_calls[0].id"),
        (api.Message(role="assistant", tool_calls=[api.ToolCall(id="c", arguments="{}")]), "tool_calls[0].name"),
        *(
            (
                api.Message(role="assistant", tool_calls=[api.ToolCall(id="c", name="n", arguments=text)]),
                "tool_calls[0].arguments",
            )
            for text in ("", "[]", "{", '"a"', "[" * 100_000)
        ),
        (api.Message(role="tool", content="x"), "tool_call_id"),
        (api.Message(role="user", content="x", tool_call_id="c"), "tool_call_id"),
    ],
)
async def test_a_message_that_cannot_be_is_refused_by_its_field(message: api.Message, field: str) -> None:
    parts = await make_parts()
    async with (
        serving(parts.service, CONFIG) as bound,
        AsyncClient(Endpoints(inference=bound.address), token()) as client,
    ):
        with pytest.raises(InvalidArgumentError) as caught:
            await client.inference.chat(BASE.name, [message, USER])
    assert caught.value.metadata["field"] == f"messages[0].{field}"


async def test_a_conversation_has_a_bound() -> None:
    parts = await make_parts()
    async with (
        serving(parts.service, CONFIG) as bound,
        AsyncClient(Endpoints(inference=bound.address), token()) as client,
    ):
        with pytest.raises(InvalidArgumentError, match="4097"):
            await client.inference.chat(BASE.name, [USER] * (MAX_MESSAGES + 1))


async def test_the_sdk_refuses_a_part_that_is_no_text_before_it_is_sent() -> None:
    async with AsyncClient(Endpoints(inference="127.0.0.1:1"), token()) as client:
        with pytest.raises(ConfigError, match="not text"):
            await client.inference.chat(BASE.name, [{"role": "user", "content": [{"type": "image_url"}]}])
