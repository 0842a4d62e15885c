"""ROUGE-L F-measure of the text field: longest common subsequence of stemmed words (Lin 2004, through RAGAS)."""

from __future__ import annotations

from luthierd.evaluator.domain.metrics import ROUGE_L
from luthierd.evaluator.scorers.scorer import MetricSpec, Sample, Scorer, register


@register
class RougeLScorer(Scorer):
    """Reads the text field of a valid answer, the raw text of any other."""

    spec = MetricSpec(ROUGE_L, rank=4, label="ROUGE-L")

    def __init__(self) -> None:
        from luthierd.evaluator.graders.ragas import RougeScore  # RAGAS takes seconds to import

        self._ragas = RougeScore(rouge_type="rougeL", mode="fmeasure")

    async def score(self, sample: Sample) -> float:
        result = await self._ragas.ascore(reference=sample.reference.text, response=sample.said.text)
        return float(result.value)
