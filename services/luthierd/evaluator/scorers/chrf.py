"""chrF2 of the text field: character n-grams up to 6 (Popovic 2015, through RAGAS and sacrebleu), 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence

from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.graders.ragas import CHRFScore
from luthierd.evaluator.scorers.scorer import Sample


class ChrfScorer:
    """Reads the text field of a valid answer, the raw text of any other. An empty answer scores 0."""

    metric = Metric.CHRF

    def __init__(self) -> None:
        self._ragas = CHRFScore()

    async def prepare(self, samples: Sequence[Sample]) -> None:
        """Nothing to batch."""

    async def score(self, sample: Sample) -> float:
        result = await self._ragas.ascore(reference=sample.reference.text, response=sample.said.text)
        return float(result.value)
