"""Choices: the answer is one of the row's choices (`multiple_choice.py`), and it is the right one."""

from __future__ import annotations

from collections.abc import Sequence

from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.scorers.scorer import Sample


class ChoiceAccuracyScorer:
    """1 if the choice with the highest log-probability for each token is the reference, else 0.

    For preferences: 1 if the accepted answer is more likely than the rejected one.
    """

    metric = Metric.CHOICE_ACCURACY

    async def prepare(self, samples: Sequence[Sample]) -> None:
        """Nothing to batch."""

    async def score(self, sample: Sample) -> float:
        return float(sample.raw.strip() == (sample.row.reference if sample.row else sample.reference.text).strip())
