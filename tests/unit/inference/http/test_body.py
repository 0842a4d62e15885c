"""What the body of an OpenAI request costs, and how it is sampled for a copy."""

from __future__ import annotations

import json
from typing import Any

import pytest
from luthierd.inference.domain.completion import Sampling, Structure
from luthierd.inference.domain.errors import PromptTooLongError
from luthierd.inference.http.body import NotCopiedError, cost_of, sampling_of


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"messages": []}, Sampling(max_tokens=512, temperature=1.0)),
        ({"prompt": "x", "stop": None}, Sampling(max_tokens=16, temperature=1.0)),
        (
            {"messages": [], "max_completion_tokens": 5, "max_tokens": 9, "temperature": 0, "stop": "a", "n": 1},
            Sampling(max_tokens=5, stop=("a",)),
        ),
        (
            {"messages": [], "stop": ["a", "b"], "seed": 3, "top_p": 0.5, "presence_penalty": 0.0},
            Sampling(max_tokens=512, temperature=1.0, stop=("a", "b"), seed=3, top_p=0.5),
        ),
    ],
)
def test_a_copy_is_sampled_as_the_request_was(body: dict[str, Any], expected: Sampling) -> None:
    assert sampling_of(body, window=512) == expected


SCHEMA = {"type": "object", "required": ["a"]}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"response_format": {"type": "text"}, "tools": []}, None),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
            Structure(kind="json_schema", text=json.dumps(SCHEMA)),
        ),
        (
            {"structured_outputs": {"json": SCHEMA, "regex": None}},
            Structure(kind="json_schema", text=json.dumps(SCHEMA)),
        ),
        ({"structured_outputs": {"regex": "a+"}}, Structure(kind="regex", text="a+")),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, Structure(kind="choices", choices=("yes", "no"))),
    ],
)
def test_a_copy_is_held_to_the_form_of_the_request(more: dict[str, Any], expected: Structure | None) -> None:
    assert sampling_of({"messages": [], **more}, window=512).structure == expected


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "format"),
        ({"response_format": "text"}, "format"),
        ({"structured_outputs": {"json_object": True}}, "format"),
        ({"structured_outputs": {"regex": "a", "disable_any_whitespace": True}}, "format"),
        ({"response_format": {"type": "json_schema"}, "structured_outputs": {"regex": "a"}}, "format"),
        ({"frequency_penalty": 0.5}, "sampling"),
        ({"logit_bias": {}}, "sampling"),
    ],
)
def test_what_a_copy_could_not_be_asked_is_not_copied_and_the_reason_is_named(
    more: dict[str, Any], reason: str
) -> None:
    with pytest.raises(NotCopiedError) as caught:
        sampling_of({"messages": [], **more}, window=512)
    assert caught.value.reason == reason


WINDOW = 1000
CHAT = {"messages": [{"role": "user", "content": "x" * 360}]}


@pytest.mark.parametrize(
    ("body", "answer_token_count", "choice_count"),
    [
        (CHAT | {"max_tokens": 50}, 50, 1),
        (CHAT | {"max_completion_tokens": 40, "max_tokens": 50}, 40, 1),
        (CHAT | {"max_tokens": 50, "n": 3}, 150, 3),
        ({"prompt": "x" * 398}, 16, 1),
        ({"prompt": ["a", "b", "c", "d"], "max_tokens": 10}, 40, 1),
        ({"prompt": [[1, 2], [3]], "max_tokens": 10, "n": 2}, 40, 2),
        ({"prompt": [1, 2, 3], "max_tokens": 10}, 10, 1),
        ({"input": "hi", "max_output_tokens": 10}, 10, 1),
        (CHAT | {"max_tokens": 10**9}, None, 1),
        (CHAT, None, 1),
    ],
)
def test_a_body_is_taken_at_its_word_and_at_most_for_the_window(
    body: dict[str, Any], answer_token_count: int | None, choice_count: int
) -> None:
    found = cost_of(body, WINDOW)
    assert found.choice_count == choice_count
    assert found.answer_token_count == (answer_token_count or WINDOW - found.prompt_token_count)


def test_a_prompt_counts_by_its_length_and_at_most_as_the_window() -> None:
    assert 90 <= cost_of(CHAT, WINDOW).prompt_token_count <= 110
    assert cost_of({"prompt": "x" * 10**6}, WINDOW).prompt_token_count == WINDOW
    assert cost_of({"prompt": [[7] * 30, [7] * 12]}, WINDOW).prompt_token_count == 42


def test_tokens_beyond_the_window_are_refused() -> None:
    with pytest.raises(PromptTooLongError):
        cost_of({"prompt": [[1], [1] * (WINDOW + 1)]}, WINDOW)


def test_every_text_that_a_template_can_show_is_read() -> None:
    shown = {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "one"}]}, {"tool_calls": [{"id": "two"}]}],
        "tools": [{"function": {"parameters": {"three": {"enum": ["four"]}}}}],
        "documents": [{"title": "five"}],
    }
    [texts] = cost_of(shown, WINDOW).prompts
    assert {"one", "two", "three", "four", "five"} <= set(texts)
    assert cost_of({"prompt": ["a", [1], "b"]}, WINDOW).prompts == (("a",), ("b",))


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"prompt": []},
        {"prompt": None},
        {"messages": "no list"},
        {"prompt": "x", "n": -4},
        {"prompt": "x", "max_tokens": "y"},
    ],
)
def test_what_is_not_well_formed_counts_as_little_and_is_left_to_the_application(body: dict[str, Any]) -> None:
    assert cost_of(body, WINDOW).choice_count == 1
