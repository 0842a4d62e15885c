"""Length: how near the answer's length is to the reference's."""

from __future__ import annotations

from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.scorers.scorer import MetricSpec, Needs, Sample, Scorer, register


@register
class LengthRatioScorer(Scorer):
    """The shorter of both texts over the longer one, in characters: half as long and twice as long both score .5."""

    spec = MetricSpec(Metric("length_ratio"), rank=13, needs=Needs(opt_in=True))

    async def score(self, sample: Sample) -> float:
        lengths = sorted((len(sample.said.text), len(sample.reference.text)))
        return lengths[0] / lengths[1] if lengths[1] else 1.0
