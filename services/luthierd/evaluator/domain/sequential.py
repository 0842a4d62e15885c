"""What a sequential evaluation is to decide. Stdlib only."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.metrics import Metric
from luthierd.statistics.estimates import Interval


@dataclass(frozen=True)
class SequentialTarget:
    """A difference to decide: is `arm` minus `reference` above `at_least`?"""

    metric: Metric
    arm: Arm
    reference: Arm
    at_least: float = 0.0


@dataclass(frozen=True)
class SequentialConfig:
    """Rounds of at least `round_size` rows; no targets: the primary metric of the adapter against every other arm."""

    round_size: int = 40
    targets: tuple[SequentialTarget, ...] = ()


class SequentialOutcome(enum.StrEnum):
    """ABOVE and BELOW are proved; FUTILE: all rows would probably prove neither; EXHAUSTED: all rows were asked."""

    ABOVE = "above"
    BELOW = "below"
    FUTILE = "futile"
    EXHAUSTED = "exhausted"


@dataclass(frozen=True, kw_only=True)
class SequentialDecision:
    """What became of a target, after how many rows, groups and looks. `interval` is None before the first look."""

    target: SequentialTarget
    outcome: SequentialOutcome
    row_count: int
    group_count: int
    round_count: int
    difference: float
    interval: Interval | None
