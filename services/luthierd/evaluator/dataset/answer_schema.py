"""JSON Schemas that tenants give: checked when an evaluation is created, applied to answers. No schema can make the
evaluator fetch a URL or hold it for longer than a moment.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import referencing
import regex

from luthierd.bounded import OutOfTimeError, TimeBudget

MAX_SCHEMA_BYTES = 64 * 1024
MAX_SCHEMA_OBJECTS = 10_000
"""In a schema with its references written out: 30 definitions, each with the one before it twice, are a thousand
million. The OpenAPI description of a large API has a few thousand."""
MAX_LIST_ITEMS = 1000
"""Of a list of anything but texts and numbers: the library compares every item with every other one."""
MAX_DOCUMENT_S = 0.5
"""For one answer: an honest schema takes a few milliseconds."""
MAX_SLOW_S = 20.0
"""For all answers of an evaluation that take unusually long."""
TRIALS: tuple[Any, ...] = ({}, [], "", 0)
"""What a schema is tried on before it is accepted."""
REFUSED = {
    # Its names are matched by the library's own `re`, which cannot be stopped.
    "patternProperties": "list the properties",
    "$dynamicRef": "use `$ref`",
    "$recursiveRef": "use `$ref`",
}

Keyword = Callable[[Any, Any, Any, Any], Iterator[jsonschema.ValidationError] | None]


class SchemaProblem(ValueError):  # noqa: N818  # a finding about a request; the caller makes it a field violation
    """Why a text is no schema that can be used."""


class AnswerSchema:
    """A schema that answers are checked with. Not for several threads at a time."""

    def __init__(self, text: str) -> None:
        """SchemaProblem."""
        if len(text.encode()) > MAX_SCHEMA_BYTES:
            raise SchemaProblem(f"the schema is larger than {MAX_SCHEMA_BYTES} bytes")
        self._budget = TimeBudget(MAX_SLOW_S)
        try:
            schema = json.loads(text)
            if not isinstance(schema, dict):
                raise SchemaProblem("the schema is not a JSON object")
            _refuse(schema, is_root=True)
            if _Expansion(schema).count(schema) > MAX_SCHEMA_OBJECTS:
                raise SchemaProblem(
                    f"with its references written out it has more than {MAX_SCHEMA_OBJECTS} objects; "
                    "refer to a definition fewer times"
                )
            # Without checks of formats, which compile patterns with `re`: that can take minutes.
            jsonschema.Draft202012Validator.check_schema(schema, format_checker=None)
        except jsonschema.SchemaError as error:
            raise SchemaProblem(f"at {error.json_path}: {error.message[:200]}") from None
        except RecursionError:
            raise SchemaProblem("the schema is nested too deep") from None
        except ValueError as error:
            if isinstance(error, SchemaProblem):
                raise
            raise SchemaProblem(f"the schema is not JSON: {error}"[:200]) from None
        validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, _timed_keywords(self._budget))
        # A registry of our own: without one the library fetches every URL that a `$ref` names.
        self._validator = validator(schema, registry=referencing.Registry())
        try:
            for document in TRIALS:
                self.problem(document)
        except OutOfTimeError:
            raise SchemaProblem(f"it takes longer than {MAX_DOCUMENT_S:g} s to apply; make it simpler") from None

    def problem(self, document: Any) -> str:
        """Where and why a document breaks the schema, without its text; empty: it does not. OutOfTimeError."""
        try:
            with self._budget.run(MAX_DOCUMENT_S):
                error = next(self._validator.iter_errors(document), None)
        except (referencing.exceptions.Unresolvable, RecursionError, regex.error) as failure:
            return f"the schema cannot be applied ({type(failure).__name__})"
        return f"{error.json_path}: {error.validator}" if error is not None else ""


def _timed_keywords(budget: TimeBudget) -> dict[str, Keyword]:
    """The library's keywords, each of which stops when the document's time is over."""

    def timed(check: Keyword) -> Keyword:
        def within_time(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[jsonschema.ValidationError]:
            if budget.left_s:
                yield from check(validator, value, instance, schema) or ()

        return within_time

    def pattern(_: Any, wanted: str, instance: Any, __: Any) -> Iterator[jsonschema.ValidationError]:
        if isinstance(instance, str) and not budget.search(wanted, instance):
            yield jsonschema.ValidationError("pattern")

    def unique_items(_: Any, wanted: bool, instance: Any, __: Any) -> Iterator[jsonschema.ValidationError]:
        # The library compares every item with every other one.
        if wanted and isinstance(instance, list) and len({_canonical(item) for item in instance}) < len(instance):
            yield jsonschema.ValidationError("uniqueItems")

    known = jsonschema.Draft202012Validator.VALIDATORS
    return {name: timed(check) for name, check in known.items()} | {"pattern": pattern, "uniqueItems": unique_items}


def _canonical(item: Any) -> str:
    """Equal for equal JSON: 1 and 1.0 are one number, the order of keys does not count."""

    def number(text: str) -> float:
        value = float(text)
        return int(value) if value.is_integer() else value

    return json.dumps(json.loads(json.dumps(item), parse_float=number), sort_keys=True)


def _refuse(node: Any, *, is_root: bool = False) -> None:
    """SchemaProblem for what reaches out of the schema or cannot be bounded. Takes `$schema` out: where a part names a
    draft, the library would go on with its own keywords.
    """
    if isinstance(node, dict):
        if isinstance(node.get("$schema"), str):
            del node["$schema"]
        if isinstance(node.get("$id"), str) and not is_root:
            raise SchemaProblem("`$id` is allowed at the top only; put the part into `$defs`")
        _refuse_keywords(node)
    elif isinstance(node, list) and len(node) > MAX_LIST_ITEMS and not _is_plain(node):
        raise SchemaProblem(f"a list has more than {MAX_LIST_ITEMS} items that are not all texts or all numbers")
    for child in _children(node):
        _refuse(child)


def _refuse_keywords(node: dict[str, Any]) -> None:
    for name, instead in REFUSED.items():
        if name in node:
            raise SchemaProblem(f"`{name}` is not allowed; {instead}")
    reference, pattern = node.get("$ref"), node.get("pattern")
    if isinstance(reference, str) and not reference.startswith("#"):
        raise SchemaProblem(f"`$ref` {reference[:100]!r} points outside the schema; put it into `$defs`")
    if isinstance(pattern, str):
        try:
            regex.compile(pattern)
        except regex.error as error:
            raise SchemaProblem(f"the pattern {pattern[:100]!r} cannot be read: {error}") from None


def _is_plain(items: list[Any]) -> bool:
    return any(all(isinstance(item, kind) for item in items) for kind in (str, int | float))


def _children(node: Any) -> Iterator[Any]:
    yield from node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()


class _Expansion:
    """Counts the objects of a schema with its references written out, each cycle once."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._anchors = dict(_anchors(root))
        self._counts: dict[int, int] = {}

    def count(self, node: Any) -> int:
        """Of a part of the schema."""
        if not isinstance(node, dict | list):
            return 0
        if id(node) not in self._counts:
            self._counts[id(node)] = 1  # what refers back to it
            referred = node.get("$ref") if isinstance(node, dict) else None
            children = [*_children(node), self._target(referred) if isinstance(referred, str) else None]
            self._counts[id(node)] = 1 + sum(map(self.count, children))
        return self._counts[id(node)]

    def _target(self, reference: str) -> Any:
        """What a reference points at; None if it points nowhere."""
        path = urllib.parse.unquote(reference.removeprefix("#"))
        if path and not path.startswith("/"):
            return self._anchors.get(path)
        node: Any = self._root
        for part in path.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(node, list) and key.isdecimal() and int(key) < len(node):
                node = node[int(key)]
            else:
                node = node.get(key) if isinstance(node, dict) else None
        return node


def _anchors(node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for name in ("$anchor", "$dynamicAnchor"):
            if isinstance(node.get(name), str):
                yield node[name], node
    for child in _children(node):
        yield from _anchors(child)
