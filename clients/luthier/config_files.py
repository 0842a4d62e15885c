"""YAML or mapping -> message of a contract, for training, curation, evaluation and gate files.

Keys are the fields' names; an enum takes its value with or without the prefix, in either case (`adapter_rag` or
`ARM_ADAPTER_RAG`). Needs PyYAML (the `cli` extra) to read files, nothing for mappings.
"""

from __future__ import annotations

import difflib
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from google.api import field_behavior_pb2
from google.protobuf import json_format
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from luthier.errors import ConfigError, UnknownKeyError

Config = TypeVar("Config", bound=Message)


def load(source: str | pathlib.Path | Mapping[str, Any], kind: type[Config]) -> Config:
    """Parses a file or a mapping into a message. `UnknownKeyError` names the dotted path and the nearest known key,
    `ConfigError` a value that does not fit.
    """
    found = source if isinstance(source, Mapping) else read_mapping(pathlib.Path(source))
    checked = _message(found, kind.DESCRIPTOR, path="")
    try:
        return json_format.ParseDict(checked, kind())
    except json_format.ParseError as error:
        name = kind.DESCRIPTOR.name
        raise ConfigError(f"the configuration does not fit {name}: {error}", metadata={"kind": name}) from error


def read_mapping(path: pathlib.Path) -> dict[str, Any]:
    """Reads a YAML file whose top is a mapping; an empty file is an empty mapping."""
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"reading {path} needs PyYAML: install the extra, pip install 'luthier[cli]'",
            reason="EXTRA_NOT_INSTALLED",
            metadata={"extra": "cli", "package": "pyyaml"},
        ) from error
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _unreadable(path, f"cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        place = f"line {line + 1}: " if line is not None else ""
        problem = getattr(error, "problem", None) or error
        raise _unreadable(path, f"is not YAML: {place}{problem}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise _unreadable(path, f"must hold a mapping of keys to values at its top, not a {type(found).__name__}")
    return found


def _unreadable(path: pathlib.Path, why: str) -> ConfigError:
    return ConfigError(f"{path} {why}", reason="CONFIG_UNREADABLE", metadata={"path": str(path)})


def nearest_key(key: str, known: Iterable[str]) -> str:
    """The known key that is most similar to `key`; empty if none is."""
    return next(iter(difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)), "")


def unknown_key(path: str, known: Sequence[str], *, of: str = "") -> UnknownKeyError:
    """The error for the key at the dotted path `path`, which is not one of `known`. of: what the key is in."""
    parent, _, key = path.rpartition(".")
    nearest = nearest_key(key, known)
    near_path = f"{parent}.{nearest}" if parent and of else nearest
    hint = f"did you mean '{near_path}'?" if nearest else f"known keys: {', '.join(known)}"
    where = f" in {of}" if of else ""
    return UnknownKeyError(f"unknown key '{path}'{where}; {hint}", path=path, nearest=nearest)


def _message(found: Any, descriptor: Any, *, path: str) -> dict[str, Any]:
    if not isinstance(found, Mapping):
        raise _misfit(path, "a mapping of keys to values", found)
    checked = {}
    for key, value in found.items():
        field = descriptor.fields_by_name.get(str(key))
        where = f"{path}.{key}" if path else str(key)
        if field is None:
            raise unknown_key(where, [one.name for one in descriptor.fields if not _is_output(one)])
        if value is not None:
            checked[str(key)] = _value(value, field, path=where)
    return checked


def _value(value: Any, field: FieldDescriptor, *, path: str) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return value
    if field.is_repeated:
        if not isinstance(value, list):
            raise _misfit(path, "a list", value)
        return [_single(item, field, path=f"{path}[{index}]") for index, item in enumerate(value)]
    return _single(value, field, path=path)


def _single(value: Any, field: FieldDescriptor, *, path: str) -> Any:
    if field.message_type is not None:
        is_ours = field.message_type.full_name.startswith("luthier.")
        return _message(value, field.message_type, path=path) if is_ours else value
    if field.enum_type is not None:
        return _enum_value(value, field.enum_type, path=path)
    return _scalar(value, field, path=path)


_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64,
}
_FLOATS = {FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT}


def _scalar(value: Any, field: FieldDescriptor, *, path: str) -> Any:
    """Checks the type here, where the path is known. Accepts text as a number, since YAML reads 5e-4 as text."""
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        if isinstance(value, bool):
            return value
        raise _misfit(path, "true or false", value)
    if kind == FieldDescriptor.CPPTYPE_STRING:
        if isinstance(value, str):
            return value
        raise _misfit(path, "a text", value)
    if kind in _INTEGERS and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind in _FLOATS and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            raise _misfit(path, "a number", value) from None
    raise _misfit(path, "a whole number" if kind in _INTEGERS else "a number", value)


def _enum_value(value: Any, enum: EnumDescriptor, *, path: str) -> str:
    prefix = enum.values[0].name.removesuffix("UNSPECIFIED")
    known = {v.name.removeprefix(prefix).lower(): v.name for v in enum.values[1:]}
    text = str(value).upper().replace("-", "_").removeprefix(prefix).lower()
    if text not in known:
        raise _misfit(path, f"one of {', '.join(known)}", value)
    return known[text]


def _is_output(field: FieldDescriptor) -> bool:
    """Whether only the service sets the field, so that it does not belong into a file."""
    behaviors = set(field.GetOptions().Extensions[field_behavior_pb2.field_behavior])
    return bool(behaviors & {field_behavior_pb2.OUTPUT_ONLY, field_behavior_pb2.IDENTIFIER})


def _misfit(path: str, wanted: str, found: Any) -> ConfigError:
    what = f"key '{path}'" if path else "the configuration"
    return ConfigError(f"{what} must be {wanted}, not {found!r}", metadata={"path": path, "wanted": wanted})
