"""ROUGE-L F-measure of the text field: longest common subsequence of stemmed words (Lin 2004, through RAGAS)."""

from __future__ import annotations

from collections.abc import Sequence

from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.graders.ragas import RougeScore
from luthierd.evaluator.scorers.scorer import Sample


class RougeLScorer:
    """Reads the text field of a valid answer, the raw text of any other."""

    metric = Metric.ROUGE_L

    def __init__(self) -> None:
        self._ragas = RougeScore(rouge_type="rougeL", mode="fmeasure")

    async def prepare(self, samples: Sequence[Sample]) -> None:
        """Nothing to batch."""

    async def score(self, sample: Sample) -> float:
        result = await self._ragas.ascore(reference=sample.reference.text, response=sample.said.text)
        return float(result.value)
