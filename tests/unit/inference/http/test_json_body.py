"""How the body of an HTTP request is read: within bounds, whatever it has."""

from __future__ import annotations

import json

import pytest
from luthierd.errors import InvalidArgumentError
from luthierd.inference.http.json_body import MAX_CONTAINERS, read_object


@pytest.mark.parametrize("end", [b"", b"\\", b"[" * 10, b'\\"' * 10])
def test_a_text_without_an_end_is_refused_in_no_time(end: bytes) -> None:
    with pytest.raises(InvalidArgumentError, match="not JSON"):
        read_object(b'{"prompt": "' + b'\\"' * 1_000_000 + end)


@pytest.mark.parametrize("text", ["[" * 300_000, '"[' * 150_000, "\\" * 7 + "{" * 300_000, "\n]}" * 100_000])
def test_brackets_within_a_text_are_no_levels(text: str) -> None:
    assert read_object(json.dumps({text[:9]: [text]}).encode()) == {text[:9]: [text]}


@pytest.mark.parametrize(
    "content", [b'{"a\\"": ' + b"[" * 65 + b"]" * 65 + b"}", b'{"a": ' + b"[" * 65, b"[" * 100_000]
)
def test_levels_beside_texts_with_quotes_are_counted(content: bytes) -> None:
    with pytest.raises(InvalidArgumentError):
        read_object(content)


def test_more_containers_than_the_limit_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="more than"):
        read_object(b'{"a\\"": [' + b",".join([b"[]"] * (MAX_CONTAINERS + 1)) + b"]}")
