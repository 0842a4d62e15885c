"""Domain values to JSON and back, for what is stored: a job's payload and result, answers, policies.

Enums are stored by value, tuples as lists; the types of the dataclass fields say how to read them.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """`value` as what `json.dumps` takes."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(to_json(key)): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def from_json(kind: type[T], data: Any) -> T:
    """The value of type `kind` that `to_json` wrote. A field that is absent takes its default."""
    return typing.cast(T, _read(kind, data))


def _read(kind: Any, data: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if data is None else _read(next(kind for kind in arguments if kind is not types.NoneType), data)
    if origin is tuple:
        return tuple(_read(arguments[0], item) for item in data)
    if origin in (Sequence, list):
        return [_read(arguments[0], item) for item in data]
    if origin in (Mapping, dict):
        return {_read(arguments[0], key): _read(arguments[1], item) for key, item in data.items()}
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        known = [field.name for field in dataclasses.fields(kind) if field.name in data]
        return kind(**{name: _read(hints[name], data[name]) for name in known})  # type: ignore[operator]
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind(data)
    return float(data) if kind is float else data
