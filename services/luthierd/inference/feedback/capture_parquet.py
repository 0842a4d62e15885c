"""The Parquet files of captured answers and of feedback. Their columns are public: `CaptureFile` in the contract."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from luthierd.inference.domain.completion import ToolCall, Turn
from luthierd.inference.domain.feedback import Captured, Feedback, Rating, Response, Text

FORM = b"1"
"""Increased when the columns change in a way that readers must know."""

_TIME = pa.timestamp("us", tz="UTC")
_TOOL_CALLS = pa.list_(pa.struct([(name, pa.string()) for name in ToolCall._fields]))
_MESSAGES = pa.list_(
    pa.struct(
        [
            ("role", pa.string()),
            ("content", pa.string()),
            ("name", pa.string()),
            ("tool_calls", _TOOL_CALLS),
            ("tool_call_id", pa.string()),
        ]
    )
)
_RESPONSE_FIELDS = [
    *(
        pa.field(name, kind, nullable=False)
        for name, kind in (
            ("response_id", pa.string()),
            ("target", pa.string()),
            ("deployment_revision", pa.int64()),
            ("loaded_adapter", pa.string()),
            ("adapter_revision", pa.string()),
            ("base_model", pa.string()),
            ("response_time", _TIME),
            ("finish_reason", pa.string()),
            ("prompt_token_count", pa.int64()),
            ("completion_token_count", pa.int64()),
            ("ttft_ms", pa.float64()),
            ("latency_ms", pa.float64()),
            ("mirror_of", pa.string()),
        )
    ),
    pa.field("messages", _MESSAGES),
    pa.field("completion", pa.string()),
]
_FEEDBACK_FIELDS = [
    pa.field("rating", pa.string()),
    pa.field("correction", pa.string()),
    pa.field("labels", pa.list_(pa.string()), nullable=False),
    pa.field("feedback_time", _TIME, nullable=False),
]


def part_bytes(answers: Sequence[Captured], *, stamp: str) -> bytes:
    """A part file. `stamp` makes its digest unique: deleting it deletes no other file."""
    schema = pa.schema(_RESPONSE_FIELDS, metadata=_metadata("part", stamp))
    output = io.BytesIO()
    rows = [_response_row(one.response, one.text) for one in answers]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), output, compression="zstd")
    return output.getvalue()


def write_export(path: pathlib.Path, batches: Iterable[Sequence[tuple[Feedback, Text | None]]], *, stamp: str) -> int:
    """Writes an export file; the number of its rows. `stamp`: as for a part."""
    schema = pa.schema([*_RESPONSE_FIELDS, *_FEEDBACK_FIELDS], metadata=_metadata("export", stamp))
    count = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batches:
            rows = [_response_row(said.response, text) | _feedback_row(said) for said, text in batch]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            count += len(rows)
    return count


def read_texts(data: bytes, response_ids: Iterable[str]) -> dict[str, Text]:
    """The texts of these answers from a part file."""
    wanted = sorted(response_ids)
    table = pq.read_table(
        io.BytesIO(data), columns=["response_id", "messages", "completion"], filters=[("response_id", "in", wanted)]
    )
    return {
        row["response_id"]: Text(tuple(map(_turn, row["messages"])), row["completion"])
        for row in table.to_pylist()
        if row["messages"] is not None
    }


def _message(turn: Turn) -> dict[str, Any]:
    """What the turn does not have is null."""
    calls = [call._asdict() for call in turn.tool_calls]
    return {name: value or None for name, value in vars(turn).items()} | {
        "content": turn.content,
        "tool_calls": calls or None,
    }


def _turn(message: Mapping[str, Any]) -> Turn:
    given = {name: value for name, value in message.items() if value is not None}
    return Turn(**given | {"tool_calls": tuple(ToolCall(**call) for call in given.get("tool_calls", ()))})


def _response_row(response: Response, text: Text | None) -> dict[str, Any]:
    row: Mapping[str, Any] = vars(response)
    fields = {name: row[name] for name in row if name not in ("tenant", "create_time")}
    messages = [_message(turn) for turn in text.messages] if text else None
    return {
        **fields,
        "response_time": _time(response.create_time),
        "messages": messages,
        "completion": text.completion if text else None,
    }


def _feedback_row(said: Feedback) -> dict[str, Any]:
    opinion = said.opinion
    return {
        "rating": None if opinion.rating is Rating.UNSPECIFIED else opinion.rating.value,
        "correction": opinion.correction or None,
        "labels": list(opinion.labels),
        "feedback_time": _time(said.update_time),
    }


def _metadata(kind: str, stamp: str) -> dict[bytes, bytes]:
    return {b"luthier.capture": FORM, b"luthier.kind": kind.encode(), b"luthier.stamp": stamp.encode()}


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
