"""BLEU of the text field: up to 4-grams with brevity penalty (Papineni 2002), by sentence, through sacrebleu.

Not through RAGAS: its BleuScore 0.4.3 splits at ". " and hands each sentence of the reference to sacrebleu as a
separate reference stream, so that equal texts of two sentences do not score 1.
"""

from __future__ import annotations

from sacrebleu import BLEU

from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.scorers.scorer import MetricSpec, Needs, Sample, Scorer, register


@register
class BleuScorer(Scorer):
    """Effective order: a text shorter than four words is not 0 by its length alone."""

    spec = MetricSpec(Metric("bleu"), rank=11, label="BLEU", needs=Needs(opt_in=True))

    def __init__(self) -> None:
        self._bleu = BLEU(effective_order=True)

    async def score(self, sample: Sample) -> float:
        return float(self._bleu.sentence_score(sample.said.text, [sample.reference.text]).score) / 100
