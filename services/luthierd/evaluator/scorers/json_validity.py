"""JSON validity: the whole answer is one JSON object with every field of the task. RAGAS has no such metric."""

from __future__ import annotations

from luthierd.evaluator.domain.metrics import JSON_VALID
from luthierd.evaluator.domain.rows import TaskSpec
from luthierd.evaluator.scorers.scorer import MetricSpec, Sample, Scorer, register


@register
class JsonValidityScorer(Scorer):
    """1 if the answer reads as the task's JSON object, else 0. A code fence around it is not JSON."""

    spec = MetricSpec(JSON_VALID, rank=1, label="Valid JSON", is_proportion=True)

    def applies(self, task: TaskSpec, *, labelled: bool) -> bool:
        return task.is_json

    async def score(self, sample: Sample) -> float:
        return float(sample.said.valid)
