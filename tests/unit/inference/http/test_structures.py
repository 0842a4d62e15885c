"""What is read of an OpenAI body about the form of the answer, and what is refused before an engine sees it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from luthierd.errors import InvalidArgumentError
from luthierd.inference.domain.completion import MAX_STRUCTURE_BYTES, Structure
from luthierd.inference.http.structures import structures_of

SCHEMA: Any = {"type": "object"}
TEXT = json.dumps(SCHEMA)
TOOLS = [{"type": "function", "function": {"name": "a", "parameters": SCHEMA}}]


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({}, []),
        ({"response_format": {"type": "text"}}, []),
        ({"response_format": {"type": "json_object"}}, []),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
            [Structure(kind=Structure.JSON_SCHEMA, text=TEXT, source="response_format.schema")],
        ),
        (
            {"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}},
            [Structure(kind=Structure.JSON_SCHEMA, text=TEXT, source="text.format.schema")],
        ),
        (
            {"structured_outputs": {"json": TEXT, "regex": None}},
            [Structure(kind=Structure.JSON_SCHEMA, text=TEXT, source="structured_outputs.json")],
        ),
        (
            {"structured_outputs": {"choice": ["a", "b"]}},
            [Structure(kind=Structure.CHOICES, choices=("a", "b"), source="structured_outputs.choice")],
        ),
        (
            {"tools": TOOLS},
            [Structure(kind=Structure.ARGUMENTS, choices=(TEXT,), source="tools", is_exact=False)],
        ),
        (
            {"tools": [{"type": "function", "name": "a", "parameters": SCHEMA}], "tool_choice": "required"},
            [Structure(kind=Structure.ARGUMENTS, choices=(TEXT,), source="tools")],
        ),
        ({"tools": TOOLS, "tool_choice": "none"}, []),
        ({"tools": [{"type": "function", "function": {"name": "a"}}]}, []),
    ],
)
def test_every_form_that_vllm_would_compile_is_found(body: dict[str, Any], wanted: list[Structure]) -> None:
    assert list(structures_of(body)) == wanted


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "structural_tag", "format": {}}}, "response_format.type"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": [1]}}}, "response_format.schema"),
        ({"structured_outputs": 3}, "structured_outputs"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs.structural_tag"),
        ({"structured_outputs": {"json": "["}}, "structured_outputs.json"),
        ({"structured_outputs": {"json": "[" * 60_000}}, "structured_outputs.json"),
        ({"structured_outputs": {"regex": 4}}, "structured_outputs.regex"),
        ({"structured_outputs": {"regex": "a" * (MAX_STRUCTURE_BYTES + 1)}}, "structured_outputs.regex"),
        ({"structured_outputs": {"choice": ["a", ""]}}, "structured_outputs.choice"),
        ({"structured_outputs": {"choice": ["a"] * 257}}, "structured_outputs.choice"),
        ({"tools": "all"}, "tools"),
        ({"tools": TOOLS * 129}, "tools"),
        ({"tools": [3]}, "tools[0]"),
        ({"tools": [{"type": "function", "function": {"parameters": "x"}}]}, "tools[0].parameters"),
        ({"tools": [{"type": "function", "function": {"parameters": {"title": "x" * 300_000}}}]}, "tools"),
    ],
)
def test_a_form_that_cannot_be_is_refused_by_its_field(body: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        list(structures_of(body))
    assert caught.value.violations[0].field == field
