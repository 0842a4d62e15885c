"""Retrieval by ids: which of the passages in the prompt are those that the row names as its sources. As RAGAS's
IDBasedContextPrecision and IDBasedContextRecall, which its collections do not have.
"""

from __future__ import annotations

from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.scores import ScoreFailedError
from luthierd.evaluator.scorers.scorer import MetricSpec, Needs, Sample, Scorer, register

NEEDS = Needs(opt_in=True, context=True)


@register
class ContextPrecisionIdScorer(Scorer):
    """Share of the shown passages that are sources of the row."""

    spec = MetricSpec(
        Metric("context_precision_id"), rank=19, label="Context precision (ids)", needs=Needs(opt_in=True, context=True)
    )

    async def score(self, sample: Sample) -> float:
        shown, wanted = _ids(sample)
        return len(shown & wanted) / len(shown)


@register
class ContextRecallIdScorer(Scorer):
    """Share of the row's sources that were shown."""

    spec = MetricSpec(
        Metric("context_recall_id"), rank=20, label="Context recall (ids)", needs=Needs(opt_in=True, context=True)
    )

    async def score(self, sample: Sample) -> float:
        shown, wanted = _ids(sample)
        return len(shown & wanted) / len(wanted)


def _ids(sample: Sample) -> tuple[set[str], set[str]]:
    if sample.row is None or not sample.row.sources:
        raise ScoreFailedError("NO_SOURCES")
    if not sample.shown:
        raise ScoreFailedError("NO_CONTEXT")
    return {row.id for row in sample.shown}, set(sample.row.sources)
