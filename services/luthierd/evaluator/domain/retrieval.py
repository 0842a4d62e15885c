"""What retrieval finds and how well: passages, retrievers, their metrics. Frozen values; stdlib only."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Retriever(enum.StrEnum):
    """A way to rank what may be shown. On equal metrics the earlier one is used."""

    DENSE = "dense"
    BM25 = "bm25"
    FUSED = "fused"


class Relevance(enum.StrEnum):
    """What counts as a right find, in the order in which it is preferred."""

    GOLD_PASSAGES = "gold_passages"
    CONTAINS_ANSWER = "contains_answer"
    SIMILAR_REFERENCE = "similar_reference"


@dataclass(frozen=True)
class Passage:
    """A piece of a document. `id` is the document's, the same for all its pieces; `source` says where it is from."""

    id: str
    text: str
    source: str = ""


@dataclass(frozen=True)
class RetrievalMetric:
    """A mean over the judged rows with its 95 % interval, clustered by group; None with too few groups."""

    metric: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class RetrieverResult:
    """How well one retriever found what is relevant."""

    retriever: Retriever
    metrics: tuple[RetrievalMetric, ...]
    index_sha256: str

    def value(self, metric: str) -> float:
        """A metric's value; KeyError if it was not computed."""
        return {one.metric: one.value for one in self.metrics}[metric]


@dataclass(frozen=True, kw_only=True)
class RetrievalSummary:
    """Which retriever the RAG arms used, and the metrics by which it was chosen: none if nothing could be judged.

    `judged_on` is `validation`, or `train` where that is empty or itself evaluated: each row then searches all others.
    `judged_count` of `row_count` rows have something relevant to find; the others are in no metric.
    """

    chosen: Retriever
    judged_on: str
    relevance: Relevance
    cutoff: int
    retrievers: tuple[RetrieverResult, ...]
    row_count: int
    judged_count: int
