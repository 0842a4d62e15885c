"""Retrieval by ids: which of the passages in the prompt are those that the row names as its sources. As RAGAS's
IDBasedContextPrecision and IDBasedContextRecall, which its collections do not have.
"""

from __future__ import annotations

from collections.abc import Sequence

from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.scores import ScoreFailedError
from luthierd.evaluator.scorers.scorer import Sample


class ContextPrecisionIdScorer:
    """Share of the shown passages that are sources of the row."""

    metric = Metric.CONTEXT_PRECISION_ID

    async def prepare(self, samples: Sequence[Sample]) -> None:
        """Nothing to batch."""

    async def score(self, sample: Sample) -> float:
        shown, wanted = _ids(sample)
        return len(shown & wanted) / len(shown)


class ContextRecallIdScorer:
    """Share of the row's sources that were shown."""

    metric = Metric.CONTEXT_RECALL_ID

    async def prepare(self, samples: Sequence[Sample]) -> None:
        """Nothing to batch."""

    async def score(self, sample: Sample) -> float:
        shown, wanted = _ids(sample)
        return len(shown & wanted) / len(wanted)


def _ids(sample: Sample) -> tuple[set[str], set[str]]:
    if sample.row is None or not sample.row.sources:
        raise ScoreFailedError("NO_SOURCES")
    if not sample.shown:
        raise ScoreFailedError("NO_CONTEXT")
    return {row.id for row in sample.shown}, set(sample.row.sources)
