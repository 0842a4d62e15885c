"""Which fields a request may have, and what is said of those that it may not have."""

from __future__ import annotations

import time
from typing import Any

import pytest
from luthierd.errors import InvalidArgumentError
from luthierd.inference.http.fields import (
    Body,
    Chat,
    Completions,
    Detokenize,
    Embeddings,
    Responses,
    checked,
    prompts_of,
)
from luthierd.inference.http.json_body import MAX_DEPTH, read_object

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
RESPONSE: dict[str, Any] = {"model": "m", "input": "x"}


def refusal(body: dict[str, Any], kind: type[Body]) -> tuple[str, str]:
    """The field and the description of what is refused."""
    with pytest.raises(InvalidArgumentError) as caught:
        checked(body, kind)
    (violation,) = caught.value.violations
    return violation.field, violation.description


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"n": "3"}, "n"),
        ({"n": 3.0}, "n"),
        ({"n": True}, "n"),
        ({"n": 9}, "n"),
        ({"n": 10**400}, "n"),
        ({"max_tokens": "64"}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_completion_tokens": 2**63}, "max_completion_tokens"),
        ({"seed": 2**63}, "seed"),
        ({"temperature": "0"}, "temperature"),
        ({"temperature": 10**400}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"stream": 1}, "stream"),
        ({"stop": ["a", 3]}, "stop[1]"),
        ({"structured_outputs": "x"}, "structured_outputs"),
        ({"response_format": ["x"]}, "response_format"),
        ({"logit_bias": {"5": "x"}}, "logit_bias[...]"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"function": {"name": "x" * 8000}}]}, "tools[0].function.name"),
        ({"tool_choice": 3}, "tool_choice"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": 3, "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": {"a": 1}}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"model": "x" * 8000}, "model"),
        ({"model": ""}, "model"),
        ({"model": 3}, "model"),
    ],
)
def test_a_value_of_another_type_or_beyond_its_bounds_is_refused_by_its_place(more: dict[str, Any], field: str) -> None:
    assert refusal({**CHAT, **more}, Chat)[0] == field


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("temprature", "there is no such field; did you mean temperature?"),
        ("max_token", "there is no such field; did you mean max_tokens?"),
        ("zzz", "there is no such field; leave it out"),
        ("cache_salt", "this field is not supported; leave it out"),
        ("guided_json", "this field is not supported; use structured_outputs"),
        ("use_beam_search", "this field is not supported; leave it out"),
    ],
)
def test_a_field_that_does_not_exist_is_refused_with_the_nearest_that_does(name: str, advice: str) -> None:
    assert refusal({**CHAT, name: 1}, Chat) == (name, advice)


@pytest.mark.parametrize("name", ["background", "previous_response_id", "conversation", "prompt"])
def test_a_response_that_needs_a_store_is_refused_by_name(name: str) -> None:
    assert refusal({**RESPONSE, name: True}, Responses)[0] == name


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({**CHAT, "n": 2, "temperature": 0, "seed": -1, "stop": "a", "metadata": {"a": "b"}, "store": True}, Chat),
        ({**CHAT, "tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": [1]}}}]}, Chat),
        ({"model": "m", "prompt": [[1], [2]], "echo": True, "max_tokens": 0, "logprobs": 5}, Completions),
        ({**RESPONSE, "text": {"format": {"type": "text"}}, "max_output_tokens": 5, "store": False}, Responses),
        ({**RESPONSE, "input": [{"type": "function_call_output", "call_id": "1", "output": "x"}]}, Responses),
    ],
)
def test_what_openais_clients_send_is_kept(body: dict[str, Any], kind: type[Body]) -> None:
    assert checked(body, kind) == body


def test_null_is_the_default_and_a_message_loses_what_only_answers_have() -> None:
    given = {**CHAT, "n": None, "zzz": None, "background": False}
    given["messages"] = [{"role": "assistant", "content": None, "annotations": [], "audio": None}, *CHAT["messages"]]
    assert checked(given, Chat) == {**CHAT, "messages": [{"role": "assistant", "content": None}, *CHAT["messages"]]}


@pytest.mark.parametrize("given", [["a", 1], [1, "a"], [[1], "a"], [1, [2]], ["a", ""], [[]], ["x"] * 65, [[1]] * 65])
def test_prompts_of_several_kinds_empty_ones_and_too_many_are_refused(given: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        prompts_of(given, "prompt")
    assert refusal({"model": "m", "prompt": given}, Completions)[0] == "prompt"


def test_prompts_are_counted_as_texts_or_lists_of_tokens() -> None:
    assert prompts_of("a", "input") == prompts_of(["a"], "input") == ["a"]
    assert prompts_of([1, 2], "input") == prompts_of([[1, 2]], "input") == [(1, 2)]


@pytest.mark.parametrize("token", [-1, 2**31, 1.5, "a", True])
def test_a_token_id_is_a_number_that_a_vocabulary_can_have(token: Any) -> None:
    assert refusal({"model": "m", "tokens": [1, token]}, Detokenize)[0] == "tokens[1]"
    if not isinstance(token, str):
        assert refusal({"model": "m", "input": [1, token]}, Embeddings)[0].startswith("input")


def test_a_body_may_be_as_deep_as_the_limit_and_no_deeper() -> None:
    def nested(depth: int) -> bytes:
        return b'{"a":' * depth + b"1" + b"}" * depth

    assert read_object(nested(MAX_DEPTH))
    with pytest.raises(InvalidArgumentError, match="nested"):
        read_object(nested(2 * MAX_DEPTH + 1))
    assert read_object(b'{"a": "%s"}' % (b"[{" * 1000)), "brackets within a text do not count"


@pytest.mark.parametrize("part", [b"[],", b"{},", b'"\\u0000",', b'{"a":1},'])
def test_four_megabytes_of_anything_are_read_or_refused_in_a_second(part: bytes) -> None:
    content = b'{"a": [' + part * (4 * 2**20 // len(part)) + b"1]}"
    began = time.process_time()
    with pytest.raises(InvalidArgumentError):
        read_object(content)
    assert time.process_time() - began < 1.0
