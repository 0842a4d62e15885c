"""What an evaluation asks beyond the holdout: suites of rows of their own, asked after the holdout through the same
journal, so that no question is paid twice, and told as figures beside the holdout's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.rows import Answer, Row
from luthierd.evaluator.domain.scores import Comparison, MetricResult, MetricResults, SuiteResult
from luthierd.evaluator.models.arms import ArmPlan, Query, in_turns
from luthierd.evaluator.models.generate import Generator, SampleStore
from luthierd.statistics import clustered, intervals, proportions, significance
from luthierd.statistics.clustered import GroupSums
from luthierd.statistics.uncertainty import Bounds

# Ids of suites' rows in the journal; a dataset's ids do not begin so.
ID_PREFIX = "suite:"

Answers = dict[Arm, dict[str, Answer]]


@dataclass(frozen=True)
class SuiteFindings:
    """What a suite found. `overall` and `slices` are added to those of the holdout, under their own metrics."""

    result: SuiteResult
    overall: MetricResults
    slices: Mapping[str, MetricResults] = field(default_factory=dict)


class PlainPlan(ArmPlan):
    """Every arm gets the row as it is: no examples, no instruction."""

    def query(self, arm: Arm, row: Row) -> Query:
        return Query(arm=arm, row=row, messages=row.prompt)


@dataclass(frozen=True)
class SuiteGenerator:
    """Asks a suite's rows and reads what the journal has of them."""

    generator: Generator
    samples: SampleStore

    async def generate(self, arms: Sequence[Arm], rows: Sequence[Row], plan: ArmPlan) -> Answers:
        """The answers of each arm by row id."""

        async def progress(done: int, total: int, arm: Arm | None) -> None:
            """The holdout's progress is what is told."""

        order = in_turns(arms, rows, window=self.generator.concurrency)
        queries: list[Query] = [plan.query(arm, row) for arm, row in order]
        await self.generator.generate_all(queries, progress=progress)
        return await self.answers(arms, {row.id for row in rows})

    async def answers(self, arms: Sequence[Arm], row_ids: set[str]) -> Answers:
        """What the journal has of these rows."""
        found: Answers = {arm: {} for arm in arms}
        for answer in await self.samples.answers():
            if answer.arm in found and answer.row_id in row_ids:
                found[answer.arm][answer.row_id] = answer
        return found


@dataclass(frozen=True)
class Measured:
    """Scores of an arm under a metric, row by row; None where the row failed. It counts as 0, the worst."""

    arm: Arm
    metric: Metric
    values: Sequence[float | None]


@dataclass(frozen=True)
class SuiteStatistics:
    """Means, intervals and paired differences over a suite's rows; `groups` has one entry a row."""

    groups: Sequence[str]
    seed: int
    n_resamples: int

    def figures(self, measured: Sequence[Measured], pairs: Sequence[tuple[Arm, Arm]]) -> MetricResults:
        """Metrics of each arm, and differences of the pairs whose arms are both there."""
        by_key = {(one.metric, one.arm): one for one in measured}
        comparisons = [
            self._difference(by_key[metric, arm], by_key[metric, reference])
            for metric in dict.fromkeys(one.metric for one in measured)
            for arm, reference in pairs
            if (metric, arm) in by_key and (metric, reference) in by_key
        ]
        groups = len(set(self.groups))
        return MetricResults([self._metric(one) for one in measured], comparisons, len(self.groups), groups)

    def _metric(self, one: Measured) -> MetricResult:
        values = [value or 0.0 for value in one.values]
        data = clustered.mean_of(values, self.groups)
        if one.metric.is_proportion:
            interval = proportions.proportion_interval(values, self.groups)
        else:
            interval = intervals.mean_interval(data, seed=self.seed, n_resamples=self.n_resamples)
        scored = sum(value is not None for value in one.values)
        best = clustered.mean_of([1.0 if value is None else value for value in one.values], self.groups).value()
        return MetricResult(
            one.arm, one.metric, data.value(), interval, len(values), scored, Bounds(data.value(), best)
        )

    def _difference(self, own: Measured, other: Measured) -> Comparison:
        """Where `own` failed it counts as 0, where only `other` failed the difference is 0, as on the holdout."""
        left = [value or 0.0 for value in own.values]
        right = [mine if value is None else value for mine, value in zip(left, other.values, strict=True)]
        arm, reference = clustered.mean_of(left, self.groups), clustered.mean_of(right, self.groups)
        missing = [sum(value is None for value in one.values) / max(1, len(one.values)) for one in (own, other)]
        means = [clustered.mean_of([value or 0.0 for value in one.values], self.groups).value() for one in (own, other)]
        difference = means[0] - means[1]
        bounds = Bounds(difference - missing[1], difference + missing[0])
        return replace(self.comparison(own.metric, own.arm, other.arm, arm, reference), bounds=bounds)

    def comparison(self, metric: Metric, arm: Arm, reference: Arm, own: GroupSums, other: GroupSums) -> Comparison:
        """The paired difference of two statistics over the same groups."""
        data = clustered.difference_of(own, other)
        interval = intervals.difference_interval(own, other, seed=self.seed, n_resamples=self.n_resamples)
        detectable = clustered.minimum_detectable_effect(data)
        return Comparison(
            metric,
            arm,
            reference,
            data.value(),
            interval,
            detectable,
            len(self.groups),
            data.group_count,
            p_value=significance.p_value(data.value(), interval) if interval else None,
            test=significance.BY_INTERVAL if interval else "",
        )


def ratio_of(numerators: Sequence[float], denominators: Sequence[float], groups: Sequence[str]) -> GroupSums:
    """The ratio of two sums over rows; NaN in a draw whose denominator is 0."""
    sums = [clustered.mean_of(values, groups).sums[:, 0] for values in (numerators, denominators)]

    def ratio(drawn: clustered.Array) -> clustered.Array:
        empty = np.full(len(drawn), np.nan)
        return np.asarray(np.divide(drawn[:, 0], drawn[:, 1], out=empty, where=drawn[:, 1] != 0), dtype=np.float64)

    return GroupSums(np.stack(sums, axis=1), ratio)


def merged(figures: Sequence[MetricResults]) -> MetricResults:
    """All of them as one, with the p-values corrected for all; the counts are those of the largest."""
    comparisons = [comparison for one in figures for comparison in one.comparisons]
    adjusted = significance.holm([comparison.p_value for comparison in comparisons])
    return MetricResults(
        [metric for one in figures for metric in one.metrics],
        [replace(one, adjusted_p_value=p_value) for one, p_value in zip(comparisons, adjusted, strict=True)],
        max((one.row_count for one in figures), default=0),
        max((one.group_count for one in figures), default=0),
    )
