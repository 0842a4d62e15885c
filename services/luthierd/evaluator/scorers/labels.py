"""Labels: accuracy row by row, and the confusion counts from which macro-F1 is made (see statistics/clustered.py)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from luthierd.evaluator.domain.evaluation import EvaluationConfig
from luthierd.evaluator.domain.metrics import LABEL_ACCURACY, LABEL_F1_MACRO
from luthierd.evaluator.domain.rows import TaskSpec
from luthierd.evaluator.domain.scores import Confusion
from luthierd.evaluator.scorers.scorer import MetricSpec, Sample, Scorer, register, register_spec


@register
class LabelAccuracyScorer(Scorer):
    """1 if the answer names the reference's label, else 0; an answer without a label is wrong."""

    spec = MetricSpec(LABEL_ACCURACY, rank=2, is_proportion=True)

    @classmethod
    def is_default(cls, config: EvaluationConfig) -> bool:
        return True

    def applies(self, task: TaskSpec, *, labelled: bool) -> bool:
        return labelled

    async def score(self, sample: Sample) -> float:
        label = sample.said.label
        return float(label is not None and label == sample.reference.label)


# Made of the confusion counts, not of scores by row.
register_spec(MetricSpec(LABEL_F1_MACRO, rank=3, label="Label macro-F1"))


def predicted_label(sample: Sample, labels: Sequence[str]) -> str:
    """The label an answer names; OTHER where it names none of the references' labels, or there is no answer."""
    label = sample.answer.label if sample.answer else None
    return label if label is not None and label in labels else Confusion.OTHER


def reference_labels(samples: Sequence[Sample]) -> tuple[str, ...]:
    """The labels the references use, sorted: the classes that macro-F1 averages over."""
    return tuple(sorted({sample.reference.label or Confusion.OTHER for sample in samples}))


def confusion(samples: Sequence[Sample]) -> Confusion:
    """How often each reference label got each predicted label."""
    labels = reference_labels(samples)
    counts = Counter((sample.reference.label or Confusion.OTHER, predicted_label(sample, labels)) for sample in samples)
    return Confusion(labels=labels, counts=dict(counts))
