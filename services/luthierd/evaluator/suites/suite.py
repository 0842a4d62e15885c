"""What an evaluation asks beyond the holdout: suites of rows of their own, asked after the holdout through the same
journal, so that no question is paid twice, and told as figures beside the holdout's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.rows import Answer, Row
from luthierd.evaluator.domain.scores import Comparison, MetricResult, MetricResults, SuiteResult
from luthierd.evaluator.models.arms import ArmPlan, Query, in_turns
from luthierd.evaluator.models.generate import Generator, SampleStore
from luthierd.evaluator.scorers.metric_table import adjusted
from luthierd.evaluator.scorers.registry import spec_of
from luthierd.statistics import clustered
from luthierd.statistics.clustered import GroupSums
from luthierd.statistics.compare import PairedRows, Scores

# Every arm that a suite asks, against base.
AGAINST_BASE = tuple((arm, Arm.BASE) for arm in Arm if arm is not Arm.BASE)
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


def paired_results(
    scores: Mapping[tuple[Metric, Arm], Scores], rows: PairedRows, pairs: Sequence[tuple[Arm, Arm]] = AGAINST_BASE
) -> MetricResults:
    """The mean of each arm under each metric, and the differences of the pairs of which both arms are there."""
    metrics = [
        MetricResult(arm=arm, metric=metric, **vars(rows.mean(values, is_proportion=spec_of(metric).is_proportion)))
        for (metric, arm), values in scores.items()
    ]
    comparisons = [
        Comparison(metric=metric, arm=arm, reference=reference, **vars(rows.difference(own, other)))
        for metric in dict.fromkeys(metric for metric, _ in scores)
        for arm, reference in pairs
        if (own := scores.get((metric, arm))) is not None and (other := scores.get((metric, reference))) is not None
    ]
    return MetricResults(metrics, comparisons, len(rows.groups), len(set(rows.groups)))


def ratio_of(numerators: Sequence[float], denominators: Sequence[float], groups: Sequence[str]) -> GroupSums:
    """The ratio of two sums over rows; NaN in a draw whose denominator is 0."""
    sums = [clustered.mean_of(values, groups).sums[:, 0] for values in (numerators, denominators)]

    def ratio(drawn: clustered.Array) -> clustered.Array:
        empty = np.full(len(drawn), np.nan)
        return np.asarray(np.divide(drawn[:, 0], drawn[:, 1], out=empty, where=drawn[:, 1] != 0), dtype=np.float64)

    return GroupSums(np.stack(sums, axis=1), ratio)


def merged(figures: Sequence[MetricResults]) -> MetricResults:
    """All of them as one, with the p-values corrected for all; the counts are those of the largest."""
    return MetricResults(
        [metric for one in figures for metric in one.metrics],
        adjusted([comparison for one in figures for comparison in one.comparisons]),
        max((one.row_count for one in figures), default=0),
        max((one.group_count for one in figures), default=0),
    )
