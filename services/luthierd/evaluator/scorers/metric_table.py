"""From the scores of rows to each arm's means and the paired differences between arms, by the rule of
`statistics/compare.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from luthierd.evaluator.domain.arm import PAIRS, Arm
from luthierd.evaluator.domain.metrics import LABEL_F1_MACRO, Metric
from luthierd.evaluator.domain.rows import Row
from luthierd.evaluator.domain.scores import Comparison, Confusion, MetricResult, MetricResults, RowScores
from luthierd.evaluator.scorers.labels import predicted_label, reference_labels
from luthierd.evaluator.scorers.registry import spec_of
from luthierd.evaluator.scorers.scorer import Sample
from luthierd.statistics import clustered, compare, significance
from luthierd.statistics.clustered import GroupSums
from luthierd.statistics.compare import PairedRows, Scores
from luthierd.statistics.estimates import Bounds, CommonRows


@dataclass(frozen=True, kw_only=True)
class MetricTable:
    """Metrics of scored rows. `samples` and the scores of `row_scores` are in the order of `rows`."""

    rows: Sequence[Row]
    samples: Mapping[Arm, Sequence[Sample]]
    row_scores: Sequence[RowScores]
    seed: int
    n_resamples: int
    labelled: bool

    def part(self, positions: Sequence[int]) -> MetricTable:
        """The same over some of the rows. Macro-F1 needs two labels to say more than the accuracy."""
        rows = [self.rows[position] for position in positions]
        return replace(
            self,
            rows=rows,
            samples={arm: [given[position] for position in positions] for arm, given in self.samples.items()},
            row_scores=[
                replace(scored, scores=[scored.scores[position] for position in positions])
                for scored in self.row_scores
            ],
            labelled=self.labelled and len({row.label for row in rows}) > 1,
        )

    def results(self) -> MetricResults:
        """Every mean and every difference of these rows."""
        return MetricResults(self.metrics(), self.comparisons(), len(self.rows), len(set(self._paired.groups)))

    def metrics(self) -> list[MetricResult]:
        """Each arm under each metric."""
        results = [self._metric(one.arm, one.metric, one.values) for one in self.row_scores]
        return results + ([self._f1(arm) for arm in self.samples] if self.labelled else [])

    def comparisons(self) -> list[Comparison]:
        """The differences of PAIRS, their p-values adjusted for all of them."""
        values = {(one.metric, one.arm): one.values for one in self.row_scores}
        pairs = [(arm, reference) for arm, reference in PAIRS if arm in self.samples and reference in self.samples]
        found = [
            self._comparison(metric, arm, reference, values[metric, arm], values[metric, reference])
            for metric in dict.fromkeys(one.metric for one in self.row_scores)
            for arm, reference in pairs
            if (metric, arm) in values and (metric, reference) in values
        ]
        return adjusted(found + ([self._f1_comparison(*pair) for pair in pairs] if self.labelled else []))

    @cached_property
    def _paired(self) -> PairedRows:
        return PairedRows([row.group for row in self.rows], self.seed, self.n_resamples)

    def _metric(self, arm: Arm, metric: Metric, scores: Scores) -> MetricResult:
        scored = [score for score in scores if score is not None]
        mean = self._paired.mean(scores, is_proportion=spec_of(metric).is_proportion)
        scored_value = compare.plain_mean(scored) if scored else None
        return MetricResult(arm=arm, metric=metric, scored_value=scored_value, **vars(mean))

    def _comparison(self, metric: Metric, arm: Arm, reference: Arm, scores: Scores, compared: Scores) -> Comparison:
        found = self._paired.difference(scores, compared, is_proportion=spec_of(metric).is_proportion)
        common = self._paired.common(scores, compared)
        return Comparison(metric=metric, arm=arm, reference=reference, common=common, **vars(found))

    def _f1(self, arm: Arm) -> MetricResult:
        samples = self.samples[arm]
        data = self._f1_sums(samples)
        answered = [position for position, sample in enumerate(samples) if sample.answer is not None]
        scored = self.part(answered)._f1_sums([samples[position] for position in answered]) if answered else None
        return MetricResult(
            arm=arm,
            metric=LABEL_F1_MACRO,
            value=data.value(),
            interval=compare.mean_interval(data, seed=self.seed, n_resamples=self.n_resamples),
            row_count=len(self.rows),
            scored_count=len(answered),
            bounds=Bounds(data.value(), self._f1_value([_right(sample) for sample in samples])),
            scored_value=scored.value() if scored else None,
        )

    def _f1_comparison(self, arm: Arm, reference: Arm) -> Comparison:
        """The rule of `compare.py` for a statistic that is not a mean over rows."""
        given, compared = self.samples[arm], self.samples[reference]
        filled = [own if sample.answer is None else sample for own, sample in zip(given, compared, strict=True)]
        bounds = Bounds(
            worst=self._f1_value(given) - self._f1_value([_right(sample) for sample in compared]),
            best=self._f1_value([_right(sample) for sample in given]) - self._f1_value(compared),
        )
        found = compare.tested(self._paired.estimate_of(self._f1_sums(given), self._f1_sums(filled)))
        return Comparison(
            metric=LABEL_F1_MACRO,
            arm=arm,
            reference=reference,
            common=self._f1_common(given, compared),
            **vars(replace(found, bounds=bounds)),
        )

    def _f1_common(self, given: Sequence[Sample], compared: Sequence[Sample]) -> CommonRows | None:
        both = [at for at, (a, b) in enumerate(zip(given, compared, strict=True)) if None not in (a.answer, b.answer)]
        if not both:
            return None
        part = self.part(both)
        own, other = (part._f1_sums([samples[at] for at in both]) for samples in (given, compared))
        return CommonRows(own.value() - other.value(), part._paired.interval(own, other), len(both))

    def _f1_value(self, samples: Sequence[Sample]) -> float:
        return self._f1_sums(samples).value()

    def _f1_sums(self, samples: Sequence[Sample]) -> GroupSums:
        labels = reference_labels(samples)
        return clustered.macro_f1_of(
            [sample.reference.label or Confusion.OTHER for sample in samples],
            [predicted_label(sample, labels) for sample in samples],
            self._paired.groups,
        )


def adjusted(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """With p-values adjusted for all of them (Holm)."""
    p_values = significance.holm([one.p_value for one in comparisons])
    return [replace(one, adjusted_p_value=p_value) for one, p_value in zip(comparisons, p_values, strict=True)]


def _right(sample: Sample) -> Sample:
    """The sample; if it has no answer, with the reference as its answer."""
    return sample if sample.answer is not None else replace(sample, answer=sample.reference)
