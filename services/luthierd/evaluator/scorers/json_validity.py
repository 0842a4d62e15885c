"""JSON validity: the whole answer is one JSON object with every field of the task. RAGAS has no such metric."""

from __future__ import annotations

from collections.abc import Sequence

from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.scorers.scorer import Sample


class JsonValidityScorer:
    """1 if the answer reads as the task's JSON object, else 0. A code fence around it is not JSON."""

    metric = Metric.JSON_VALID

    async def prepare(self, samples: Sequence[Sample]) -> None:
        """Nothing to batch."""

    async def score(self, sample: Sample) -> float:
        return float(sample.said.valid)
