"""What stands beside every figure: its interval, what failures could make of it. Frozen values; stdlib only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A 95 % interval. `method` says how it was made, `group_count` on how many independent groups it rests."""

    low: float
    high: float
    method: str
    group_count: int


@dataclass(frozen=True)
class Bounds:
    """A figure with every missing score at its worst, and at its best, for the arm: the truth is between them."""

    worst: float
    best: float


@dataclass(frozen=True)
class CommonRows:
    """A difference over the rows on which both arms have a score; shown beside the one over all rows."""

    difference: float
    interval: Interval | None
    row_count: int
