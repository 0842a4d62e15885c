"""What finished evaluations mean: the use cases of `VerdictService`."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any, Protocol

from luthierd.errors import InvalidArgumentError
from luthierd.evaluator.decisions.comparison import EvaluationComparison, compare
from luthierd.evaluator.decisions.evidence import Decision, decide
from luthierd.evaluator.decisions.verdict import Preferences
from luthierd.evaluator.domain.evaluation import Results
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.run.evaluations import Evaluation, EvaluationNotFinishedError
from luthierd.names import EVALUATION


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
