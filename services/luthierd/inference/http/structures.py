"""What an OpenAI request requires of its answer, checked before vLLM sees it: vLLM parses it in the event loop."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from luthierd.errors import InvalidArgumentError
from luthierd.inference.completions.leases import Leased
from luthierd.inference.domain.completion import (
    MAX_ARGUMENTS_BYTES,
    MAX_STRUCTURE_BYTES,
    MAX_STRUCTURE_CHOICES,
    MAX_TOOLS,
    Structure,
)

KINDS = {"json": Structure.JSON_SCHEMA, "regex": Structure.REGEX, "grammar": Structure.GRAMMAR}
"""vLLM's fields of `structured_outputs`; `choice` is a list, `json_object` and options need no check."""


async def check_structures(leased: Leased, body: Mapping[str, Any]) -> None:
    """InvalidArgumentError if the answer cannot be held to what the body requires."""
    for structure in structures_of(body):
        await leased.engine.check_structure(structure, tenant=leased.tenant)


def structures_of(body: Mapping[str, Any]) -> Iterator[Structure]:
    """The required forms of the answer and of calls. InvalidArgumentError for one that is too large or malformed."""
    text = _object(body.get("text"), "text")  # of /v1/responses
    for field, form in (
        ("response_format", _object(body.get("response_format"), "response_format")),
        ("text.format", _object(text.get("format"), "text.format")),
    ):
        if "structural_tag" in str(form.get("type")):
            raise InvalidArgumentError.of_field(f"{field}.type", "structural tags are not supported; use json_schema")
        if form.get("type") == "json_schema":
            holder = _object(form["json_schema"], f"{field}.json_schema") if "json_schema" in form else form
            if holder.get("schema") is not None:
                yield _structure(Structure.JSON_SCHEMA, holder["schema"], f"{field}.schema")
    wanted = _object(body.get("structured_outputs"), "structured_outputs")
    if wanted.get("structural_tag") is not None:
        raise InvalidArgumentError.of_field("structured_outputs.structural_tag", "structural tags are not supported")
    for name, kind in KINDS.items():
        if wanted.get(name) is not None:
            yield _structure(kind, wanted[name], f"structured_outputs.{name}")
    if wanted.get("choice") is not None:
        yield _choices(wanted["choice"], "structured_outputs.choice")
    if body.get("tools") and body.get("tool_choice") != "none":
        yield from _arguments(body["tools"], is_exact=body.get("tool_choice") not in (None, "auto"))


def _structure(kind: str, value: Any, field: str) -> Structure:
    text = value if isinstance(value, str) else json.dumps(value) if kind == Structure.JSON_SCHEMA else ""
    if not 0 < _size_bytes(text) <= MAX_STRUCTURE_BYTES:
        raise InvalidArgumentError.of_field(field, f"give 1 to {MAX_STRUCTURE_BYTES} bytes of text")
    if kind == Structure.JSON_SCHEMA:
        try:
            _object(json.loads(text), field)
        except (ValueError, RecursionError) as error:
            raise InvalidArgumentError.of_field(field, f"it is not JSON ({error})") from error
    return Structure(kind=kind, text=text, source=field)


def _choices(value: Any, field: str) -> Structure:
    is_valid = isinstance(value, list) and 1 <= len(value) <= MAX_STRUCTURE_CHOICES
    if not is_valid or not all(isinstance(one, str) and one for one in value):
        raise InvalidArgumentError.of_field(field, f"give 1 to {MAX_STRUCTURE_CHOICES} texts, none of them empty")
    if sum(map(_size_bytes, value)) > MAX_STRUCTURE_BYTES:
        raise InvalidArgumentError.of_field(field, f"at most {MAX_STRUCTURE_BYTES} bytes")
    return Structure(kind=Structure.CHOICES, choices=tuple(value), source=field)


def _arguments(tools: Any, *, is_exact: bool) -> Iterator[Structure]:
    """Of all tools at once: an answer may call any of them."""
    if not isinstance(tools, list) or len(tools) > MAX_TOOLS:
        raise InvalidArgumentError.of_field("tools", f"give a list of at most {MAX_TOOLS} tools")
    schemas = [json.dumps(schema) for schema in _parameters(tools) if schema]
    if (size_bytes := sum(map(_size_bytes, schemas))) > MAX_ARGUMENTS_BYTES:
        problem = f"their parameters have {size_bytes} bytes; at most {MAX_ARGUMENTS_BYTES} are allowed"
        raise InvalidArgumentError.of_field("tools", problem)
    if schemas:
        yield Structure(kind=Structure.ARGUMENTS, choices=tuple(schemas), source="tools", is_exact=is_exact)


def _parameters(tools: Sequence[Any]) -> Iterator[dict[str, Any]]:
    for index, tool in enumerate(tools):
        given = _object(tool, f"tools[{index}]")
        function = _object(given["function"], f"tools[{index}].function") if "function" in given else given
        yield _object(function.get("parameters"), f"tools[{index}].parameters")


def _object(value: Any, field: str) -> dict[str, Any]:
    """The value; empty for none."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidArgumentError.of_field(field, "it is not an object")
    return value


def _size_bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
