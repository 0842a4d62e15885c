"""Exact match: the whole answer equals the reference; JSON is compared as data, not by its spelling."""

from __future__ import annotations

from collections.abc import Sequence

from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.graders.ragas import ExactMatch
from luthierd.evaluator.scorers.scorer import Sample


class ExactMatchScorer:
    """1 if answer and reference are the same after trimming (text) or with sorted keys (JSON), else 0."""

    metric = Metric.EXACT_MATCH

    def __init__(self) -> None:
        self._ragas = ExactMatch()

    async def prepare(self, samples: Sequence[Sample]) -> None:
        """Nothing to batch."""

    async def score(self, sample: Sample) -> float:
        result = await self._ragas.ascore(reference=sample.reference.canonical, response=sample.said.canonical)
        return float(result.value)
