"""What finished evaluations mean: the use cases of `VerdictService`."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Protocol

from luthierd.errors import FieldViolation, InvalidArgumentError
from luthierd.evaluator.comparisons import EvaluationComparison, compare
from luthierd.evaluator.domain import Arm, Metric, Results
from luthierd.evaluator.evaluations import Evaluation, EvaluationNotFinishedError
from luthierd.evaluator.gates import primary_metric
from luthierd.evaluator.paired_rows import paired_difference, scores_by_arm
from luthierd.evaluator.verdict import (
    EFFORT,
    Option,
    Preferences,
    Refresh,
    Verdict,
    exclusion,
    pair_confidence,
    recommend,
)
from luthierd.names import EVALUATION


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


class Evaluations(Protocol):
    """Where finished evaluations are."""

    async def get(self, name: str) -> Evaluation: ...


class Blobs(Protocol):
    """The part of the blob store that is read here."""

    def read_bytes(self, sha256: str) -> bytes: ...


class Peers(Protocol):
    """The trainer, asked in the name of a tenant."""

    async def training_s(self, tenant: str, adapter_revision: str) -> float | None:
        """Seconds that the training of a revision took; None where the trainer no longer knows."""


@dataclass(frozen=True)
class Decision:
    """A verdict with what it was decided by."""

    verdict: Verdict
    metric: Metric
    preferences: Preferences
    interval_confidence: float


class Verdicts:
    """The use cases of `VerdictService`."""

    def __init__(self, evaluations: Evaluations, peers: Peers, blobs: Blobs) -> None:
        self._evaluations = evaluations
        self._peers = peers
        self._blobs = blobs

    async def decide(self, name: str, *, metric: Metric | None, preferences: Preferences) -> Decision:
        """The verdict on a SUCCEEDED evaluation. EvaluationNotFinishedError, MetricNotByRowError."""
        (tenant, _) = EVALUATION.parse(name, field="evaluation")
        check_preferences(preferences)
        evaluation, results = await self._finished(name)
        training_s = await self._peers.training_s(tenant, evaluation.inputs.adapter_revision)
        rows = await self._rows(results)
        price = evaluation.config.machine_price_per_hour
        return await asyncio.to_thread(
            decide, results, rows, metric=metric, preferences=preferences, training_s=training_s, price_per_hour=price
        )

    async def compare(self, name: str, reference: str) -> EvaluationComparison:
        """Two SUCCEEDED evaluations of one tenant. EvaluationNotFinishedError, NoCommonRowError."""
        (tenant, _) = EVALUATION.parse(name, field="evaluation")
        (other, _) = EVALUATION.parse(reference, field="reference")
        if tenant != other:
            text = f"{reference} belongs to another tenant than {name}"
            raise InvalidArgumentError.of_field("reference", text)
        (evaluation, results), (compared, other_results) = await self._finished(name), await self._finished(reference)
        rows, other_rows = await self._rows(results), await self._rows(other_results)
        return await asyncio.to_thread(compare, evaluation, rows, compared, other_rows)

    async def _finished(self, name: str) -> tuple[Evaluation, Results]:
        evaluation = await self._evaluations.get(name)
        if evaluation.results is None:
            raise EvaluationNotFinishedError(name, evaluation.state)
        return evaluation, evaluation.results

    async def _rows(self, results: Results) -> list[dict[str, Any]]:
        data = await asyncio.to_thread(self._blobs.read_bytes, results.answers_sha256)
        return [json.loads(line) for line in data.splitlines()]


def check_preferences(preferences: Preferences) -> None:
    """InvalidArgumentError naming the field that is out of bounds."""
    if not 0 <= preferences.worth <= 1:
        raise InvalidArgumentError.of_field("preferences.worth", f"{preferences.worth:g} is not in 0 to 1")
    for field in ("max_price_per_1000", "max_latency_ms_p95"):
        limit = getattr(preferences, field)
        if limit is not None and not (math.isfinite(limit) and limit >= 0):
            raise InvalidArgumentError.of_field(f"preferences.{field}", f"{limit:g} is not a limit: 0 or more")


def decide(
    results: Results,
    rows: Sequence[Mapping[str, Any]],
    *,
    metric: Metric | None,
    preferences: Preferences,
    training_s: float | None,
    price_per_hour: float,
) -> Decision:
    """The verdict from an evaluation's figures and rows (those of `answer_rows.write_rows`)."""
    scores = scores_by_arm(rows)
    known = sorted({name for found in scores.values() for name in found})
    metric = metric or primary_metric(results.task)
    if metric not in known:
        raise MetricNotByRowError(metric.value, known)
    options = _options(results, metric, training_s=training_s, price_per_hour=price_per_hour)
    usable = [found.arm for found in options if not exclusion(found, preferences)]
    usable.sort(key=EFFORT.index)
    confidence = pair_confidence(len(usable))
    given = {arm: scores[arm].get(metric, {}) for arm in usable}
    common = [row for row in rows if all(row["row_id"] in found for found in given.values())]
    differences = [
        paired_difference(metric, (more, less), common, given[more], given[less], confidence)
        for less, more in combinations(usable, 2)
    ]
    found = recommend(options, differences, preferences)
    return Decision(found, metric, preferences, confidence)


def _options(results: Results, metric: Metric, *, training_s: float | None, price_per_hour: float) -> list[Option]:
    training = Refresh("train again", training_s, None if training_s is None else training_s / 3600 * price_per_hour)
    refresh = {
        Arm.BASE: Refresh("nothing"),
        Arm.PROMPTED: Refresh("choose instruction and examples again"),
        Arm.RAG: Refresh("index the new rows"),
        Arm.ADAPTER: training,
        Arm.ADAPTER_RAG: Refresh("train and index again", training.seconds, training.price),
    }
    found: list[Option] = []
    for arm in EFFORT:
        quality, cost = results.figures.metric(arm, metric), results.cost(arm)
        if quality is not None and cost is not None:
            price, p50, p95 = cost.cost_per_1000_answers, cost.latency_ms_p50, cost.latency_ms_p95
            found.append(Option(quality, price, p50, p95, refresh[arm]))
    return found
