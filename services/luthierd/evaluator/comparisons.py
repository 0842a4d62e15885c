"""Two evaluations over the same rows: how much better each arm became, and what else differs between the two."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from luthierd.errors import FailedPreconditionError
from luthierd.evaluator import statistics
from luthierd.evaluator.codec import to_json
from luthierd.evaluator.domain import Arm, Comparison, Metric
from luthierd.evaluator.evaluations import Evaluation
from luthierd.evaluator.paired_rows import paired_difference, scores_by_arm

# What changes a score by itself, whatever the adapter does. Everything else in which two evaluations differ is what was
# compared on purpose, or only how fast it went.
SCORING = ("inputs.dataset_sha256", "inputs.rows_sha256", "config.text_field", "config.label_field", "versions.")
IGNORED = ("config.concurrency", "config.machine_price_per_hour", "config.resample_count")


class NoCommonRowError(FailedPreconditionError):
    """Two evaluations that cannot be paired."""

    reason = "EVALUATIONS_WITHOUT_COMMON_ROW"

    def __init__(self, evaluation: str, reference: str) -> None:
        super().__init__(
            f"{evaluation} and {reference} have no row in common (the same id, question and reference answer); "
            "evaluate both on the same dataset revision and split",
            metadata={"evaluation": evaluation, "reference": reference},
        )


@dataclass(frozen=True)
class Change:
    """One thing in which two evaluations differ. `affects_scoring`: scores may differ for this reason alone."""

    subject: str
    evaluation_value: str
    reference_value: str
    affects_scoring: bool


@dataclass(frozen=True)
class EvaluationComparison:
    """`evaluation` minus `reference` for each arm and metric of both, over the rows of both."""

    differences: Sequence[Comparison]
    common_count: int
    only_evaluation_count: int
    only_reference_count: int
    changes: Sequence[Change]


def compare(
    evaluation: Evaluation,
    rows: Sequence[Mapping[str, Any]],
    reference: Evaluation,
    other_rows: Sequence[Mapping[str, Any]],
) -> EvaluationComparison:
    """See `EvaluationComparison`. A row is paired only where both have a score; NoCommonRowError without any row."""
    ours, theirs = {_identity(row) for row in rows}, {_identity(row) for row in other_rows}
    common = [row for row in rows if _identity(row) in theirs]
    if not common:
        raise NoCommonRowError(evaluation.name, reference.name)
    scores, other_scores = scores_by_arm(rows), scores_by_arm(other_rows)
    differences = []
    for arm in (arm for arm in Arm if arm in scores and arm in other_scores):
        for metric in (metric for metric in Metric if metric in scores[arm] and metric in other_scores[arm]):
            own, other = scores[arm][metric], other_scores[arm][metric]
            paired = [row for row in common if row["row_id"] in own and row["row_id"] in other]
            if paired:
                differences.append(paired_difference(metric, (arm, arm), paired, own, other, statistics.CONFIDENCE))
    changes = _changes(evaluation, reference)
    return EvaluationComparison(differences, len(common), len(ours - theirs), len(theirs - ours), changes)


def _identity(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["row_id"], row["question"], row["reference"]


def _changes(evaluation: Evaluation, reference: Evaluation) -> list[Change]:
    ours, theirs = _facts(evaluation), _facts(reference)
    return [
        Change(subject, ours.get(subject, ""), theirs.get(subject, ""), subject.startswith(SCORING))
        for subject in sorted(ours.keys() | theirs.keys())
        if ours.get(subject) != theirs.get(subject) and subject not in IGNORED
    ]


def _facts(evaluation: Evaluation) -> dict[str, str]:
    """Everything that went into an evaluation, by name."""
    assert evaluation.results is not None
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
