"""What a request must be before a handler sees it: a message, about the caller's tenant, with values that can be used.

The values are checked here for every method: a text with NUL (PostgreSQL stores none), a number that is not finite, an
enum value without a name, a time or duration outside protobuf's range, a `google.protobuf.Value` without a kind. What a
value means is for the services to judge.
"""

from __future__ import annotations

import functools
import math
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from luthierd.errors import InvalidArgumentError
from luthierd.rpc.auth import check_tenant, current_principal

MAX_TIMESTAMP_S = 253_402_300_799
MIN_TIMESTAMP_S = -62_135_596_800
"""The years 1 to 9999 (timestamp.proto)."""
MAX_DURATION_S = 315_576_000_000
"""10,000 years, either way (duration.proto)."""
MAX_NANOS = 999_999_999
MAX_VALUES = 200_000
"""Of a request, besides whole numbers and bytes. 16 MB hold eight million, which stop the event loop for seconds."""

_CHECKED_TYPES = {
    FieldDescriptor.TYPE_STRING,
    FieldDescriptor.TYPE_DOUBLE,
    FieldDescriptor.TYPE_FLOAT,
    FieldDescriptor.TYPE_ENUM,
    FieldDescriptor.TYPE_MESSAGE,
}


def accept(data: bytes, deserialize: Callable[[bytes], Any]) -> Any:
    """The request in `data`, which may be given to a handler. InvalidArgumentError, PermissionDeniedError."""
    try:
        request = deserialize(data)
    except DecodeError:  # also for messages that are nested more than 100 deep
        raise InvalidArgumentError.of_field("request", "it is not a message of the method's request type") from None
    check_tenant(request, current_principal())
    check_values(request)
    return request


async def accept_each(messages: AsyncIterator[bytes], deserialize: Callable[[bytes], Any]) -> AsyncIterator[Any]:
    """A stream of requests; see `accept`."""
    async for data in messages:
        yield accept(data, deserialize)


async def accept_one(messages: AsyncIterator[bytes], deserialize: Callable[[bytes], Any]) -> Any:
    """The only request of a call. InvalidArgumentError if the caller ended its half without one; see `accept`."""
    async for data in messages:
        return accept(data, deserialize)
    raise InvalidArgumentError.of_field("request", "the call carries no message")


def check_values(message: Message, path: str = "", *, left: Iterator[int] | None = None) -> None:
    """InvalidArgumentError names the field whose value nothing can be done with. Output-only fields are ignored.

    `left`: has an item for each value that may still come; None: `MAX_VALUES`.
    """
    left = iter(range(MAX_VALUES)) if left is None else left
    if fault := _FAULTS.get(message.DESCRIPTOR.full_name, _none)(message):
        raise InvalidArgumentError.of_field(path, fault)
    checked = _checked_fields(message.DESCRIPTOR)
    for field, value in message.ListFields():
        if field.name not in checked:
            continue
        at = f"{path}.{field.name}" if path else field.name
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            entry = field.message_type.fields_by_name
            for key, item in value.items():
                _check(entry["key"], key, at, left)
                _check(entry["value"], item, f"{at}.{key}", left)
        elif field.is_repeated:
            for index, item in enumerate(value):
                _check(field, item, f"{at}[{index}]", left)
        else:
            _check(field, value, at, left)


def _check(field: FieldDescriptor, value: Any, path: str, left: Iterator[int]) -> None:
    fault = ""
    if next(left, None) is None:
        fault = f"the request has more than {MAX_VALUES:,} values"
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        check_values(value, path, left=left)
    elif field.enum_type is not None:
        if value not in field.enum_type.values_by_number:
            known = ", ".join(one.name for one in field.enum_type.values if one.number)
            fault = f"{value} is no value of {field.enum_type.name}; choose one of {known}"
    elif isinstance(value, str):
        fault = "the text contains NUL" if "\0" in value else ""
    elif isinstance(value, float) and not math.isfinite(value):
        fault = f"{value} is not a finite number"
    if fault:
        raise InvalidArgumentError.of_field(path, fault)


@functools.cache
def _checked_fields(descriptor: Descriptor) -> frozenset[str]:
    """The fields whose type leaves something to check."""

    def is_input(field: FieldDescriptor) -> bool:
        behaviors = field.GetOptions().Extensions[field_behavior_pb2.field_behavior]
        return field_behavior_pb2.OUTPUT_ONLY not in behaviors

    return frozenset(field.name for field in descriptor.fields if field.type in _CHECKED_TYPES and is_input(field))


def _none(_message: Any) -> str:
    return ""


def _timestamp_fault(message: Any) -> str:
    fits = MIN_TIMESTAMP_S <= message.seconds <= MAX_TIMESTAMP_S and 0 <= message.nanos <= MAX_NANOS
    return "" if fits else "the time is not between the years 1 and 9999"


def _duration_fault(message: Any) -> str:
    fits = abs(message.seconds) <= MAX_DURATION_S and abs(message.nanos) <= MAX_NANOS
    return "" if fits and message.seconds * message.nanos >= 0 else "the duration is not within 10,000 years"


def _value_fault(message: Any) -> str:
    return "" if message.WhichOneof("kind") else "the value is unset; null is a value, too"


_FAULTS: dict[str, Callable[[Any], str]] = {
    "google.protobuf.Timestamp": _timestamp_fault,
    "google.protobuf.Duration": _duration_fault,
    "google.protobuf.Value": _value_fault,
}
