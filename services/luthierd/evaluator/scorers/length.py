"""Length: how near the answer's length is to the reference's."""

from __future__ import annotations

from collections.abc import Sequence

from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.scorers.scorer import Sample


class LengthRatioScorer:
    """The shorter of both texts over the longer one, in characters: half as long and twice as long both score .5."""

    metric = Metric.LENGTH_RATIO

    async def prepare(self, samples: Sequence[Sample]) -> None:
        """Nothing to batch."""

    async def score(self, sample: Sample) -> float:
        lengths = sorted((len(sample.said.text), len(sample.reference.text)))
        return lengths[0] / lengths[1] if lengths[1] else 1.0
