"""Settings from plain values."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from luthierd.settings import Fault, InvalidSettingsError, faults, parse, plain, setting


class Mode(enum.StrEnum):
    FAST = "fast"
    EXACT = "exact"


@dataclass(frozen=True, kw_only=True)
class Settings:
    count: int = setting(3, at_least=1)
    share: float = setting(0.5, above=0, below=1)
    is_on: bool = False
    mode: Mode = Mode.FAST
    names: tuple[str, ...] = ()
    dtype: str = setting("auto", one_of=("auto", "float32"))

    def faults(self) -> Iterator[Fault]:
        if self.is_on and self.count > 5:
            yield Fault("count", "must be at most 5 while it is on")


def parsed(**given: Any) -> Settings:
    return parse(Settings, given, path="config", error=InvalidSettingsError)


def test_what_is_not_given_takes_its_default() -> None:
    assert parsed() == Settings()


def test_values_become_what_the_fields_hold() -> None:
    made = parsed(count=4.0, share=0.25, is_on=True, mode="EXACT", names=["a", "b"], dtype="float32")
    assert made == Settings(count=4, share=0.25, is_on=True, mode=Mode.EXACT, names=("a", "b"), dtype="float32")
    assert parsed(**plain(made)) == made


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"count": 0}, "config.count: must be at least 1, not 0"),
        ({"count": 1.5}, "config.count: must be an integer, not 1.5"),
        ({"count": True}, "config.count: must be an integer, not True"),
        ({"share": 1}, "config.share: must be above 0 and below 1, not 1.0"),
        ({"share": float("nan")}, "config.share: must be above 0 and below 1, not nan"),
        ({"share": "half"}, "config.share: must be a number, not 'half'"),
        ({"is_on": 1}, "config.is_on: must be true or false, not 1"),
        ({"mode": "slow"}, "config.mode: must be one of fast, exact, not 'slow'"),
        ({"names": "a"}, "config.names: must be a list of names, not 'a'"),
        ({"dtype": "int8"}, "config.dtype: must be one of auto, float32, not 'int8'"),
        ({"cuont": 2}, "config.cuont: 'cuont' is unknown; did you mean count?"),
        ({"is_on": True, "count": 6}, "config.count: must be at most 5 while it is on"),
    ],
)
def test_a_wrong_setting_is_named_with_what_would_be_right(given: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidSettingsError) as caught:
        parsed(**given)
    assert str(caught.value) == says
    assert [violation.field for violation in caught.value.violations] == [says.partition(":")[0]]


def test_an_unknown_name_tells_its_nearest_known_one_to_programs() -> None:
    with pytest.raises(InvalidSettingsError) as caught:
        parsed(shaer=1)
    assert caught.value.metadata == {"fields": "config.shaer", "nearest": "share"}


def test_every_fault_of_a_made_object_is_found() -> None:
    assert [fault.name for fault in faults(Settings(count=0, share=2.0))] == ["count", "share"]
