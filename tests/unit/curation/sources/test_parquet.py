"""Parquet files as rows: the same rows as from JSONL, and the examples in an export of feedback."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from luthierd.curation.domain import Feedback, Row, row_from_json, row_to_json
from luthierd.curation.sources.parquet import (
    FeedbackUnusableError,
    ParquetUnreadableError,
    is_parquet,
    parquet_lines,
)
from luthierd.curation.sources.rows import (
    ImportLimits,
    RowContentEmptyError,
    RowShapeInvalidError,
    RowTooLargeError,
    TooManyRowsError,
    parse_rows,
)

LIMITS = ImportLimits(max_row_bytes=500, max_row_count=20)
ASKED = [{"role": "user", "content": "2 + 2?"}]
CAPTURED = {
    "response_id": "r-1",
    "messages": ASKED,
    "completion": "5",
    "rating": None,
    "correction": None,
    "labels": [],
    "loaded_adapter": "g-1",
}


def parquet(rows: list[dict[str, Any]], *, is_export: bool = False) -> io.BytesIO:
    table = pa.Table.from_pylist(rows)
    if is_export:
        table = table.replace_schema_metadata({b"luthier.kind": b"export"})
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd")
    return file


def parse(file: io.BytesIO) -> list[Row]:
    assert is_parquet(file)
    return list(parse_rows(parquet_lines(file, LIMITS), LIMITS))


def examples(*rows: dict[str, Any]) -> list[tuple[str, str]]:
    return [(row.id, row.completion) for row in parse(parquet([CAPTURED | row for row in rows], is_export=True))]


def test_the_columns_are_the_keys_of_rows_and_null_is_left_out() -> None:
    rows = parse(
        parquet(
            [
                {"prompt": "a", "completion": "b", "group": "g", "label": None, "id": "one"},
                {"prompt": "c", "completion": "d", "group": None, "label": "x", "id": None},
            ]
        )
    )
    assert (rows[0].group, rows[0].label, rows[0].completion) == ("g", None, "b")
    assert (rows[1].label, rows[1].group == rows[1].id) == ("x", True)


def test_conversations_come_as_lists_of_messages() -> None:
    (row,) = parse(parquet([{"messages": [*ASKED, {"role": "assistant", "content": "4"}]}]))
    assert row.completion == "4"


@pytest.mark.parametrize(
    ("said", "completion"),
    [
        ({"correction": "4"}, "4"),
        ({"correction": "4", "rating": "BAD"}, "4"),
        ({"correction": "4", "rating": "GOOD"}, "4"),
        ({"rating": "GOOD"}, "5"),
        ({"rating": "BAD"}, None),
        ({"labels": ["tone"]}, None),
        ({"correction": "4", "messages": None, "completion": None}, None),
        ({"correction": "4", "messages": [*ASKED, {"role": "tool", "content": "x"}]}, None),
        ({"correction": "4", "messages": [{"role": "user", "content": " "}]}, None),
        ({"correction": "4", "messages": [{"role": "system", "content": "x"}]}, None),
    ],
)
def test_an_example_is_what_was_put_right_or_rated_good(said: dict[str, Any], completion: str | None) -> None:
    found = examples(said, {"response_id": "r-2", "rating": "GOOD"})
    assert found == ([("r-1", completion)] if completion else []) + [("r-2", "5")]


def test_ratings_and_labels_stay_with_the_row_and_survive_its_canonical_form() -> None:
    said = CAPTURED | {"rating": "GOOD", "labels": ["tone", "fact"]}
    (row,) = parse(parquet([said], is_export=True))
    assert row.feedback == Feedback("GOOD", ("fact", "tone"))
    assert row_from_json(row_to_json(row)) == row


def test_a_row_without_feedback_has_the_canonical_form_that_it_always_had() -> None:
    (row,) = parse(parquet([{"prompt": "a", "completion": "b", "id": "one"}]))
    assert b"feedback" not in row_to_json(row)


def test_an_export_without_an_example_says_what_is_missing() -> None:
    with pytest.raises(FeedbackUnusableError, match="none of the 1 rows"):
        examples({"rating": "BAD"})


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ({"prompt": "a", "completion": " "}, RowContentEmptyError),
        ({"prompt": "a"}, RowShapeInvalidError),
        ({"prompt": "a", "completion": "b", "feedback": {"rating": "FINE"}}, RowShapeInvalidError),
        ({"prompt": "a", "completion": "b", "feedback": {"labels": ["x\ny"]}}, RowShapeInvalidError),
        ({"prompt": "a", "completion": "b", "feedback": "good"}, RowShapeInvalidError),
    ],
)
def test_a_bad_row_is_refused_with_its_number(row: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match="line 2"):
        parse(parquet([{"prompt": "a", "completion": "b"} | {key: None for key in row if key == "feedback"}, row]))


def test_a_file_that_is_none_or_has_other_columns_is_named() -> None:
    whole = parquet([{"prompt": "a", "completion": "b"}]).getvalue()
    with pytest.raises(ParquetUnreadableError):
        parse(io.BytesIO(whole[:-20]))
    with pytest.raises(ParquetUnreadableError, match="'prompts'"):
        parse(parquet([{"prompts": "a", "completion": "b"}]))
    with pytest.raises(ParquetUnreadableError, match="cannot be read"):
        parse(parquet([{"prompt": b"\xff", "completion": "b"}]))


def test_more_than_there_may_be_is_refused_before_it_is_read() -> None:
    with pytest.raises(TooManyRowsError):
        parse(parquet([{"prompt": "a", "completion": "b"}] * 21))
    bomb = parquet([{"prompt": "a" * 10_000_000, "completion": "b"}])
    with pytest.raises(ParquetUnreadableError, match="in memory"):
        parse(bomb)
    with pytest.raises(RowTooLargeError, match="line 1"):
        parse(parquet([{"prompt": "a" * 600, "completion": "b"}]))


def test_numbers_in_place_of_texts_are_refused() -> None:
    with pytest.raises(RowShapeInvalidError, match="line 1"):
        parse(parquet([{"prompt": 3, "completion": "b"}]))
