"""Messages of the contracts as plain values, for --json and for tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.status_pb2 import Status

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
        if isinstance(value, Mapping):
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
    if isinstance(value, Message):
        return to_document(value)
    if field.enum_type is not None:
        return short_name(field.enum_type.values_by_number[value].name, field.enum_type.values[0].name)
    if isinstance(value, bytes):
        return value.hex()
    return value


def short_name(value: str, zero: str) -> str:
    """An enum value without its enum's prefix, e.g. `SUCCEEDED`."""
    return value.removeprefix(zero.removesuffix("UNSPECIFIED"))


def state_of(resource: Message) -> str:
    """The state of a resource with a life, e.g. `RUNNING`."""
    return str(to_document(resource)["state"])


def when(time: Timestamp) -> str:
    """A time for people, in their zone; empty if unset."""
    return time.ToDatetime().strftime("%Y-%m-%d %H:%M:%S") if time.seconds else ""


def size(size_bytes: int) -> str:
    """A size for people."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
