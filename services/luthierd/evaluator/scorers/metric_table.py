"""From scores to figures: means with intervals and bounds, and the paired differences between arms. No row is dropped:
one without a score counts against its arm, and every figure says what it would be if all such rows were at their worst,
or best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.rows import Row
from luthierd.evaluator.domain.scores import Comparison, Confusion, MetricResult, MetricResults, RowScores, Score
from luthierd.evaluator.scorers.labels import predicted_label, reference_labels
from luthierd.evaluator.scorers.scorer import Sample
from luthierd.statistics import clustered, intervals, proportions, significance
from luthierd.statistics.clustered import GroupSums
from luthierd.statistics.uncertainty import Bounds, CommonRows

# Pairs shown and gated: each adapter arm against everything without it, the two against each other, each helped base
# against base; then the adapter trained for retrieval against what it would replace, and the adapter under test against
# other answerers.
PAIRS = (
    (Arm.ADAPTER, Arm.BASE),
    (Arm.ADAPTER, Arm.PROMPTED),
    (Arm.ADAPTER, Arm.RAG),
    (Arm.ADAPTER_RAG, Arm.BASE),
    (Arm.ADAPTER_RAG, Arm.PROMPTED),
    (Arm.ADAPTER_RAG, Arm.RAG),
    (Arm.ADAPTER_RAG, Arm.ADAPTER),
    (Arm.PROMPTED, Arm.BASE),
    (Arm.RAG, Arm.BASE),
    (Arm.RAG, Arm.PROMPTED),
    (Arm.ADAPTER_RAFT, Arm.RAG),
    (Arm.ADAPTER_RAFT, Arm.ADAPTER),
    (Arm.ADAPTER_RAFT, Arm.ADAPTER_RAG),
    (Arm.ADAPTER, Arm.CHALLENGER),
    (Arm.ADAPTER, Arm.ENDPOINT),
    (Arm.ADAPTER_RAG, Arm.ENDPOINT),
)


@dataclass(frozen=True)
class MetricTable:
    """Figures of scored rows. `samples` and the scores of `row_scores` are in the order of `rows`."""

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

    def figures(self) -> MetricResults:
        """Everything that can be said of these rows."""
        return MetricResults(self.metrics(), self.comparisons(), len(self.rows), len(set(self.groups)))

    @cached_property
    def groups(self) -> list[str]:
        return [row.group for row in self.rows]

    def metrics(self) -> list[MetricResult]:
        results = [self._of_rows(scored) for scored in self.row_scores]
        return results + ([self._f1(arm) for arm in self.samples] if self.labelled else [])

    def comparisons(self) -> list[Comparison]:
        by_metric = {(scored.metric, scored.arm): scored.scores for scored in self.row_scores}
        pairs = [(arm, reference) for arm, reference in PAIRS if arm in self.samples and reference in self.samples]
        found = [
            self._difference(metric, arm, reference, by_metric[metric, arm], by_metric[metric, reference])
            for metric in dict.fromkeys(scored.metric for scored in self.row_scores)
            for arm, reference in pairs
            if (metric, arm) in by_metric and (metric, reference) in by_metric
        ]
        found += [self._f1_difference(arm, reference) for arm, reference in pairs] if self.labelled else []
        adjusted = significance.holm([one.p_value for one in found])
        return [replace(one, adjusted_p_value=p_value) for one, p_value in zip(found, adjusted, strict=True)]

    def _of_rows(self, scored: RowScores) -> MetricResult:
        values = _filled(scored.scores, 0.0)
        data = clustered.mean_of(values, self.groups)
        if scored.metric.is_proportion:
            interval = proportions.proportion_interval(values, self.groups)
        else:
            interval = intervals.mean_interval(data, seed=self.seed, n_resamples=self.n_resamples)
        given = [score.value for score in scored.scores if score.value is not None]
        bounds = Bounds(data.value(), _mean(_filled(scored.scores, 1.0)))
        scored_value = _mean(given) if given else None
        return MetricResult(
            scored.arm, scored.metric, data.value(), interval, len(values), len(given), bounds, scored_value
        )

    def _f1(self, arm: Arm) -> MetricResult:
        samples = self.samples[arm]
        data = self._f1_sums(samples)
        interval = intervals.mean_interval(data, seed=self.seed, n_resamples=self.n_resamples)
        answered = [position for position, sample in enumerate(samples) if sample.answer is not None]
        best = self._f1_sums([_right(sample) for sample in samples]).value()
        kept = self.part(answered)._f1_sums([samples[position] for position in answered]).value() if answered else None
        bounds = Bounds(data.value(), best)
        return MetricResult(
            arm, Metric.LABEL_F1_MACRO, data.value(), interval, len(self.rows), len(answered), bounds, kept
        )

    def _difference(
        self, metric: Metric, arm: Arm, reference: Arm, given: Sequence[Score], compared: Sequence[Score]
    ) -> Comparison:
        own = _filled(given, 0.0)
        other = [a if score.value is None else score.value for a, score in zip(own, compared, strict=True)]
        bounds = Bounds(
            worst=_mean(_filled(given, 0.0)) - _mean(_filled(compared, 1.0)),
            best=_mean(_filled(given, 1.0)) - _mean(_filled(compared, 0.0)),
        )
        common = [
            position
            for position, (a, b) in enumerate(zip(given, compared, strict=True))
            if a.value is not None and b.value is not None
        ]
        groups = [self.groups[position] for position in common]
        sums = [clustered.mean_of([values[position] for position in common], groups) for values in (own, other)]
        found = Comparison(
            metric, arm, reference, 0.0, None, None, len(self.rows), 0, bounds, self._common(sums, len(common))
        )
        binary = (own, other) if metric.is_proportion else None
        return self._compared(found, clustered.mean_of(own, self.groups), clustered.mean_of(other, self.groups), binary)

    def _f1_difference(self, arm: Arm, reference: Arm) -> Comparison:
        given, compared = self.samples[arm], self.samples[reference]
        filled = [own if sample.answer is None else sample for own, sample in zip(given, compared, strict=True)]
        bounds = Bounds(
            worst=self._f1_value(given) - self._f1_value([_right(sample) for sample in compared]),
            best=self._f1_value([_right(sample) for sample in given]) - self._f1_value(compared),
        )
        common = [
            position
            for position, (a, b) in enumerate(zip(given, compared, strict=True))
            if a.answer is not None and b.answer is not None
        ]
        part = self.part(common)
        chosen = (given, compared) if common else ()
        sums = [part._f1_sums([samples[position] for position in common]) for samples in chosen]
        found = Comparison(
            Metric.LABEL_F1_MACRO,
            arm,
            reference,
            0.0,
            None,
            None,
            len(self.rows),
            0,
            bounds,
            self._common(sums, len(common)),
        )
        return self._compared(found, self._f1_sums(given), self._f1_sums(filled), None)

    def _compared(
        self,
        found: Comparison,
        own: GroupSums,
        other: GroupSums,
        binary: tuple[Sequence[float], Sequence[float]] | None,
    ) -> Comparison:
        """`found` with its difference, interval and p-value. `binary`: the rows' scores where all are 0 or 1."""
        data = clustered.difference_of(own, other)
        p_value, test = None, ""
        if binary is not None and data.group_count == len(self.rows):
            interval = proportions.paired_interval(*binary)
            gained, lost, _ = proportions.paired_counts(*binary)
            if interval is not None:
                p_value, test = proportions.mcnemar_mid_p(round(gained), round(lost)), significance.MCNEMAR
        else:
            interval = intervals.difference_interval(own, other, seed=self.seed, n_resamples=self.n_resamples)
            if interval is not None:
                p_value, test = significance.p_value(data.value(), interval), significance.BY_INTERVAL
        return replace(
            found,
            difference=data.value(),
            interval=interval,
            minimum_detectable_effect=clustered.minimum_detectable_effect(data),
            group_count=data.group_count,
            p_value=p_value,
            test=test,
        )

    def _common(self, sums: Sequence[GroupSums], row_count: int) -> CommonRows | None:
        if not row_count:
            return None
        own, other = sums
        interval = intervals.difference_interval(own, other, seed=self.seed, n_resamples=self.n_resamples)
        return CommonRows(own.value() - other.value(), interval, row_count)

    def _f1_value(self, samples: Sequence[Sample]) -> float:
        return self._f1_sums(samples).value()

    def _f1_sums(self, samples: Sequence[Sample]) -> GroupSums:
        labels = reference_labels(samples)
        return clustered.macro_f1_of(
            [sample.reference.label or Confusion.OTHER for sample in samples],
            [predicted_label(sample, labels) for sample in samples],
            self.groups,
        )


def _filled(scores: Sequence[Score], missing: float) -> list[float]:
    return [missing if score.value is None else score.value for score in scores]


def _right(sample: Sample) -> Sample:
    """The sample; if it has no answer, with the reference as its answer."""
    return sample if sample.answer is not None else replace(sample, answer=sample.reference)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
