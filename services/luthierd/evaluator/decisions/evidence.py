"""From an evaluation's figures and rows to a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from luthierd.errors import FieldViolation, InvalidArgumentError
from luthierd.evaluator.decisions.paired_rows import paired_difference, scores_by_arm, scores_on
from luthierd.evaluator.decisions.verdict import (
    EFFORT,
    Option,
    Preferences,
    Refresh,
    Verdict,
    exclusion,
    pair_confidence,
    recommend,
)
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import Results
from luthierd.evaluator.domain.metrics import Metric

# What counts where nobody said anything: the primary metric, every proved gain, no limit.
DEFAULTS = Preferences()


class MetricNotByRowError(InvalidArgumentError):
    """A verdict needs a score of every row."""

    reason = "METRIC_NOT_BY_ROW"

    def __init__(self, metric: str, known: Sequence[str]) -> None:
        description = f"{metric!r} was not measured row by row; choose of {', '.join(known) or 'none'}"
        super().__init__(
            description,
            metadata={"metric": metric, "known": ",".join(known)},
            violations=[FieldViolation("preferences.metric", description)],
        )


@dataclass(frozen=True)
class Decision:
    """A verdict with what it was decided by."""

    verdict: Verdict
    metric: Metric
    preferences: Preferences
    interval_confidence: float


def decide(
    results: Results,
    rows: Sequence[Mapping[str, Any]],
    *,
    metric: Metric | None = None,
    preferences: Preferences = DEFAULTS,
    training_s: float | None = None,
    price_per_hour: float,
) -> Decision:
    """The verdict from an evaluation's figures and rows (those of `rows.write_rows`)."""
    scores = scores_by_arm(rows)
    known = sorted({name for found in scores.values() for name in found})
    metric = metric or results.task.primary_metric
    if metric not in known:
        raise MetricNotByRowError(metric.value, known)
    options = _options(results, metric, training_s=training_s, price_per_hour=price_per_hour)
    usable = [found.arm for found in options if not exclusion(found, preferences)]
    usable.sort(key=EFFORT.index)
    confidence = pair_confidence(len(usable))
    given = {arm: scores[arm].get(metric, {}) for arm in usable}
    common = [row for row in rows if all(row["row_id"] in found for found in given.values())]
    on_common = {arm: scores_on(common, found) for arm, found in given.items()}
    differences = [
        paired_difference(metric, (more, less), common, (on_common[more], on_common[less]), confidence=confidence)
        for less, more in combinations(usable, 2)
    ]
    found = recommend(options, differences, preferences)
    return Decision(found, metric, preferences, confidence)


def _options(results: Results, metric: Metric, *, training_s: float | None, price_per_hour: float) -> list[Option]:
    paid = None if training_s is None else training_s / 3600 * price_per_hour
    refresh = {
        Arm.BASE: Refresh("nothing"),
        Arm.PROMPTED: Refresh("choose instruction and examples again"),
        Arm.ENDPOINT: Refresh("nothing"),
        Arm.RAG: Refresh("index again"),
        Arm.ADAPTER: Refresh("train again", training_s, paid),
        Arm.CHALLENGER: Refresh("train again"),
        Arm.ADAPTER_RAG: Refresh("train and index again", training_s, paid),
        Arm.ADAPTER_RAFT: Refresh("train and index again"),
    }
    found: list[Option] = []
    for arm in EFFORT:
        quality, cost = results.overall.metric(arm, metric), results.cost(arm)
        if quality is not None and cost is not None:
            price, p50, p95 = cost.cost_per_1000_answers, cost.latency_ms_p50, cost.latency_ms_p95
            found.append(Option(quality, price, p50, p95, refresh[arm]))
    return found
