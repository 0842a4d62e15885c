"""Details of scoring: labels by class, criteria of a rubric, failures by reason, judge, style."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.metric_details import (
    ClassMetrics,
    ConfusionCell,
    CriterionValue,
    JudgeReport,
    LabelReport,
    MetricDetails,
    Share,
)
from luthierd.evaluator.domain.rows import Row
from luthierd.evaluator.domain.scores import Confusion, RowScores
from luthierd.evaluator.graders.judge import Judge
from luthierd.evaluator.scorers.judged import PairwiseScorer, RubricScorer
from luthierd.evaluator.scorers.labels import predicted_label, reference_labels
from luthierd.evaluator.scorers.scorer import Sample, Scorer
from luthierd.evaluator.scorers.style import StyleScorer
from luthierd.statistics import clustered, compare, proportions
from luthierd.statistics.estimates import Interval


def details_of(
    rows: Sequence[Row],
    samples: Mapping[Arm, Sequence[Sample]],
    row_scores: Sequence[RowScores],
    scorers: Sequence[Scorer],
    *,
    judge: Judge | None,
    labelled: bool,
    seed: int,
) -> MetricDetails:
    """Everything, after scoring."""
    groups = [row.group for row in rows]
    rubric = next((one for one in scorers if isinstance(one, RubricScorer)), None)
    style = next((one for one in scorers if isinstance(one, StyleScorer)), None)
    return MetricDetails(
        labels={arm.value: label_report(given, groups) for arm, given in samples.items()} if labelled else {},
        criteria={arm.value: _criteria(rubric, arm, rows, seed) for arm in samples} if rubric else {},
        failures=_failures(row_scores),
        judge=judge_report(judge, scorers) if judge else None,
        style=style.report if style else None,
    )


def label_report(samples: Sequence[Sample], groups: Sequence[str]) -> LabelReport:
    """Precision, recall and F1 of each label of the references, as scikit-learn's `classification_report` with
    `zero_division=0`. A row without an answer is a miss of its label.
    """
    labels = reference_labels(samples)
    truth = [sample.reference.label or Confusion.OTHER for sample in samples]
    said = [predicted_label(sample, labels) for sample in samples]
    classes = tuple(_class_metrics(label, truth, said, groups) for label in labels)
    cells = Counter(zip(truth, said, strict=True))
    return LabelReport(
        precision_macro=sum(one.precision.mean for one in classes) / max(1, len(classes)),
        recall_macro=sum(one.recall.mean for one in classes) / max(1, len(classes)),
        classes=classes,
        confusion=tuple(ConfusionCell(one, other, count) for (one, other), count in sorted(cells.items())),
    )


def _class_metrics(label: str, truth: Sequence[str], said: Sequence[str], groups: Sequence[str]) -> ClassMetrics:
    of_label = [index for index, one in enumerate(truth) if one == label]
    called = [index for index, one in enumerate(said) if one == label]
    recall = _share([float(said[index] == label) for index in of_label], [groups[index] for index in of_label])
    precision = _share([float(truth[index] == label) for index in called], [groups[index] for index in called])
    total = precision.mean + recall.mean
    f1 = 2 * precision.mean * recall.mean / total if total else 0.0
    return ClassMetrics(label, len(of_label), precision, recall, f1)


def _share(values: Sequence[float], groups: Sequence[str]) -> Share:
    if not values:
        return Share(0.0)
    return _with_ends(sum(values) / len(values), proportions.proportion_interval(values, groups))


def _with_ends(mean: float, interval: Interval | None) -> Share:
    return Share(mean, interval.low, interval.high) if interval else Share(mean)


def _criteria(rubric: RubricScorer, arm: Arm, rows: Sequence[Row], seed: int) -> tuple[CriterionValue, ...]:
    graded = [row for row in rows if (arm, row.id) in rubric.grades]
    if not graded:
        return ()
    found = []
    for name in rubric.grades[arm, graded[0].id]:
        data = clustered.mean_of([rubric.grades[arm, row.id][name] for row in graded], [row.group for row in graded])
        share = _with_ends(data.value(), compare.mean_interval(data, seed=seed))
        found.append(CriterionValue(name, share, len(graded) / len(rows)))
    return tuple(found)


def _failures(row_scores: Sequence[RowScores]) -> dict[str, dict[str, dict[str, int]]]:
    found: dict[str, dict[str, dict[str, int]]] = {}
    for scored in row_scores:
        # What stands after the colon is a library's own text, and may be a user's.
        reasons = Counter((one.failure or "").partition(":")[0] for one in scored.scores if one.value is None)
        if reasons:
            found.setdefault(scored.arm.value, {})[scored.metric] = dict(reasons)
    return found


def judge_report(judge: Judge, scorers: Sequence[Scorer]) -> JudgeReport:
    """What the judge did so far, pairs included."""
    report = judge.report()
    pairwise = next((one for one in scorers if isinstance(one, PairwiseScorer)), None)
    if pairwise is None:
        return report
    return replace(
        report,
        pair_count=pairwise.pair_count,
        disagreement_count=pairwise.disagreement_count,
        first_position_share=pairwise.first_position_share,
    )
