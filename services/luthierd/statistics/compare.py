"""The one rule for means and differences of scores.

- No row is dropped. A failed row has the score None, and counts 0.
- Differences are paired by row. Where only the reference failed, the difference is 0: a failure never favours the arm
  under test.
- Groups are resampled, never rows (`clustered.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from luthierd.statistics import proportions, significance
from luthierd.statistics.clustered import (
    CONFIDENCE,
    N_RESAMPLES,
    GroupSums,
    bootstrap_interval,
    difference_of,
    mean_of,
    minimum_detectable_effect,
)
from luthierd.statistics.estimates import Bounds, CommonRows, Difference, Interval, Mean

# One score a row, None where the row failed.
Scores = Sequence[float | None]

NO_SPREAD = 1e-9
"""Wider than rounding, narrower than any interval that means something."""


def filled(scores: Scores, missing: float = 0.0) -> list[float]:
    """Failed rows count `missing`."""
    return [missing if score is None else score for score in scores]


def filled_reference(scores: Scores, reference: Scores) -> list[float]:
    """The reference's scores; where it failed those of the arm, so that the difference is 0."""
    return [a if b is None else b for a, b in zip(filled(scores), reference, strict=True)]


def paired_differences(scores: Scores, reference: Scores) -> list[float]:
    """The difference on each row."""
    return [a - b for a, b in zip(filled(scores), filled_reference(scores, reference), strict=True)]


def difference_bounds(scores: Scores, reference: Scores) -> Bounds:
    """The difference with every missing score at its worst, and at its best, for the arm."""
    worst = plain_mean(filled(scores)) - plain_mean(filled(reference, 1.0))
    best = plain_mean(filled(scores, 1.0)) - plain_mean(filled(reference))
    return Bounds(worst, best)


@dataclass(frozen=True)
class PairedRows:
    """Rows on which arms were scored: `groups` has the group of each row. The rest says how intervals are made."""

    groups: Sequence[str]
    seed: int = 0
    n_resamples: int = N_RESAMPLES
    confidence: float = CONFIDENCE

    @property
    def are_independent(self) -> bool:
        """Whether every row is a group by itself."""
        return len(set(self.groups)) == len(self.groups)

    def part(self, positions: Sequence[int]) -> PairedRows:
        """Some of the rows."""
        return replace(self, groups=[self.groups[position] for position in positions])

    def sums(self, values: Sequence[float]) -> GroupSums:
        """The mean of one value a row."""
        return mean_of(values, self.groups)

    def mean(self, scores: Scores, *, is_proportion: bool) -> Mean:
        """`is_proportion`: every score is 0 or 1."""
        values = filled(scores)
        data = self.sums(values)
        if is_proportion:
            interval = proportions.proportion_interval(values, self.groups)
        else:
            interval = mean_interval(data, seed=self.seed, n_resamples=self.n_resamples)
        return Mean(
            value=data.value(),
            interval=interval,
            row_count=len(values),
            scored_count=sum(score is not None for score in scores),
            bounds=Bounds(data.value(), plain_mean(filled(scores, 1.0))),
        )

    def difference(self, scores: Scores, reference: Scores, *, is_proportion: bool = False) -> Difference:
        """With bounds and a p-value; `is_proportion` as in `row_interval`."""
        own, other = filled(scores), filled_reference(scores, reference)
        interval = self.row_interval(own, other, is_proportion=is_proportion)
        found = self._difference(self.sums(own), self.sums(other), interval)
        found = replace(found, bounds=difference_bounds(scores, reference))
        if not (is_proportion and self.are_independent):
            return tested(found)
        if interval is None:
            return found
        gained, lost, _ = proportions.paired_counts(own, other)
        p_value = proportions.mcnemar_mid_p(round(gained), round(lost))
        return replace(found, p_value=p_value, test=significance.MCNEMAR)

    def row_interval(self, own: Sequence[float], other: Sequence[float], *, is_proportion: bool) -> Interval | None:
        """The interval of the mean difference: Tango's if every score is 0 or 1 (`is_proportion`) and every row is a
        group by itself, else the bootstrap's.
        """
        if is_proportion and self.are_independent:
            return proportions.paired_interval(own, other)
        return self.interval(self.sums(own), self.sums(other))

    def estimate(self, scores: Scores, reference: Scores) -> Difference:
        """With the bootstrap interval, without bounds and p-value."""
        return self.estimate_of(self.sums(filled(scores)), self.sums(filled_reference(scores, reference)))

    def estimate_of(self, own: GroupSums, other: GroupSums) -> Difference:
        """The difference of two statistics over these rows, with its bootstrap interval."""
        return self._difference(own, other, self.interval(own, other))

    def interval(self, own: GroupSums, other: GroupSums) -> Interval | None:
        """The bootstrap interval of `own` minus `other`."""
        return difference_interval(own, other, seed=self.seed, n_resamples=self.n_resamples, confidence=self.confidence)

    def _difference(self, own: GroupSums, other: GroupSums, interval: Interval | None) -> Difference:
        data = difference_of(own, other)
        return Difference(
            difference=data.value() if self.groups else 0.0,
            interval=interval,
            minimum_detectable_effect=minimum_detectable_effect(data),
            row_count=len(self.groups),
            group_count=data.group_count,
        )

    def common(self, scores: Scores, reference: Scores) -> CommonRows | None:
        """The difference over the rows that both have scored; None without any."""
        both = [at for at, pair in enumerate(zip(scores, reference, strict=True)) if None not in pair]
        if not both:
            return None
        part = self.part(both)
        own, other = (part.sums([values[at] or 0.0 for at in both]) for values in (scores, reference))
        return CommonRows(own.value() - other.value(), part.interval(own, other), len(both))


def tested(found: Difference) -> Difference:
    """With the p-value that agrees with its 95 % interval."""
    if found.interval is None:
        return found
    p_value = significance.p_value(found.difference, found.interval)
    return replace(found, p_value=p_value, test=significance.BY_INTERVAL)


def mean_interval(data: GroupSums, *, seed: int, n_resamples: int = N_RESAMPLES) -> Interval | None:
    """The bootstrap interval of a value of 0 to 1, clipped to that. Where the bootstrap has no spread and would claim
    certainty, as with 100 % on every row: Wilson's, each group one trial. None with too few groups.
    """
    drawn = bootstrap_interval(data, seed=seed, n_resamples=n_resamples)
    if drawn is None or drawn.high - drawn.low > NO_SPREAD:
        return clipped(drawn, 0.0, 1.0)
    low, high = proportions.wilson_bounds(min(1.0, max(0.0, data.value())), data.group_count)
    return Interval(low, high, "Wilson score, groups as trials", data.group_count)


def difference_interval(
    arm: GroupSums,
    reference: GroupSums,
    *,
    seed: int,
    n_resamples: int = N_RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval | None:
    """The bootstrap interval of `arm` minus `reference` over the same rows, clipped to -1 to 1. With the same
    difference on every row: Newcombe's, each group one trial. None with too few groups.
    """
    data = difference_of(arm, reference)
    drawn = bootstrap_interval(data, seed=seed, n_resamples=n_resamples, confidence=confidence)
    if drawn is None or drawn.high - drawn.low > NO_SPREAD:
        return clipped(drawn, -1.0, 1.0)
    own, other = (min(1.0, max(0.0, one.value())) for one in (arm, reference))
    low, high = proportions.newcombe_bounds(own, arm.group_count, other, arm.group_count, confidence=confidence)
    return Interval(low, high, "Newcombe score, groups as trials", arm.group_count)


def clipped(interval: Interval | None, lowest: float, highest: float) -> Interval | None:
    """The interval within the range that its value can have."""
    if interval is None:
        return None
    return replace(interval, low=max(lowest, interval.low), high=min(highest, interval.high))


def plain_mean(values: Sequence[float]) -> float:
    """Without groups."""
    return sum(values) / len(values)
