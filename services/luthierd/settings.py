"""Settings given by name: a frozen dataclass whose fields state their limits.

    @dataclass(frozen=True, kw_only=True)
    class CleanSettings:
        min_completion_characters: int = setting(1, at_least=1)

`parse` makes one of plain values (YAML, JSON, a protobuf Struct); `faults` checks one that is made already. A class
whose fields depend on each other has a method `faults()` that yields these faults, too.
"""

from __future__ import annotations

import dataclasses
import enum
import operator
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from luthierd.errors import FieldViolation, InvalidArgumentError
from luthierd.text import nearest

T = TypeVar("T")

_LIMITS: dict[str, Callable[[float, float], bool]] = {
    "at_least": operator.ge,
    "above": operator.gt,
    "at_most": operator.le,
    "below": operator.lt,
}


@dataclasses.dataclass(frozen=True)
class Fault:
    """A wrong setting: its name and what would be right. `nearest`: the known name that an unknown one looks like."""

    name: str
    description: str
    nearest: str = ""


class InvalidSettingsError(InvalidArgumentError):
    """Settings with an unknown name or a value out of range. All of them are named at once."""

    reason = "INVALID_SETTINGS"

    def __init__(self, path: str, found: Sequence[Fault]) -> None:
        violations = [FieldViolation(f"{path}.{fault.name}".removesuffix("."), fault.description) for fault in found]
        metadata = {"fields": ",".join(violation.field for violation in violations)}
        metadata |= {"nearest": found[0].nearest} if found[0].nearest else {}
        message = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
        super().__init__(message, metadata=metadata, violations=violations)


def setting(
    default: T,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    one_of: Sequence[str] | None = None,
) -> T:
    """A field with a default and limits."""
    limits = {"at_least": at_least, "above": above, "at_most": at_most, "below": below}
    given = {name: limit for name, limit in limits.items() if limit is not None}
    field: T = dataclasses.field(default=default, metadata={"limits": given, "one_of": one_of})
    return field


def parse(kind: type[T], given: Mapping[str, Any], *, path: str, error: type[InvalidSettingsError]) -> T:
    """The settings `given`, the rest by default. `error` names the faults below `path`."""
    hints = typing.get_type_hints(kind)
    values, found = {}, []
    for name, value in given.items():
        if name not in hints:
            found.append(unknown(name, name, hints))
            continue
        try:
            values[name] = _converted(value, hints[name])
        except ValueError as wrong:
            found.append(Fault(name, f"must be {wrong}, not {value!r}"))
    if found:
        raise error(path, found)
    made = kind(**values)
    if found := faults(made):
        raise error(path, found)
    return made


def faults(settings: Any) -> list[Fault]:
    """What is out of its limits in a settings object, by the limits of its fields and its own `faults()`."""
    found = []
    for field in dataclasses.fields(settings):
        value, limits = getattr(settings, field.name), field.metadata.get("limits", {})
        if not all(_LIMITS[name](value, limit) for name, limit in limits.items()):
            wanted = " and ".join(f"{name.replace('_', ' ')} {limit}" for name, limit in limits.items())
            found.append(Fault(field.name, f"must be {wanted}, not {value!r}"))
        if (choices := field.metadata.get("one_of")) and value not in choices:
            found.append(Fault(field.name, f"must be one of {', '.join(choices)}, not {value!r}"))
    return found + list(settings.faults() if hasattr(settings, "faults") else [])


def plain(settings: Any) -> dict[str, Any]:
    """Settings as values that JSON holds; `parse` reads them back."""
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def unknown(name: str, value: str, known: Iterable[str]) -> Fault:
    """The fault of setting `name`, where `value` is none of the `known` names."""
    names = list(known)
    near = nearest(value, names)
    hint = f"did you mean {near}?" if near else f"choose one of {', '.join(names)}" if names else "there are none"
    return Fault(name, f"{value!r} is unknown; {hint}", near)


def _converted(value: Any, kind: Any) -> Any:
    """`value` as the field's type takes it. ValueError says what the type is."""
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) and item for item in value):
            raise ValueError("a list of names")
        return tuple(value)
    if issubclass(kind, enum.StrEnum):
        if not isinstance(value, str) or value.lower() not in list(kind):
            raise ValueError(f"one of {', '.join(kind)}")
        return kind(value.lower())
    if kind in (bool, str):
        if not isinstance(value, kind):
            raise ValueError("true or false" if kind is bool else "a text")
        return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        if not is_number or value != value // 1:  # a Struct has no integers, only doubles
            raise ValueError("an integer")
    elif not is_number:
        raise ValueError("a number")
    return kind(value)
