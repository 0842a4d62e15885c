"""Choices: the answer is one of the row's choices (`multiple_choice.py`), and it is the right one."""

from __future__ import annotations

from luthierd.evaluator.domain.evaluation import EvaluationConfig
from luthierd.evaluator.domain.metrics import CHOICE_ACCURACY
from luthierd.evaluator.scorers.scorer import MetricSpec, Sample, Scorer, register


@register
class ChoiceAccuracyScorer(Scorer):
    """1 if the choice with the highest log-probability for each token is the reference, else 0.

    For preferences: 1 if the accepted answer is more likely than the rejected one.
    """

    spec = MetricSpec(CHOICE_ACCURACY, rank=10, is_proportion=True)

    @classmethod
    def is_default(cls, config: EvaluationConfig) -> bool:
        return config.task.is_chosen

    async def score(self, sample: Sample) -> float:
        return float(sample.raw.strip() == (sample.row.reference if sample.row else sample.reference.text).strip())
