"""Two evaluations over the same rows: how much better each arm became, what else differs between the two, and what of
them was not compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from luthierd.errors import FailedPreconditionError
from luthierd.evaluator.codec import to_json
from luthierd.evaluator.decisions.paired_rows import ScoresByArm, paired_difference, scores_by_arm, scores_on
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import FinishedEvaluation
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.scores import Comparison
from luthierd.statistics.compare import difference_bounds

# What changes a score by itself, whatever the adapter does. Everything else in which two evaluations differ is what was
# compared on purpose, or only how fast it went.
SCORING = ("inputs.dataset_sha256", "inputs.rows_sha256", "config.text_field", "config.label_field", "versions.")
IGNORED = ("config.concurrency", "config.machine_price_per_hour", "config.resample_count")


class NoCommonRowError(FailedPreconditionError):
    """Two evaluations that cannot be paired."""

    reason = "EVALUATIONS_WITHOUT_COMMON_ROW"

    def __init__(self, evaluation: FinishedEvaluation, reference: FinishedEvaluation) -> None:
        parts = [
            f"{one.name} (the {one.config.split} of {one.inputs.dataset_revision})" for one in (evaluation, reference)
        ]
        super().__init__(
            f"{' and '.join(parts)} have no row in common (the same id, question and reference answer): nothing was "
            "compared; evaluate both on the same dataset revision and split",
            metadata={
                "evaluation": evaluation.name,
                "reference": reference.name,
                "evaluation_rows": f"{evaluation.inputs.dataset_revision}/{evaluation.config.split}",
                "reference_rows": f"{reference.inputs.dataset_revision}/{reference.config.split}",
            },
        )


@dataclass(frozen=True)
class Change:
    """One thing in which two evaluations differ. `affects_scoring`: scores may differ for this reason alone."""

    subject: str
    evaluation_value: str
    reference_value: str
    affects_scoring: bool


@dataclass(frozen=True)
class Gap:
    """Something that one of the two holds and no difference covers."""

    subject: str
    reason: str


@dataclass(frozen=True)
class EvaluationComparison:
    """`evaluation` minus `reference` for each arm and metric of both, over the rows of both; `gaps`: what else there is
    in one of them.
    """

    differences: Sequence[Comparison]
    common_count: int
    only_evaluation_count: int
    only_reference_count: int
    changes: Sequence[Change]
    gaps: Sequence[Gap]


def compare(
    evaluation: FinishedEvaluation,
    rows: Sequence[Mapping[str, Any]],
    reference: FinishedEvaluation,
    other_rows: Sequence[Mapping[str, Any]],
) -> EvaluationComparison:
    """See `EvaluationComparison`. Every common row counts, with or without a score; NoCommonRowError without any."""
    ours, theirs = {_identity(row) for row in rows}, {_identity(row) for row in other_rows}
    common = [row for row in rows if _identity(row) in theirs]
    if not common:
        raise NoCommonRowError(evaluation, reference)
    scores, other_scores = scores_by_arm(rows), scores_by_arm(other_rows)
    differences = [
        _difference(arm, metric, common, scores[arm][metric], other_scores[arm][metric])
        for arm in Arm
        if arm in scores and arm in other_scores
        for metric in Metric
        if metric in scores[arm] and metric in other_scores[arm]
    ]
    changes = _changes(evaluation, reference)
    gaps = [*_row_gaps(scores, other_scores), *_figure_gaps(evaluation, reference, scores)]
    return EvaluationComparison(differences, len(common), len(ours - theirs), len(theirs - ours), changes, gaps)


def _difference(
    arm: Arm, metric: Metric, rows: Sequence[Mapping[str, Any]], by_row: Mapping[str, float], other: Mapping[str, float]
) -> Comparison:
    scores = scores_on(rows, by_row), scores_on(rows, other)
    found = paired_difference(metric, (arm, arm), rows, scores)
    return replace(found, bounds=difference_bounds(*scores))


def _row_gaps(ours: ScoresByArm, theirs: ScoresByArm) -> Iterator[Gap]:
    """Arms that one of the two did not ask, and metrics that one did not measure."""
    for arm in (arm for arm in Arm if arm in ours or arm in theirs):
        if arm not in ours or arm not in theirs:
            yield Gap(f"arm {arm}", _only("evaluation" if arm in ours else "reference"))
            continue
        for metric in (metric for metric in Metric if (metric in ours[arm]) != (metric in theirs[arm])):
            yield Gap(f"metric {metric} of {arm}", _only("evaluation" if metric in ours[arm] else "reference"))


def _figure_gaps(evaluation: FinishedEvaluation, reference: FinishedEvaluation, scores: ScoresByArm) -> Iterator[Gap]:
    """Figures that are no means over rows: they are in both evaluations, and cannot be paired."""
    results, compared = evaluation.results, reference.results
    by_row = {metric for measured in scores.values() for metric in measured}
    metrics, others = ({one.metric for one in it.overall.metrics} for it in (results, compared))
    for metric in (metric for metric in Metric if metric in metrics & others and metric not in by_row):
        if not metric.needs.suite:
            yield Gap(f"metric {metric}", "it is measured over all rows at once; see the figures of both")
    ours, theirs = ({suite.suite: suite for suite in it.suites} for it in (results, compared))
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in ours or name not in theirs:
            yield Gap(f"suite {name}", _only("evaluation" if name in ours else "reference"))
        elif ours[name].sha256 != theirs[name].sha256:
            yield Gap(f"suite {name}", "the two asked different items")
        else:
            yield Gap(f"suite {name}", "the same items, measured as a whole; see the figures of both")


def _only(which: str) -> str:
    return f"only the {which} has it"


def _identity(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["row_id"], row["question"], row["reference"]


def _changes(evaluation: FinishedEvaluation, reference: FinishedEvaluation) -> list[Change]:
    ours, theirs = _facts(evaluation), _facts(reference)
    return [
        Change(subject, ours.get(subject, ""), theirs.get(subject, ""), subject.startswith(SCORING))
        for subject in sorted(ours.keys() | theirs.keys())
        if ours.get(subject) != theirs.get(subject) and subject not in IGNORED
    ]


def _facts(evaluation: FinishedEvaluation) -> dict[str, str]:
    """Everything that went into an evaluation, by name."""
    parts = {
        "inputs": to_json(evaluation.inputs),
        "config": to_json(evaluation.config),
        "versions": dict(evaluation.results.versions),
    }
    return {
        f"{part}.{name}": value if isinstance(value, str) else json.dumps(value)
        for part, values in parts.items()
        for name, value in values.items()
    }
