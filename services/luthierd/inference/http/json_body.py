"""A request's body as a JSON object, read within bounds. What is wrong with it is an InvalidArgumentError."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from luthierd.errors import InvalidArgumentError

MAX_DEPTH = 64
"""Objects and lists within each other. OpenAI allows 10 levels of a schema, each of which takes 2 or 3."""

MAX_CONTAINERS = 100_000
"""Objects and lists. Without a limit, 4 MB of empty lists hold the server for half a second."""

_TEXTS = re.compile(rb'"(?>[^"\\]*(?:\\.[^"\\]*)*)"?', re.DOTALL)
"""Texts, also one without an end. The group is atomic: a text that does not end is read once, not once from each of its
escaped quotes on, while no other thread runs.
"""
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_DOUBTFUL = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
"""Escapes of NUL and of surrogates."""


def read_object(content: bytes) -> dict[str, Any]:
    """The object. Refused: other JSON, bytes that are not UTF-8, a key twice, numbers that are not finite, NUL and
    lone surrogates in a text, more than `MAX_DEPTH` levels.
    """
    brackets = _TEXTS.sub(b"", content).translate(None, _NO_BRACKETS)
    if len(brackets) > 2 * MAX_CONTAINERS:
        raise InvalidArgumentError.of_field("body", f"it has more than {MAX_CONTAINERS} objects and lists")
    try:
        found = json.loads(content.decode(), object_pairs_hook=_unique, parse_constant=_not_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        if isinstance(error, RecursionError):
            _refuse_depth()
        raise InvalidArgumentError.of_field("body", f"it is not JSON in UTF-8 ({error})") from error
    if not isinstance(found, dict):
        raise InvalidArgumentError.of_field("body", "it must be a JSON object")
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    if brackets:
        _refuse_depth()
    if _DOUBTFUL.search(content):
        for path, text in _texts(found):
            _check_text(path, text)
    return found


def _refuse_depth() -> NoReturn:
    raise InvalidArgumentError.of_field("body", f"it is nested more than {MAX_DEPTH} levels deep")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise InvalidArgumentError.of_field(twice[:64], "the key is given more than once")
    return made


def _not_finite(name: str) -> NoReturn:
    raise InvalidArgumentError.of_field("body", f"{name} is not a number of JSON")


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise InvalidArgumentError.of_field("body", f"{text[:32]} is not a finite number")
    return number


def _texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text and every key of `value`, with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, one in value.items():
            yield path or "body", key
            yield from _texts(one, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from _texts(one, f"{path}[{index}]")


def _check_text(path: str, text: str) -> None:
    if "\0" in text:
        raise InvalidArgumentError.of_field(path, "it has a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError.of_field(path, "it has half of a surrogate pair") from error
