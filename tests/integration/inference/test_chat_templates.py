"""Chat templates that know neither developers nor tools: nothing is lost, and all the rest is rendered as before."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
from luthierd.errors import InvalidArgumentError
from luthierd.inference.domain.completion import MAX_MESSAGES, ToolCall, Turn
from luthierd.inference.engine.chat_templates import complete
from luthierd.inference.engine.tokenizing import Tokenizing
from support.tiny_model import CHAT_TEMPLATE, write_tokenizer

PLAIN = (Turn("system", "be brief"), Turn("user", "hi"), Turn("assistant", "hello"), Turn("user", "naïve?"))
CALLS = (ToolCall("c1", "weather", '{"city": "Zürich"}'), ToolCall("c2", "clock", "{}"))
WITH_TOOLS = (
    Turn("user", "weather?"),
    Turn("assistant", "let me see", tool_calls=CALLS),
    Turn("tool", "4 C", tool_call_id="c1"),
    Turn("tool", "noon", tool_call_id="c2"),
)
SIMPLE = CHAT_TEMPLATE.partition("#}")[2]
KNOWS_TOOLS = (
    "{% for m in messages %}{% if tools %}never{% endif %}{{ m.role }}:{{ m.content }}{{ m.tool_call_id or '' }}"
    "{% for c in m.tool_calls or [] %}!{{ c.function.name }}({{ c.function.arguments.city }}){% endfor %};{% endfor %}"
)


@pytest.fixture
def tokenizer(tmp_path: pathlib.Path) -> Any:
    made = write_tokenizer(tmp_path)
    made.chat_template = SIMPLE
    return made


def text_of(tokenizer: Any, *turns: Turn) -> str:
    return str(tokenizer.decode(Tokenizing(tokenizer).render_chat(turns)))


def test_a_plain_conversation_is_rendered_as_before(tokenizer: Any) -> None:
    before = text_of(tokenizer, *PLAIN)
    assert text_of(complete(tokenizer), *PLAIN) == before


def test_a_developer_is_the_system_for_a_template_that_knows_none(tokenizer: Any) -> None:
    said = text_of(complete(tokenizer), Turn("developer", "be brief"), *PLAIN[1:])
    assert said == text_of(tokenizer, *PLAIN)


def test_a_developer_stays_one_for_a_template_that_knows_the_role(tokenizer: Any) -> None:
    tokenizer.chat_template = SIMPLE + "{# 'developer' #}"
    assert "developer\nbe brief" in text_of(complete(tokenizer), Turn("developer", "be brief"), Turn("user", "hi"))


def test_calls_and_their_answers_are_told_in_the_form_of_the_parser(tokenizer: Any) -> None:
    said = text_of(complete(tokenizer), *WITH_TOOLS)
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
    assert f"let me see\n{call}\n<tool_call>" in said
    assert "user\n<tool_response>\n4 C\n</tool_response>\n<tool_response>\nnoon\n</tool_response><|im_end|>" in said
    assert said.count("<|im_start|>user") == 2


@pytest.mark.parametrize("first", ["system", "developer", "user"])
def test_definitions_of_tools_are_told_once_next_to_what_the_system_says(tokenizer: Any, first: str) -> None:
    tools = [{"type": "function", "function": {"name": "clock"}}]
    messages = [{"role": first, "content": "first"}, {"role": "user", "content": "hi"}]
    said = complete(tokenizer).apply_chat_template(messages, tools=tools, tokenize=False)
    assert said.count(json.dumps(tools[0])) == said.count("<|im_start|>system") == 1
    assert said.index("clock") < said.index("hi")
    assert said.count("first") == 1


def test_a_template_with_tools_of_its_own_renders_them_itself(tokenizer: Any) -> None:
    tokenizer.chat_template = KNOWS_TOOLS
    said = text_of(complete(tokenizer), Turn("developer", "d"), *WITH_TOOLS)
    assert said == "system:d;user:weather?;assistant:let me see!weather(Zürich)!clock();tool:4 Cc1;tool:noonc2;"


@pytest.mark.parametrize("template", [None, "{{ raise_exception('no system role') }}", "{{ 1 + messages }}"])
def test_a_template_that_refuses_is_the_callers_to_hear(tokenizer: Any, template: str | None) -> None:
    tokenizer.chat_template = template
    with pytest.raises(InvalidArgumentError, match="messages: the base model's chat template cannot render them"):
        text_of(complete(tokenizer), *PLAIN)


def test_the_longest_conversation_takes_no_time(tokenizer: Any) -> None:
    assert text_of(complete(tokenizer), *[Turn("developer", "")] * MAX_MESSAGES).count("system") == MAX_MESSAGES
