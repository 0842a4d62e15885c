"""Exact match: the whole answer equals the reference; JSON is compared as data, not by its spelling."""

from __future__ import annotations

from luthierd.evaluator.domain.metrics import EXACT_MATCH
from luthierd.evaluator.scorers.scorer import MetricSpec, Sample, Scorer, register


@register
class ExactMatchScorer(Scorer):
    """1 if answer and reference are the same after trimming (text) or with sorted keys (JSON), else 0."""

    spec = MetricSpec(EXACT_MATCH, rank=0, is_proportion=True)

    def __init__(self) -> None:
        from luthierd.evaluator.graders.ragas import ExactMatch  # RAGAS takes seconds to import

        self._ragas = ExactMatch()

    async def score(self, sample: Sample) -> float:
        result = await self._ragas.ascore(reference=sample.reference.canonical, response=sample.said.canonical)
        return float(result.value)
