"""Means and differences with their uncertainty. Frozen values; stdlib only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A 95 % interval unless stated otherwise. `method` names how it was made, `group_count` the groups behind it."""

    low: float
    high: float
    method: str
    group_count: int


@dataclass(frozen=True)
class Bounds:
    """A value with every missing score at its worst, and at its best, for the arm: the truth lies between them."""

    worst: float
    best: float


@dataclass(frozen=True)
class CommonRows:
    """A difference over only those rows on which both arms have a score."""

    difference: float
    interval: Interval | None
    row_count: int


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean over all rows, failed ones as 0. `interval` is None with too few groups."""

    value: float
    interval: Interval | None
    row_count: int
    scored_count: int
    bounds: Bounds | None = None

    @property
    def coverage(self) -> float:
        """Share of rows with a score, 0 to 1."""
        return self.scored_count / self.row_count if self.row_count else 0.0


@dataclass(frozen=True, kw_only=True)
class Difference:
    """An arm minus its reference, paired by row; `compare.py` has the rule for failed rows.

    `minimum_detectable_effect`: at 80 % power. `p_value`: two-sided, of no difference, by `test`. Both, and `interval`,
    are None with too few groups.
    """

    difference: float
    interval: Interval | None
    minimum_detectable_effect: float | None
    row_count: int
    group_count: int
    bounds: Bounds | None = None
    p_value: float | None = None
    test: str = ""
