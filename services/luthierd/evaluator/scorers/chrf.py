"""chrF2 of the text field: character n-grams up to 6 (Popovic 2015, through RAGAS and sacrebleu), 0 to 1."""

from __future__ import annotations

from luthierd.evaluator.domain.metrics import CHRF
from luthierd.evaluator.scorers.scorer import MetricSpec, Sample, Scorer, register


@register
class ChrfScorer(Scorer):
    """Reads the text field of a valid answer, the raw text of any other. An empty answer scores 0."""

    spec = MetricSpec(CHRF, rank=5, label="chrF")

    def __init__(self) -> None:
        from luthierd.evaluator.graders.ragas import CHRFScore  # RAGAS takes seconds to import

        self._ragas = CHRFScore()

    async def score(self, sample: Sample) -> float:
        result = await self._ragas.ascore(reference=sample.reference.text, response=sample.said.text)
        return float(result.value)
