"""From answers to figures: every metric that the task allows, its interval, and the paired differences between arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from luthierd.evaluator import statistics
from luthierd.evaluator.domain import (
    Answer,
    Arm,
    Comparison,
    Confusion,
    Figures,
    Interval,
    Metric,
    MetricResult,
    Row,
    RowScores,
    Score,
    Scored,
    TaskSpec,
)
from luthierd.evaluator.judge import Judge
from luthierd.evaluator.measure_reports import measures_of
from luthierd.evaluator.scorers.labels import confusion, predicted_label, reference_labels
from luthierd.evaluator.scorers.scorer import Sample, Scorer, score_all
from luthierd.evaluator.statistics import GroupSums
from luthierd.evaluator.tasks import has_labels, read_answer

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
class Scoring:
    """How to score: the reading of answers, the scorers, and the bootstrap's seed and draws."""

    task: TaskSpec
    scorers: Sequence[Scorer]
    seed: int = 0
    draws: int = statistics.DRAWS
    passages: Mapping[str, Row] = field(default_factory=dict)
    """Training rows by id, for the scorers that read what stood in a prompt."""
    probes: Mapping[tuple[Arm, str], Mapping[str, str]] = field(default_factory=dict)
    """What was said to further questions; see `probes.probes_by_row`."""
    judge: Judge | None = None

    async def score(self, rows: Sequence[Row], answers: Mapping[Arm, Mapping[str, Answer]]) -> Scored:
        """Scores every arm on the same rows. A row without an answer stays in, as a failure."""
        samples = {arm: [self._sample(arm, row, given.get(row.id)) for row in rows] for arm, given in answers.items()}
        everything = [sample for arm_samples in samples.values() for sample in arm_samples]
        row_scores: list[RowScores] = []
        scorers = self.applicable(rows)
        for scorer in scorers:
            await scorer.prepare(everything)
            for arm in samples:
                if scorer.metric.needs.context and not any(sample.shown for sample in samples[arm]):
                    continue  # nothing was retrieved for this arm: it has no such figure, and no failure either
                row_scores.append(RowScores(arm, scorer.metric, await score_all(scorer, samples[arm])))
        figures = _Measuring(rows, samples, row_scores, self.seed, self.draws, has_labels(rows, self.task))
        return Scored(
            rows=row_scores,
            figures=Figures(figures.metrics(), figures.comparisons()),
            confusions={arm: confusion(given) for arm, given in samples.items()} if figures.labelled else {},
            measures=measures_of(
                rows, samples, row_scores, scorers, judge=self.judge, labelled=figures.labelled, seed=self.seed
            ),
        )

    async def values(
        self, metric: Metric, arm: Arm, rows: Sequence[Row], answers: Mapping[str, Answer], scorers: Sequence[Scorer]
    ) -> list[float | None]:
        """One arm's scores under one metric of `scorers`, row by row; None for a failed row."""
        scorer = next(scorer for scorer in scorers if scorer.metric is metric)
        samples = [self._sample(arm, row, answers.get(row.id)) for row in rows]
        await scorer.prepare(samples)
        return [score.value for score in await score_all(scorer, samples)]

    def applicable(self, rows: Sequence[Row]) -> list[Scorer]:
        """The scorers that mean something here: JSON validity needs a JSON task, label accuracy needs labels."""
        labelled = has_labels(rows, self.task)
        unfit = {Metric.JSON_VALID: not self.task.is_json, Metric.LABEL_ACCURACY: not labelled}
        return [scorer for scorer in self.scorers if not unfit.get(scorer.metric, False)]

    def _sample(self, arm: Arm, row: Row, answer: Answer | None) -> Sample:
        reference = read_answer(row.reference, self.task)
        if answer is None or answer.error is not None:
            reason = answer.error.reason if answer and answer.error else "NOT_ASKED"
            return Sample(row.id, reference, None, reason, arm=arm, row=row)
        return Sample(
            row.id,
            reference,
            read_answer(answer.text, self.task),
            arm=arm,
            row=row,
            raw=answer.text,
            shown=tuple(self.passages[name] for name in answer.shown_row_ids if name in self.passages),
            probes=self.probes.get((arm, row.id), {}),
        )


@dataclass(frozen=True)
class _Measuring:
    """Means, intervals and differences of scored rows."""

    rows: Sequence[Row]
    samples: Mapping[Arm, Sequence[Sample]]
    row_scores: Sequence[RowScores]
    seed: int
    draws: int
    labelled: bool

    @property
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
        return found + ([self._f1_difference(arm, reference) for arm, reference in pairs] if self.labelled else [])

    def _of_rows(self, scored: RowScores) -> MetricResult:
        values = [score.value or 0.0 for score in scored.scores]
        data = statistics.mean_of(values, self.groups)
        if scored.metric.is_proportion:
            interval = statistics.proportion_interval(values, self.groups)
        else:
            interval = self._interval(data)
        scored_count = sum(score.value is not None for score in scored.scores)
        return MetricResult(scored.arm, scored.metric, data.value(), interval, len(values), scored_count)

    def _f1(self, arm: Arm) -> MetricResult:
        data = self._f1_sums(self.samples[arm])
        answered = sum(sample.answer is not None for sample in self.samples[arm])
        return MetricResult(arm, Metric.LABEL_F1_MACRO, data.value(), self._interval(data), len(self.rows), answered)

    def _difference(
        self, metric: Metric, arm: Arm, reference: Arm, given: Sequence[Score], compared: Sequence[Score]
    ) -> Comparison:
        own = [score.value or 0.0 for score in given]
        other = [a if score.value is None else score.value for a, score in zip(own, compared, strict=True)]
        return self._comparison(
            metric, arm, reference, statistics.mean_of(own, self.groups), statistics.mean_of(other, self.groups)
        )

    def _f1_difference(self, arm: Arm, reference: Arm) -> Comparison:
        filled = [
            own if sample.answer is None else sample
            for own, sample in zip(self.samples[arm], self.samples[reference], strict=True)
        ]
        own, other = self._f1_sums(self.samples[arm]), self._f1_sums(filled)
        return self._comparison(Metric.LABEL_F1_MACRO, arm, reference, own, other)

    def _f1_sums(self, samples: Sequence[Sample]) -> GroupSums:
        labels = reference_labels(samples)
        return statistics.macro_f1_of(
            [sample.reference.label or Confusion.OTHER for sample in samples],
            [predicted_label(sample, labels) for sample in samples],
            self.groups,
        )

    def _interval(self, data: GroupSums) -> Interval | None:
        return statistics.mean_interval(data, seed=self.seed, draws=self.draws)

    def _comparison(self, metric: Metric, arm: Arm, reference: Arm, own: GroupSums, other: GroupSums) -> Comparison:
        data = statistics.difference_of(own, other)
        interval = statistics.difference_interval(own, other, seed=self.seed, draws=self.draws)
        detectable = statistics.detectable_difference(data)
        return Comparison(metric, arm, reference, data.value(), interval, detectable, len(self.rows), data.group_count)
