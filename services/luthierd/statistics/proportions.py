"""Intervals and tests for scores that are 0 or 1, one arm or two arms paired by row.

Score intervals hold where a bootstrap cannot: at 0 and 100 %, and where few rows differ. Groups make the effective
number of trials smaller than the number of rows (Dean & Pagano 2015, "Evaluating Confidence Interval Methods for
Binomial Proportions in Clustered Surveys"): the counts are scaled down to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from scipy import special  # not scipy.stats: that takes two seconds to import, and only quantiles are needed

from luthierd.statistics.clustered import CONFIDENCE, MIN_GROUPS, GroupSums, mean_of, standard_error
from luthierd.statistics.estimates import Interval

BISECTIONS = 60
"""Halvings of an interval of length 2: below the rounding of a float."""


class PairedCounts(NamedTuple):
    """Rows of two arms scored 0 or 1: on `gained` only the arm is right, on `lost` only the reference, of `total`.
    Effective counts need not be whole.
    """

    gained: float
    lost: float
    total: float


def wilson_bounds(proportion: float, count: float, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval (1927) for `proportion` seen in `count` independent trials; `count` need not be whole."""
    z = float(special.ndtri((1 + confidence) / 2))
    centre = (proportion + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(proportion * (1 - proportion) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def exact_bounds(hits: int, count: int) -> tuple[float, float]:
    """Clopper and Pearson's exact interval (1934): covers at least 95 %, whatever the proportion."""
    tail = (1 - CONFIDENCE) / 2
    low = float(special.betaincinv(hits, count - hits + 1, tail)) if hits else 0.0
    high = float(special.betaincinv(hits + 1, count - hits, 1 - tail)) if hits < count else 1.0
    return low, high


def newcombe_bounds(
    own: float, own_count: float, other: float, other_count: float, *, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Newcombe's square-and-add (1998, method 10) of two Wilson intervals, for `own` minus `other`, taken as
    independent.
    """
    own_low, own_high = wilson_bounds(own, own_count, confidence=confidence)
    other_low, other_high = wilson_bounds(other, other_count, confidence=confidence)
    low = (own - other) - math.hypot(own - own_low, other_high - other)
    high = (own - other) + math.hypot(own_high - own, other - other_low)
    return max(-1.0, low), min(1.0, high)


def tango_bounds(counts: PairedCounts, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Tango's score interval (1998, Statistics in Medicine 17:891) for the difference of paired proportions."""
    z = float(special.ndtri((1 + confidence) / 2))
    estimate = (counts.gained - counts.lost) / counts.total
    low = _crossing(lambda delta: _tango_score(counts, delta) - z, -1.0, estimate)
    high = _crossing(lambda delta: _tango_score(counts, delta) + z, estimate, 1.0)
    return low, high


def mcnemar_mid_p(gained: int, lost: int) -> float:
    """Two-sided mid-p value of McNemar's exact test (Fagerland, Lydersen & Laake 2013): only the rows that differ
    speak. For independent rows; 1 where none differ.
    """
    differing = gained + lost
    if not differing:
        return 1.0
    fewer = min(gained, lost)
    below = float(special.bdtr(fewer, differing, 0.5))
    exactly = below - (float(special.bdtr(fewer - 1, differing, 0.5)) if fewer else 0.0)
    return min(1.0, 2 * (below - exactly / 2))


def proportion_interval(values: Sequence[float], groups: Sequence[str]) -> Interval | None:
    """Wilson's interval at the effective number of trials; None below MIN_GROUPS. Where every row agrees nothing can be
    learned of the groups' spread, and each group counts as one trial.
    """
    data = mean_of(values, groups)
    if data.group_count < MIN_GROUPS:
        return None
    p = data.value()
    low, high = wilson_bounds(p, effective_count(data, p * (1 - p), len(values)))
    return Interval(low, high, "Wilson score, groups", data.group_count)


def paired_counts(own: Sequence[float], other: Sequence[float]) -> PairedCounts:
    """Counts of rows that are 0 or 1."""
    gained = sum(a > b for a, b in zip(own, other, strict=True))
    lost = sum(a < b for a, b in zip(own, other, strict=True))
    return PairedCounts(gained, lost, len(own))


def paired_interval(own: Sequence[float], other: Sequence[float]) -> Interval | None:
    """Tango's interval for the difference of two arms whose rows are all independent (each its own group); None
    below MIN_GROUPS rows. Scaled to groups it covers 96 to 99 %, more than the bootstrap (docs/statistics.md): grouped
    rows take that.
    """
    if len(own) < MIN_GROUPS:
        return None
    low, high = tango_bounds(paired_counts(own, other))
    return Interval(low, high, "Tango score", len(own))


def effective_count(data: GroupSums, spread: float, row_count: int) -> float:
    """How many independent rows of variance `spread` would give the standard error that the groups give, corrected from
    the normal to Student's t; the number of groups where there is no spread.
    """
    error = standard_error(data)
    if spread <= 0.0 or error <= 0.0:
        return float(data.group_count)
    z, t = special.ndtri((1 + CONFIDENCE) / 2), special.stdtrit(data.group_count - 1, (1 + CONFIDENCE) / 2)
    return float(max(1.0, min(float(row_count), spread / error**2) * (z / t) ** 2))


def _tango_score(counts: PairedCounts, delta: float) -> float:
    """Tango's statistic, falling in `delta`; infinite where the restricted variance is 0."""
    gained, lost, total = counts
    slope = (2 * total + lost - gained) * delta - gained - lost
    root = math.sqrt(max(0.0, slope * slope + 8 * total * lost * delta * (1 - delta)))
    variance = total * ((root - slope) / (2 * total) + delta * (1 - delta))
    distance = gained - lost - total * delta
    if variance <= 0.0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def _crossing(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function crosses 0; an end if it does not."""
    if falling(low) <= 0:
        return low
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2
