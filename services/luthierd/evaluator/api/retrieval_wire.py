"""Between the contract and the domain: what an evaluation says of retrieval, and which endpoint it asks."""

from __future__ import annotations

from typing import Any

from luthier.evaluator.v1 import evaluation_pb2 as pb

from luthierd.errors import InvalidArgumentError
from luthierd.evaluator.domain.evaluation import EndpointTarget, EvaluationConfig
from luthierd.evaluator.domain.retrieval import RetrievalMetric, RetrievalSummary, Retriever, RetrieverResult

_RETRIEVERS = {
    Retriever.DENSE: pb.RETRIEVER_DENSE,
    Retriever.BM25: pb.RETRIEVER_BM25,
    Retriever.FUSED: pb.RETRIEVER_FUSED,
}
_RETRIEVER_OF = {number: retriever for retriever, number in _RETRIEVERS.items()}


def retrieval_from_proto(message: pb.EvaluationConfig) -> dict[str, Any]:
    """The fields of an `EvaluationConfig` that are set. InvalidArgumentError for a number that is no retriever."""
    given: dict[str, Any] = {}
    if message.retrievers:
        given["retrievers"] = tuple(_retriever(number, at) for at, number in enumerate(message.retrievers))
    if message.HasField("endpoint"):
        given["endpoint"] = EndpointTarget(message.endpoint.endpoint, message.endpoint.model)
    return given


def retrieval_to_proto(config: EvaluationConfig) -> dict[str, Any]:
    """The same fields, for the message."""
    values: dict[str, Any] = {"retrievers": [_RETRIEVERS[retriever] for retriever in config.retrievers]}
    if config.endpoint:
        values["endpoint"] = pb.EndpointTarget(endpoint=config.endpoint.endpoint, model=config.endpoint.model)
    return values


def summary_to_proto(summary: RetrievalSummary) -> pb.RetrievalSummary:
    """How the RAG arms retrieved; a figure without an interval has NaN ends."""
    coverage = summary.judged_count / summary.row_count if summary.row_count else 0.0
    return pb.RetrievalSummary(
        chosen=_RETRIEVERS[summary.chosen],
        judged_on=summary.judged_on,
        relevance=summary.relevance,
        cutoff=summary.cutoff,
        retrievers=[_figures(found, coverage) for found in summary.retrievers],
        row_count=summary.row_count,
        judged_row_count=summary.judged_count,
    )


def _figures(found: RetrieverResult, coverage: float) -> pb.RetrieverResult:
    return pb.RetrieverResult(
        retriever=_RETRIEVERS[found.retriever],
        metrics=[_figure(figure, coverage) for figure in found.metrics],
        index_sha256=found.index_sha256,
    )


def _figure(figure: RetrievalMetric, coverage: float) -> pb.MetricValue:
    nothing = float("nan")
    return pb.MetricValue(
        metric=figure.metric,
        mean=figure.value,
        interval_low=nothing if figure.low is None else figure.low,
        interval_high=nothing if figure.high is None else figure.high,
        coverage=coverage,
        # Rows without anything relevant to find are in no figure, so nothing is missing from it.
        worst_mean=figure.value,
        best_mean=figure.value,
        scored_mean=figure.value,
    )


def _retriever(number: pb.Retriever.ValueType, at: int) -> Retriever:
    if number not in _RETRIEVER_OF:
        raise InvalidArgumentError.of_field(
            f"evaluation.config.retrievers[{at}]", f"{number} is not a retriever; choose one of {', '.join(Retriever)}"
        )
    return _RETRIEVER_OF[number]
