"""Rows as JSON Lines: the same rows, the same bytes."""

from __future__ import annotations

from luthierd.jsonl import read_lines, write_lines
from luthierd.storage.blobs import Blob


def test_rows_are_read_as_they_were_written() -> None:
    rows = [{"b": 1, "a": "é"}, {"a": None}]
    assert write_lines(rows) == '{"a": "é", "b": 1}\n{"a": null}\n'.encode()
    assert read_lines(write_lines(rows)) == rows


def test_a_row_can_be_a_dataclass() -> None:
    assert write_lines([Blob("aa", 3)]) == b'{"sha256": "aa", "size_bytes": 3}\n'


def test_a_line_separator_inside_a_text_does_not_end_the_row() -> None:
    rows = [{"text": "one\u2028two\x85three\r\nfour"}]
    assert read_lines(write_lines(rows)) == rows


def test_no_rows_are_no_bytes() -> None:
    assert write_lines([]) == b""
    assert read_lines(b"\n\n") == []
