"""Dataclasses to JSON and back, for what is stored: payloads and results of jobs, samples, policies, deployments.

Enums are stored by value, tuples as lists. Reading goes by the types of the fields: an absent field takes its default,
an unknown key is ignored, an integer is read into a float field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """`value` as what `json.dumps` takes."""
    return msgspec.to_builtins(value, str_keys=True, enc_hook=_plain)


def from_json(kind: type[T], data: Any) -> T:
    """The value of type `kind` that `to_json` wrote. msgspec.ValidationError names the path of what does not fit."""
    return msgspec.convert(data, kind, str_keys=True)


def _plain(value: Any) -> Any:
    """What msgspec does not know: NumPy's floats, which are floats, and mappings that are no dict."""
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise NotImplementedError(f"{type(value).__name__} cannot be stored")
