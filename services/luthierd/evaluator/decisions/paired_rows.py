"""Scores of finished evaluations by row, and paired differences over chosen rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.scores import Comparison
from luthierd.statistics.clustered import CONFIDENCE
from luthierd.statistics.compare import PairedRows, Scores, filled, filled_reference

# Arm -> metric -> row id -> score; a row that failed has none.
ScoresByArm = Mapping[Arm, Mapping[str, Mapping[str, float]]]


def scores_by_arm(rows: Sequence[Mapping[str, Any]]) -> ScoresByArm:
    """`rows`: those of `rows.write_rows`."""
    found: dict[Arm, dict[str, dict[str, float]]] = {}
    for row in rows:
        for answer in row["answers"]:
            by_metric = found.setdefault(Arm(answer["arm"]), {})
            for metric, score in answer["scores"].items():
                by_metric.setdefault(metric, {})[row["row_id"]] = score
    return found


def scores_on(rows: Sequence[Mapping[str, Any]], by_row: Mapping[str, float]) -> list[float | None]:
    """One score a row, None where there is none."""
    return [by_row.get(row["row_id"]) for row in rows]


def paired_difference(
    metric: Metric,
    arms: tuple[Arm, Arm],
    rows: Sequence[Mapping[str, Any]],
    scores: tuple[Scores, Scores],
    *,
    confidence: float = CONFIDENCE,
) -> Comparison:
    """The first of `arms` minus the second; `scores` are theirs on `rows`."""
    paired = PairedRows([row["group"] for row in rows], confidence=confidence)
    found = paired.estimate(paired.sums(filled(scores[0])), paired.sums(filled_reference(*scores)))
    return Comparison(metric=metric, arm=arms[0], reference=arms[1], **vars(found))
