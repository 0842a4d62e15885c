"""JSON Schemas that tenants give: checked when an evaluation is created, applied to answers. No schema can make the
evaluator fetch a URL, and none of its patterns can hold it for longer than a moment.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import referencing
import regex

MAX_SCHEMA_BYTES = 64 * 1024
PATTERN_TIMEOUT_S = 0.1
"""A pattern of a schema runs on answers of a few kilobytes: what needs longer is backtracking without end."""


class SchemaProblem(ValueError):  # noqa: N818  # a finding about a request; the caller makes it a field violation
    """Why a text is no schema that can be used."""


class AnswerSchema:
    """A schema that answers are checked with."""

    def __init__(self, text: str) -> None:
        """SchemaProblem."""
        if len(text.encode()) > MAX_SCHEMA_BYTES:
            raise SchemaProblem(f"the schema is larger than {MAX_SCHEMA_BYTES} bytes")
        try:
            schema = json.loads(text)
            if not isinstance(schema, dict):
                raise SchemaProblem("the schema is not a JSON object")
            jsonschema.Draft202012Validator.check_schema(schema)
        except jsonschema.SchemaError as error:
            raise SchemaProblem(f"at {error.json_path}: {error.message[:200]}") from None
        except (ValueError, RecursionError) as error:
            if isinstance(error, SchemaProblem):
                raise
            raise SchemaProblem(f"the schema is not JSON: {error}"[:200]) from None
        _refuse(schema)
        # A registry of our own: without one the library fetches every URL that a `$ref` names.
        self._validator = _Validator(schema, registry=referencing.Registry())

    def problem(self, document: Any) -> str:
        """Where and why a document breaks the schema, without its text; empty: it does not."""
        try:
            error = next(self._validator.iter_errors(document), None)
        except (referencing.exceptions.Unresolvable, TimeoutError, RecursionError, regex.error) as failure:
            return f"the schema cannot be applied ({type(failure).__name__})"
        return f"{error.json_path}: {error.validator}" if error is not None else ""


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[jsonschema.ValidationError]:
    if isinstance(instance, str) and not regex.search(pattern, instance, timeout=PATTERN_TIMEOUT_S):
        yield jsonschema.ValidationError("pattern")


_Validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"pattern": _pattern})


def _refuse(node: Any) -> None:
    if isinstance(node, dict):
        # These names are matched by the library's own `re`, which cannot be stopped.
        if "patternProperties" in node:
            raise SchemaProblem("`patternProperties` is not allowed; list the properties")
        reference = node.get("$ref")
        if isinstance(reference, str) and not reference.startswith("#"):
            raise SchemaProblem(f"`$ref` {reference[:100]!r} points outside the schema; put it into `$defs`")
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _refuse(child)
