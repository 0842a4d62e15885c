"""What finished evaluations mean: the use cases of `VerdictService`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from luthierd.errors import InvalidArgumentError
from luthierd.evaluator.decisions.comparison import EvaluationComparison, compare
from luthierd.evaluator.decisions.verdict import Preferences, Verdict, check_preferences, decide
from luthierd.evaluator.domain.evaluation import FinishedEvaluation
from luthierd.names import EVALUATION


class Evaluations(Protocol):
    """Finished evaluations."""

    async def finished(self, name: str) -> FinishedEvaluation:
        """EvaluationNotFoundError, EvaluationNotFinishedError."""

    async def scored_rows(self, name: str) -> Sequence[dict[str, Any]]:
        """All rows of a finished evaluation with answers and scores (`rows.write_rows`)."""


class Peers(Protocol):
    """The trainer, called on behalf of a tenant."""

    async def training_s(self, tenant: str, adapter_revision: str) -> float | None:
        """Seconds that the training of a revision took; None if the trainer no longer has it."""


class Verdicts:
    """The use cases of `VerdictService`."""

    def __init__(self, evaluations: Evaluations, peers: Peers) -> None:
        self._evaluations = evaluations
        self._peers = peers

    async def decide(self, name: str, preferences: Preferences) -> Verdict:
        """The verdict on a SUCCEEDED evaluation. EvaluationNotFinishedError, MetricNotByRowError."""
        (tenant, _) = EVALUATION.parse(name, field="evaluation")
        check_preferences(preferences)
        found = await self._evaluations.finished(name)
        return await asyncio.to_thread(
            decide,
            found.results,
            await self._evaluations.scored_rows(name),
            preferences,
            training_s=await self._peers.training_s(tenant, found.inputs.adapter_revision),
            price_per_hour=found.config.machine_price_per_hour,
        )

    async def compare(self, name: str, reference: str) -> EvaluationComparison:
        """Two SUCCEEDED evaluations of one tenant. EvaluationNotFinishedError, NoCommonRowError."""
        (tenant, _) = EVALUATION.parse(name, field="evaluation")
        (other, _) = EVALUATION.parse(reference, field="reference")
        if tenant != other:
            text = f"{reference} belongs to another tenant than {name}"
            raise InvalidArgumentError.of_field("reference", text)
        found, compared = await self._evaluations.finished(name), await self._evaluations.finished(reference)
        rows, other_rows = [await self._evaluations.scored_rows(one) for one in (name, reference)]
        return await asyncio.to_thread(compare, found, rows, compared, other_rows)
