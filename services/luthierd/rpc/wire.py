"""Dataclasses to messages and back, by the names of their fields.

A field of a message takes the attribute of the same name. Besides:

- an enum member becomes the value `<PREFIX>_<NAME>`; None becomes the zero value;
- seconds since the epoch become a Timestamp; the attribute `remaining_s` becomes the Duration `remaining_duration`;
- `interval_low` and `interval_high` are the ends of the attribute `interval`; so for every `<x>_low` and `<x>_high`;
- a mapping becomes a Struct, and back;
- None leaves a field unset; a double that cannot be unset becomes NaN.

What differs in name or meaning is given by keyword. Messages are read with `from_proto`: what is unset takes the
dataclass's default, and an unknown enum value is an InvalidArgumentError that names the field.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from google.protobuf import duration_pb2, message_factory, struct_pb2, timestamp_pb2
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from luthierd.errors import InvalidArgumentError
from luthierd.paging import Page

M = TypeVar("M", bound=Message)
T = TypeVar("T")
E = TypeVar("E", bound=enum.Enum)


def timestamp(seconds: float | None) -> timestamp_pb2.Timestamp | None:
    """Seconds since the epoch as a Timestamp, to the microsecond; None stays None."""
    if seconds is None:
        return None
    message = timestamp_pb2.Timestamp()
    message.FromMicroseconds(round(seconds * 1e6))
    return message


def duration(seconds: float | None) -> duration_pb2.Duration | None:
    """Seconds as a Duration, to the microsecond; None stays None."""
    if seconds is None:
        return None
    message = duration_pb2.Duration()
    message.FromMicroseconds(round(seconds * 1e6))
    return message


def to_proto(message: type[M], value: Any, /, **given: Any) -> M:
    """`value`, a dataclass or any object with the attributes, as a message of that type.

    `given` overrides fields by name; a dataclass given for a message field is converted, too.
    """
    fields = dict(given)
    if value is not None:
        read_off: Any = type(value)
        for name, read in _readers(typing.cast(Any, message), read_off):
            if name not in fields:
                fields[name] = read(value)
    write = _writers(typing.cast(Any, message))
    return message(**{name: write[name](item) for name, item in fields.items()})


def from_proto(kind: type[T], message: Message, /, *, path: str = "", **given: Any) -> T:
    """The dataclass `kind` made of the fields that are set in `message`; `path` is where the request has it.

    InvalidArgumentError names a field with an unknown enum value, and an unset text or message that has no default.
    `given` overrides attributes by name.
    """
    hints = _hints(typing.cast(Any, kind))
    values: dict[str, Any] = {}
    for field, item in message.ListFields():
        name = field.name.removesuffix("_duration") + "_s" if field.name.endswith("_duration") else field.name
        if name in hints and name not in given:
            values[name] = _read(hints[name], field, item, _below(path, field.name))
    values |= given
    for name in _required(typing.cast(Any, kind)) - values.keys():
        unset: Any = message.DESCRIPTOR.fields_by_name.get(name)
        if unset is None or unset.cpp_type in (FieldDescriptor.CPPTYPE_STRING, FieldDescriptor.CPPTYPE_MESSAGE):
            raise InvalidArgumentError.of_field(_below(path, name), "it is required")
        values[name] = unset.default_value
    return kind(**values)


def page_to_proto(response: type[M], page: Page[T], convert: Callable[[T], Message]) -> M:
    """The answer of a List: the items in field 1, and the token of the next page."""
    items = response.DESCRIPTOR.fields_by_number[1].name
    return response(**{items: list(map(convert, page.items))}, next_page_token=page.next_page_token)


def plain(value: Any) -> Any:
    """A Struct as mappings, lists and scalars. All its numbers are floats."""
    if isinstance(value, struct_pb2.Struct):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, struct_pb2.ListValue) else value


def enum_to_proto(descriptor: EnumDescriptor, member: enum.Enum | None) -> int:
    """The number of a member; of None, zero."""
    return 0 if member is None else int(descriptor.values_by_name[_prefix(descriptor) + member.name].number)


def enum_from_proto(kind: type[E], descriptor: EnumDescriptor, number: int, *, path: str) -> E:
    """The member of a number. InvalidArgumentError for zero, and for a number without a member."""
    value = descriptor.values_by_number.get(number)
    name = value.name.removeprefix(_prefix(descriptor)) if value else ""
    if name not in kind.__members__:
        raise InvalidArgumentError.of_field(path, f"choose one of {', '.join(kind.__members__)}")
    return kind[name]


def _prefix(descriptor: EnumDescriptor) -> str:
    """`ARM_` of `ARM_UNSPECIFIED`: buf's rule for zero values."""
    return str(descriptor.values_by_number[0].name).removesuffix("UNSPECIFIED")


@functools.cache
def _hints(kind: Any) -> Mapping[str, Any]:
    """Types of the attributes that `kind` can be made of."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.init}


@functools.cache
def _required(kind: Any) -> frozenset[str]:
    """Attributes without a default."""
    missing = dataclasses.MISSING
    fields = (field for field in dataclasses.fields(kind) if field.init)
    return frozenset(one.name for one in fields if one.default is missing and one.default_factory is missing)


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


@functools.cache
def _readers(message: Any, kind: Any) -> list[tuple[str, Callable[[Any], Any]]]:
    """How to read each field of `message` off a value of type `kind`; fields that it does not have are left out."""
    names = {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()

    def has(name: str) -> bool:
        return name in names or hasattr(kind, name)

    found: list[tuple[str, Callable[[Any], Any]]] = []
    for field in message.DESCRIPTOR.fields:
        stem, _, end = field.name.rpartition("_")
        if has(field.name):
            found.append((field.name, _attribute(field.name)))
        elif end == "duration" and has(f"{stem}_s"):
            found.append((field.name, _attribute(f"{stem}_s")))
        elif end in ("low", "high") and has(stem):
            found.append((field.name, _end(stem, end)))
    return found


def _attribute(name: str) -> Callable[[Any], Any]:
    return lambda value: getattr(value, name)


def _end(stem: str, end: str) -> Callable[[Any], Any]:
    return lambda value: None if getattr(value, stem) is None else getattr(getattr(value, stem), end)


@functools.cache
def _writers(message: Any) -> Mapping[str, Callable[[Any], Any]]:
    """What turns a value into what the constructor of `message` takes, by field."""
    return {field.name: _writer(field) for field in message.DESCRIPTOR.fields}


def _writer(field: FieldDescriptor) -> Callable[[Any], Any]:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return lambda value: value or {}
    single = _single_writer(field)
    if field.is_repeated:
        return lambda value: [single(item) for item in value or ()]
    return single


def _single_writer(field: FieldDescriptor) -> Callable[[Any], Any]:
    if field.enum_type is not None:
        kind = field.enum_type
        return lambda value: value if isinstance(value, int) else enum_to_proto(kind, value)
    if field.message_type is not None:
        special: dict[str, Callable[[Any], Any]] = {
            "google.protobuf.Timestamp": timestamp,
            "google.protobuf.Duration": duration,
            "google.protobuf.Struct": dict,
        }
        inner = message_factory.GetMessageClass(field.message_type)
        convert: Callable[[Any], Any] = special.get(field.message_type.full_name, functools.partial(to_proto, inner))
        return lambda value: value if value is None or isinstance(value, Message) else convert(value)
    if field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT) and not field.has_presence:
        return lambda value: math.nan if value is None else value
    return lambda value: value


def _read(hint: Any, field: FieldDescriptor, value: Any, path: str) -> Any:
    """A field's value as the attribute's type wants it."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        hint = next(one for one in typing.get_args(hint) if one is not types.NoneType)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(value)
    if field.is_repeated:
        inner = typing.get_args(hint)[0]
        return tuple(_value(inner, field, item, f"{path}[{index}]") for index, item in enumerate(value))
    return _value(hint, field, value, path)


def _value(hint: Any, field: FieldDescriptor, value: Any, path: str) -> Any:
    if field.enum_type is not None and isinstance(hint, type) and issubclass(hint, enum.Enum):
        return enum_from_proto(hint, field.enum_type, value, path=path)
    if field.message_type is not None:
        if field.message_type.full_name in ("google.protobuf.Timestamp", "google.protobuf.Duration"):
            return value.ToNanoseconds() / 1e9
        if field.message_type.full_name == "google.protobuf.Struct":
            return plain(value)
        return from_proto(hint, value, path=path)
    return value
