"""Scores of finished evaluations by row, and paired differences over chosen rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.scores import Comparison
from luthierd.statistics import clustered, intervals

# Arm -> metric -> row id -> score; a row that failed has none.
Scores = Mapping[Arm, Mapping[str, Mapping[str, float]]]


def scores_by_arm(rows: Sequence[Mapping[str, Any]]) -> Scores:
    """`rows`: those of `result_rows.write_rows`."""
    found: dict[Arm, dict[str, dict[str, float]]] = {}
    for row in rows:
        for answer in row["answers"]:
            by_metric = found.setdefault(Arm(answer["arm"]), {})
            for metric, score in answer["scores"].items():
                by_metric.setdefault(metric, {})[row["row_id"]] = score
    return found


def paired_difference(
    metric: Metric,
    arms: tuple[Arm, Arm],
    rows: Sequence[Mapping[str, Any]],
    own: Mapping[str, float],
    other: Mapping[str, float],
    confidence: float,
) -> Comparison:
    """The first arm minus the second over `rows`, which both have scored."""
    groups = [row["group"] for row in rows]
    ours = clustered.mean_of([own[row["row_id"]] for row in rows], groups)
    theirs = clustered.mean_of([other[row["row_id"]] for row in rows], groups)
    data = clustered.difference_of(ours, theirs)
    interval = intervals.difference_interval(ours, theirs, seed=0, confidence=confidence)
    value = data.value() if rows else 0.0
    detectable = clustered.minimum_detectable_effect(data)
    return Comparison(metric, *arms, value, interval, detectable, len(rows), data.group_count)
