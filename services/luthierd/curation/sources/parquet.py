"""Rows of a Parquet file, as lines of the import format; the number of a line is the number of its row.

A file has the keys of the format as columns, or it is an export of feedback (`luthier feedback export`). Of an export
only examples become rows: a correction is the completion; without one, the answer itself if it was rated good. What has
no captured prompt, or is a bad answer that nobody put right, teaches nothing and is left out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from luthierd.curation.domain import Role, canonical_json
from luthierd.curation.sources.rows import ROW_KEYS, ImportLimits, TooManyRowsError, check_size
from luthierd.errors import InvalidArgumentError

log = logging.getLogger(__name__)

MAGIC = b"PAR1"
EXPORT_KEY = b"luthier.kind"
EXPORT_COLUMNS = ("response_id", "messages", "completion", "rating", "correction", "labels")
BATCH_ROWS = 256
MAX_EXPANSION = 50
"""A file may be so many times larger in memory than it is: zstd makes texts 3 to 10 times smaller."""


class ParquetUnreadableError(InvalidArgumentError):
    """Not a Parquet file, or one with other columns than rows have."""

    reason = "PARQUET_UNREADABLE"
    field_name = "data"


class FeedbackUnusableError(InvalidArgumentError):
    """An export of feedback without a usable example."""

    reason = "FEEDBACK_UNUSABLE"
    field_name = "data"

    def __init__(self, row_count: int) -> None:
        super().__init__(
            f"none of the {row_count} rows has a captured prompt and either a correction or a good rating; "
            "switch capture on (`luthier capture set --on`) and record feedback",
            metadata={"row_count": str(row_count)},
        )


def is_parquet(file: BinaryIO) -> bool:
    """Whether the file begins as Parquet files do. Leaves it at its start."""
    file.seek(0)
    found = file.read(len(MAGIC)) == MAGIC
    file.seek(0)
    return found


def parquet_lines(file: BinaryIO, limits: ImportLimits) -> Iterator[tuple[int, bytes]]:
    """Rows as numbered lines, a batch in memory at a time.

    ParquetUnreadableError, TooManyRowsError, RowTooLargeError, FeedbackUnusableError.
    """
    try:
        opened = pq.ParquetFile(file)
        _check_size(file, opened, limits)
        lines = _examples(opened) if (opened.schema_arrow.metadata or {}).get(EXPORT_KEY) else _plain_lines(opened)
        for number, line in lines:
            check_size(number, line, limits)
            yield number, line
    except (pa.ArrowException, OSError, TypeError, UnicodeError) as error:
        raise ParquetUnreadableError(
            f"the Parquet file cannot be read ({error}); write it again, with texts as strings"
        ) from error


def _check_size(file: BinaryIO, opened: Any, limits: ImportLimits) -> None:
    """Refuses what would be far larger in memory than on the wire, before it is read."""
    found = opened.metadata
    if found.num_rows > limits.max_row_count:
        raise TooManyRowsError(
            f"the file has {found.num_rows} rows, more than {limits.max_row_count}; import it as several datasets",
            metadata={"row_count": str(found.num_rows), "limit_count": str(limits.max_row_count)},
        )
    size = file.seek(0, 2)
    expanded = sum(found.row_group(index).total_byte_size for index in range(found.num_row_groups))
    if expanded > MAX_EXPANSION * size:
        raise ParquetUnreadableError(
            f"the file's {size} bytes are {expanded} in memory, more than {MAX_EXPANSION} times as many; import JSONL",
            metadata={"size_bytes": str(size), "expanded_bytes": str(expanded)},
        )


def _check_columns(names: list[str]) -> None:
    if unknown := sorted(set(names) - set(ROW_KEYS)):
        raise ParquetUnreadableError(
            f"the Parquet file has a column {unknown[0]!r}; known are {', '.join(ROW_KEYS)}",
            metadata={"column": unknown[0]},
        )


def _rows(opened: Any, columns: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    for batch in opened.iter_batches(batch_size=BATCH_ROWS, columns=columns):
        for row in batch.to_pylist():
            number += 1
            yield number, row


def _plain_lines(opened: Any) -> Iterator[tuple[int, bytes]]:
    """The rows of any other file."""
    _check_columns(opened.schema_arrow.names)
    for number, row in _rows(opened, opened.schema_arrow.names):
        yield number, canonical_json({key: value for key, value in row.items() if value is not None})


def _examples(opened: Any) -> Iterator[tuple[int, bytes]]:
    """The rows of an export that teach something."""
    count = 0
    columns = [name for name in EXPORT_COLUMNS if name in opened.schema_arrow.names]
    for number, row in _rows(opened, columns):
        example = _example(row)
        if example is not None:
            count += 1
            yield number, canonical_json(example)
    log.info("feedback read", extra={"row_count": opened.metadata.num_rows, "example_count": count})
    if not count:
        raise FeedbackUnusableError(opened.metadata.num_rows)


def _example(row: dict[str, Any]) -> dict[str, Any] | None:
    completion = row.get("correction") or (row["completion"] if row.get("rating") == "GOOD" else None)
    messages = row["messages"] or []
    if not (completion and completion.strip()) or not _is_prompt(messages):
        return None
    feedback = {"rating": row.get("rating"), "labels": row.get("labels") or []}
    return {
        "id": row["response_id"],
        "messages": [
            *({"role": message["role"], "content": message["content"]} for message in messages),
            {"role": Role.ASSISTANT, "content": completion},
        ],
        "feedback": {key: value for key, value in feedback.items() if value},
    }


def _is_prompt(messages: list[dict[str, Any]]) -> bool:
    """Whether the format takes them: applications also send roles of tools, and turns without text."""
    roles = [message["role"] for message in messages]
    return (
        set(roles) <= set(Role)
        and Role.USER in roles
        and Role.SYSTEM not in roles[1:]
        and not any(message.get("tool_calls") for message in messages)
        and all(message["content"] and message["content"].strip() for message in messages)
    )
