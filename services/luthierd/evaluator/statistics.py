"""Intervals for scores that come in groups. Rows of one group (one source module, one author) are not independent: the
group is drawn, never the row. Treating rows as independent made a 5 % test fire 43 % of the time on our data.

Method: bootstrap over groups, 95 % percentile interval widened to Student's t (Hesterberg 2015, "What Teachers Should
Know About the Bootstrap", section 5.2, "expanded percentile"). Chosen over BCa and over a jackknife t interval by
simulation: with 12 groups of skewed paired differences plain percentile covers 89 %, BCa 87 %, this one 93.5 %, no
wider than jackknife t. With few groups every method covers too little (90 % at 5): below MIN_GROUPS there is no
interval at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special  # not scipy.stats: that takes two seconds to import, and only quantiles are needed

from luthierd.evaluator.domain import Interval

Array = npt.NDArray[np.float64]
# Maps group sums, shape (draws, columns), to one value a draw, shape (draws,).
Statistic = Callable[[Array], Array]

MIN_GROUPS = 5
CONFIDENCE = 0.95
POWER = 0.8
# Monte Carlo error of a 2.5 % quantile at 4,000 draws is about a fiftieth of the interval's width.
DRAWS = 4000
# 32 MB of counts, twice: as whole numbers and as weights.
COUNTS_AT_ONCE = 4_000_000
# Wider than rounding, narrower than any interval that means something.
NO_SPREAD = 1e-9


@dataclass(frozen=True)
class GroupSums:
    """What a statistic needs of each group, summed over its rows: shape (groups, columns)."""

    sums: Array
    statistic: Statistic

    @property
    def group_count(self) -> int:
        return int(self.sums.shape[0])

    def value(self) -> float:
        return float(self.statistic(self.sums.sum(axis=0, keepdims=True))[0])


class ProportionBounds(NamedTuple):
    low: float
    high: float


def mean_of(values: Sequence[float], groups: Sequence[str]) -> GroupSums:
    """The mean over rows. Pass differences of two arms to get the paired mean difference."""
    index = _group_index(groups)
    sums = np.zeros((index.group_count, 2))
    np.add.at(sums[:, 0], index.of_row, np.asarray(values, dtype=np.float64))
    np.add.at(sums[:, 1], index.of_row, 1.0)
    return GroupSums(sums, lambda drawn: drawn[:, 0] / drawn[:, 1])


def macro_f1_of(reference: Sequence[str], predicted: Sequence[str], groups: Sequence[str]) -> GroupSums:
    """Macro-F1 over the labels that the references use; a prediction of any other label is a miss of the true one.

    Equals scikit-learn's `f1_score(average="macro", labels=sorted(set(reference)), zero_division=0)`. In a draw where a
    label does not occur, it leaves that draw's average.
    """
    index = _group_index(groups)
    labels = {label: column for column, label in enumerate(sorted(set(reference)))}
    sums = np.zeros((index.group_count, 3, len(labels)))  # hits, false alarms, misses
    for group, true, said in zip(index.of_row, reference, predicted, strict=True):
        if true == said:
            sums[group, 0, labels[true]] += 1
            continue
        sums[group, 2, labels[true]] += 1
        if said in labels:
            sums[group, 1, labels[said]] += 1
    return GroupSums(sums.reshape(index.group_count, -1), _macro_f1)


def difference_of(arm: GroupSums, reference: GroupSums) -> GroupSums:
    """`arm` minus `reference` on the same rows: each draw takes the same groups for both."""
    columns = arm.sums.shape[1]
    return GroupSums(
        np.concatenate([arm.sums, reference.sums], axis=1),
        lambda drawn: arm.statistic(drawn[:, :columns]) - reference.statistic(drawn[:, columns:]),
    )


def bootstrap_interval(
    data: GroupSums, *, seed: int, draws: int = DRAWS, confidence: float = CONFIDENCE
) -> Interval | None:
    """The two-sided interval; None below MIN_GROUPS. A draw is a count a group: all of them are one product."""
    groups = data.group_count
    if groups < MIN_GROUPS:
        return None
    replicates = data.statistic(_resampled_sums(data.sums, seed=seed, draws=draws))
    t = special.stdtrit(groups - 1, (1 + confidence) / 2)
    tail = float(special.ndtr(-math.sqrt(groups / (groups - 1)) * t))
    low, high = np.quantile(replicates[np.isfinite(replicates)], [tail, 1 - tail])
    return Interval(float(low), float(high), "group bootstrap, expanded percentile", groups)


def _resampled_sums(sums: Array, *, seed: int, draws: int) -> Array:
    """The sums of each draw, shape (draws, columns); some draws at a time, as all of their counts of 50,000 groups
    would take gigabytes.
    """
    rng, groups = np.random.default_rng(seed), len(sums)
    shares, step = np.full(groups, 1 / groups), max(1, COUNTS_AT_ONCE // groups)
    sizes = [min(step, draws - start) for start in range(0, draws, step)]
    return np.concatenate([rng.multinomial(groups, shares, size=size).astype(np.float64) @ sums for size in sizes])


def standard_error(data: GroupSums) -> float:
    """Standard error by the delete-one-group jackknife; NaN with fewer than two groups."""
    groups = data.group_count
    if groups < 2:
        return math.nan
    left_out = data.statistic(data.sums.sum(axis=0) - data.sums)
    return float(np.sqrt((groups - 1) / groups * np.sum((left_out - left_out.mean()) ** 2)))


def detectable_difference(data: GroupSums) -> float | None:
    """The least true difference that data like this proves with power .8 at alpha .05 two-sided; None below
    MIN_GROUPS.
    """
    if data.group_count < MIN_GROUPS:
        return None
    df = data.group_count - 1
    return float((special.stdtrit(df, (1 + CONFIDENCE) / 2) + special.stdtrit(df, POWER)) * standard_error(data))


def wilson_bounds(proportion: float, count: float, *, confidence: float = CONFIDENCE) -> ProportionBounds:
    """Wilson's score interval (1927) for `proportion` seen in `count` independent trials; `count` need not be whole."""
    z = float(special.ndtri((1 + confidence) / 2))
    centre = (proportion + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(proportion * (1 - proportion) / count + z * z / (4 * count * count))
    return ProportionBounds(max(0.0, centre - half), min(1.0, centre + half))


def proportion_interval(values: Sequence[float], groups: Sequence[str]) -> Interval | None:
    """Wilson's interval at the effective number of trials (Dean & Pagano 2015), which groups make smaller than the
    number of rows. Where every row agrees nothing can be learned of the groups' spread, and each group counts as one
    trial.
    """
    data = mean_of(values, groups)
    if data.group_count < MIN_GROUPS:
        return None
    low, high = wilson_bounds(data.value(), _effective_count(data, len(values)))
    return Interval(low, high, "Wilson score, groups", data.group_count)


def mean_interval(data: GroupSums, *, seed: int, draws: int = DRAWS) -> Interval | None:
    """The bootstrap interval of a figure in 0 to 1. Where the bootstrap has no spread (100 % on every row) it would
    claim certainty: then Wilson's interval takes over, each group one trial.
    """
    drawn = bootstrap_interval(data, seed=seed, draws=draws)
    if drawn is None or drawn.high - drawn.low > NO_SPREAD:
        return drawn
    low, high = wilson_bounds(min(1.0, max(0.0, data.value())), data.group_count)
    return Interval(low, high, "Wilson score, groups as trials", data.group_count)


def difference_interval(
    arm: GroupSums, reference: GroupSums, *, seed: int, draws: int = DRAWS, confidence: float = CONFIDENCE
) -> Interval | None:
    """The bootstrap interval of `arm` minus `reference`, both in 0 to 1 and over the same rows. Where the bootstrap has
    no spread (100 % against 0 % on every row), Newcombe's square-and-add of two Wilson intervals (1998, method 10)
    takes over, each group one trial.
    """
    drawn = bootstrap_interval(difference_of(arm, reference), seed=seed, draws=draws, confidence=confidence)
    if drawn is None or drawn.high - drawn.low > NO_SPREAD:
        return drawn
    p, q = (min(1.0, max(0.0, data.value())) for data in (arm, reference))
    own, other = (wilson_bounds(share, arm.group_count, confidence=confidence) for share in (p, q))
    low = (p - q) - math.hypot(p - own.low, other.high - q)
    high = (p - q) + math.hypot(own.high - p, q - other.low)
    return Interval(max(-1.0, low), min(1.0, high), "Newcombe score, groups as trials", arm.group_count)


def _effective_count(data: GroupSums, row_count: int) -> float:
    p, error = data.value(), standard_error(data)
    spread = p * (1 - p)
    if spread <= 0.0 or error <= 0.0:
        return float(data.group_count)
    effective = min(float(row_count), spread / error**2)
    z, t = special.ndtri((1 + CONFIDENCE) / 2), special.stdtrit(data.group_count - 1, (1 + CONFIDENCE) / 2)
    return float(max(1.0, effective * (z / t) ** 2))


class _GroupIndex(NamedTuple):
    of_row: npt.NDArray[np.intp]
    group_count: int


def _group_index(groups: Sequence[str]) -> _GroupIndex:
    names, of_row = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)
    return _GroupIndex(of_row.astype(np.intp), len(names))


def _macro_f1(drawn: Array) -> Array:
    hits, false_alarms, misses = np.split(drawn, 3, axis=1)
    present = (hits + misses) > 0
    f1 = np.divide(2 * hits, 2 * hits + false_alarms + misses, out=np.zeros_like(hits), where=present)
    return np.asarray(f1.sum(axis=1) / np.maximum(present.sum(axis=1), 1), dtype=np.float64)
