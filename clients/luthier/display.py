"""Messages of the contracts as plain values and as short texts: for --json, tables and reports."""

from __future__ import annotations

import math
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.status_pb2 import Status

from luthier.evaluator.v1.evaluation_pb2 import Arm
from luthier.status import error_from_status


def to_document(message: Message) -> dict[str, Any]:
    """A message by its field names. Unlike protobuf's own JSON: 64-bit integers are numbers, enum values lack their
    prefix, unset fields with presence are left out, others show their zero.
    """
    document: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if field.has_presence and not message.HasField(field.name):
            continue
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            document[field.name] = dict(value)
        elif field.is_repeated:
            document[field.name] = [_plain(item, field) for item in value]
        else:
            document[field.name] = _plain(value, field)
    return document


def _plain(value: Any, field: Any) -> Any:
    if isinstance(value, Timestamp | Duration):
        return value.ToJsonString()
    if isinstance(value, Status):
        message, reason, metadata = error_from_status(value)
        return {"message": message, "reason": reason, "metadata": metadata}
    if isinstance(value, Struct):
        return _struct(value)
    if isinstance(value, Message):
        return to_document(value)
    if field.enum_type is not None:
        return _short_name(value, field.enum_type)
    if isinstance(value, bytes):
        return value.hex()
    return value


def _struct(value: Any) -> Any:
    """A Struct has only doubles; those without a fraction are shown as integers."""
    if isinstance(value, Struct):
        return {name: _struct(item) for name, item in value.items()}
    if isinstance(value, ListValue):
        return [_struct(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def enum_name(message: Message, field: str) -> str:
    """The value of an enum field without its enum's prefix, e.g. `SUCCEEDED`."""
    enum: Any = message.DESCRIPTOR.fields_by_name[field].enum_type
    return _short_name(getattr(message, field), enum)


def _short_name(number: int, enum: Any) -> str:
    value = enum.values_by_number.get(number)  # a newer service may have values that this client does not know
    return str(value.name).removeprefix(enum.values[0].name.removesuffix("UNSPECIFIED")) if value else str(number)


def state_of(resource: Message) -> str:
    """The state of a resource, e.g. `RUNNING`."""
    return enum_name(resource, "state")


def arm_name(arm: int) -> str:
    """An arm as configurations write it, e.g. `adapter_rag`."""
    return _short_name(arm, Arm.DESCRIPTOR).lower()


def interval(value: float, low: float, high: float, form: str = ".3f") -> str:
    """An estimate with its interval; NaN for `low` means that there is none, and the text says so."""
    return f"{value:{form}} (no interval)" if math.isnan(low) else f"{value:{form}} [{low:{form}}, {high:{form}}]"


def when(time: Timestamp) -> str:
    """A time in UTC, to the second; empty if unset."""
    return time.ToDatetime().strftime("%Y-%m-%d %H:%M:%S") if time.seconds else ""


def size(size_bytes: int) -> str:
    """A size with its unit, e.g. `256.0 MiB`."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
