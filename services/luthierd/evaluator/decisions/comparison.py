"""Two evaluations over the same rows: how each arm changed, what else differs between the two, and what cannot be
compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from luthierd.codec import to_json
from luthierd.errors import FailedPreconditionError
from luthierd.evaluator.dataset.rows import ScoresByArm, scores_by_arm, scores_on
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import FinishedEvaluation
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.scores import Comparison
from luthierd.evaluator.scorers.registry import known_metrics, spec_of
from luthierd.statistics.compare import PairedRows, difference_bounds

# Changes that can change a score by themselves. Every other one was made on purpose, or affects only the speed.
SCORING = ("inputs.dataset_sha256", "inputs.rows_sha256", "config.text_field", "config.label_field", "versions.")
IGNORED = ("config.concurrency", "config.machine_price_per_hour", "config.resample_count")


class NoCommonRowError(FailedPreconditionError):
    """The two evaluations share no rows."""

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
    """Something that one of the two has and no difference covers."""

    subject: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class EvaluationComparison:
    """`evaluation` minus `reference` for each arm and metric of both, over the rows of both."""

    differences: Sequence[Comparison]
    common_row_count: int
    only_evaluation_row_count: int
    only_reference_row_count: int
    changes: Sequence[Change]
    not_compared: Sequence[Gap]


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
        for metric in known_metrics()
        if metric in scores[arm] and metric in other_scores[arm]
    ]
    return EvaluationComparison(
        differences=differences,
        common_row_count=len(common),
        only_evaluation_row_count=len(ours - theirs),
        only_reference_row_count=len(theirs - ours),
        changes=_changes(evaluation, reference),
        not_compared=[*_row_gaps(scores, other_scores), *_result_gaps(evaluation, reference, scores)],
    )


def _difference(
    arm: Arm, metric: Metric, rows: Sequence[Mapping[str, Any]], by_row: Mapping[str, float], other: Mapping[str, float]
) -> Comparison:
    scores = scores_on(rows, by_row), scores_on(rows, other)
    found = PairedRows([row["group"] for row in rows]).estimate(*scores)
    found = replace(found, bounds=difference_bounds(*scores))
    return Comparison(metric=metric, arm=arm, reference=arm, **vars(found))


def _row_gaps(ours: ScoresByArm, theirs: ScoresByArm) -> Iterator[Gap]:
    """Arms and metrics that only one of the two has."""
    for arm in (arm for arm in Arm if arm in ours or arm in theirs):
        if arm not in ours or arm not in theirs:
            yield Gap(f"arm {arm}", _only("evaluation" if arm in ours else "reference"))
            continue
        for metric in (metric for metric in known_metrics() if (metric in ours[arm]) != (metric in theirs[arm])):
            yield Gap(f"metric {metric} of {arm}", _only("evaluation" if metric in ours[arm] else "reference"))


def _result_gaps(evaluation: FinishedEvaluation, reference: FinishedEvaluation, scores: ScoresByArm) -> Iterator[Gap]:
    """Results that are no means over rows: both evaluations may have them, and they cannot be paired."""
    both = (evaluation.results, reference.results)
    by_row = {metric for by_metric in scores.values() for metric in by_metric}
    ours, theirs = ({one.metric for one in results.overall.metrics} for results in both)
    for metric in (metric for metric in known_metrics() if metric in ours & theirs and metric not in by_row):
        if not spec_of(metric).needs.suite:
            yield Gap(f"metric {metric}", "computed over all rows at once; see both evaluations' results")
    own, other = ({suite.suite: suite.sha256 for suite in results.suites} for results in both)
    for name in sorted(own.keys() | other.keys()):
        if name not in own or name not in other:
            yield Gap(f"suite {name}", _only("evaluation" if name in own else "reference"))
        elif own[name] != other[name]:
            yield Gap(f"suite {name}", "the two evaluations used different items")
        else:
            yield Gap(f"suite {name}", "the same items, computed as a whole; see both evaluations' results")


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
