"""Cleaning."""

from __future__ import annotations

import pytest
from luthierd.curation.stages.clean import Clean, CleanSettings, clean_text
from support.curation_material import apply, row


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("plain", "plain"),
        ("  one line \t", "one line"),
        ("cafe\u0301", "caf\u00e9"),
        ("a\x00b\x07c\x1bd", "abcd"),
        ("a\u200bb\ufeffc\u202ed", "abcd"),
        ("a\r\nb\rc\u2028d\x85e", "a\nb\nc\nd\ne"),
        ("a  \nb\t\n", "a\nb"),
        ("a\n\n\n\n\nb", "a\n\nb"),
        ("    x = 1\n    y = 2\n", "    x = 1\n    y = 2"),
        ("می\u200cخواهم 👩\u200d💻", "می\u200cخواهم 👩\u200d💻"),
        ("\u200b\x00\n", ""),
    ],
)
def test_text_is_normalised_and_keeps_its_meaning(text: str, cleaned: str) -> None:
    assert clean_text(text) == cleaned
    assert clean_text(cleaned) == cleaned


def test_rows_out_of_bounds_are_dropped_with_their_reason() -> None:
    stage = Clean(CleanSettings(min_completion_characters=3, max_row_characters=60))
    rows = [
        row(1, prompt="fine", completion="good"),
        row(2, prompt="tidy\u200b", completion="good"),
        row(3, prompt="\u200b", completion="good"),
        row(4, prompt="short", completion="ok"),
        row(5, prompt="x" * 60, completion="good"),
    ]
    applied = apply(stage, rows)
    assert [one.id for one in applied.rows] == ["row-1", "row-2"]
    assert [(change.row_id, change.is_dropped, change.reason) for change in applied.changes] == [
        ("row-2", False, "text_normalised"),
        ("row-3", True, "message_empty"),
        ("row-4", True, "completion_too_short"),
        ("row-5", True, "row_too_long"),
    ]
