"""Dataclasses to JSON and back, as jobs, samples and policies are stored."""

from __future__ import annotations

import enum
import json
import math
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NewType

import msgspec
import numpy as np
import pytest
from luthierd.codec import from_json, to_json

Label = NewType("Label", str)


class Arm(enum.StrEnum):
    BASE = "base"
    TUNED = "tuned"


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Results:
    arm: Arm
    scores: tuple[float, ...]
    intervals: Mapping[Arm, Interval] = field(default_factory=dict)
    labels: Mapping[Label, tuple[int, ...]] = field(default_factory=dict)
    best: Interval | None = None
    details: dict[str, Any] = field(default_factory=dict)
    seed: int = 7


FULL = Results(
    arm=Arm.TUNED,
    scores=(0.5, 1.0),
    intervals={Arm.BASE: Interval(0.25, 0.75)},
    labels={Label("yes"): (1, 2)},
    best=Interval(0.0, 1.0),
    details={"nested": [1, {"a": None}]},
)


def test_what_was_stored_is_read_back() -> None:
    assert from_json(Results, json.loads(json.dumps(to_json(FULL)))) == FULL


def test_enums_are_stored_by_value_and_tuples_as_lists() -> None:
    assert json.loads(json.dumps(to_json(FULL))) == {
        "arm": "tuned",
        "scores": [0.5, 1.0],
        "intervals": {"base": {"low": 0.25, "high": 0.75}},
        "labels": {"yes": [1, 2]},
        "best": {"low": 0.0, "high": 1.0},
        "details": {"nested": [1, {"a": None}]},
        "seed": 7,
    }


def test_an_absent_field_takes_its_default_and_an_unknown_key_is_ignored() -> None:
    found = from_json(Results, {"arm": "base", "scores": [], "retired": 1})
    assert found == Results(arm=Arm.BASE, scores=())


def test_an_integer_is_read_into_a_field_of_floats() -> None:
    low = from_json(Interval, {"low": 0, "high": 1}).low
    assert (low, type(low)) == (0.0, float)


def test_numpy_floats_and_read_only_mappings_are_stored_and_nan_stays_nan() -> None:
    stored = to_json(Interval(np.float64(0.1), math.nan))
    assert (stored["low"], type(stored["low"])) == (0.1, float)
    assert math.isnan(stored["high"])
    assert to_json(types.MappingProxyType({Arm.BASE: 1})) == {"base": 1}


def test_what_does_not_fit_is_named_by_its_path() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"\$\.best\.low"):
        from_json(Results, {"arm": "base", "scores": [], "best": {"low": "x", "high": 1}})


def test_what_cannot_be_stored_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="object cannot be stored"):
        to_json({"x": object()})
