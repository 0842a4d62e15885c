"""Metrics and arms between the contract and the domain: names, results, differences and details."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence

from luthier.evaluator.v1 import evaluation_pb2 as pb
from luthier.evaluator.v1 import metrics_pb2

from luthierd.errors import InvalidArgumentError
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.metric_details import CriterionValue, JudgeReport, LabelReport
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.retrieval import RetrievalMetric, RetrievalSummary
from luthierd.evaluator.domain.scores import Comparison, MetricResult
from luthierd.evaluator.scorers.registry import known_metrics
from luthierd.rpc.wire import enum_from_proto, to_proto
from luthierd.statistics.estimates import Bounds

_ARM = pb.DESCRIPTOR.enum_types_by_name["Arm"]


def metric_from_name(name: str, *, field: str) -> Metric:
    """InvalidArgumentError for an unknown metric, with the closest known name."""
    if name not in known_metrics():
        near = difflib.get_close_matches(name, known_metrics(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known metrics: {', '.join(known_metrics())}"
        raise InvalidArgumentError.of_field(field, f"{name!r} is not a metric; {hint}")
    return Metric(name)


def arm_from_proto(number: pb.Arm.ValueType, *, field: str) -> Arm:
    """InvalidArgumentError for a number that is no arm."""
    return enum_from_proto(Arm, _ARM, number, path=field)


def metric_to_proto(found: MetricResult) -> pb.MetricValue:
    """A metric. Without bounds, the mean bounds it if every row was scored, and nothing does otherwise."""
    unknown = Bounds(math.nan, math.nan) if found.coverage < 1 else Bounds(found.value, found.value)
    bounds = found.bounds or unknown
    return to_proto(
        pb.MetricValue,
        found,
        mean=found.value,
        worst_mean=bounds.worst,
        best_mean=bounds.best,
        scored_mean=found.scored_value,
    )


def difference_to_proto(found: Comparison) -> pb.PairedDifference:
    """A paired difference."""
    bounds = found.bounds or Bounds(found.difference, found.difference)
    interval = found.common.interval if found.common else None
    return to_proto(
        pb.PairedDifference,
        found,
        worst_difference=bounds.worst,
        best_difference=bounds.best,
        common_difference=found.common.difference if found.common else None,
        common_interval_low=interval.low if interval else None,
        common_interval_high=interval.high if interval else None,
        common_row_count=found.common.row_count if found.common else 0,
    )


def label_report_to_proto(found: LabelReport) -> metrics_pb2.LabelReport:
    """The labels that an arm gave."""
    classes = [
        to_proto(metrics_pb2.ClassMetrics, one, precision=one.precision.mean, recall=one.recall.mean)
        for one in found.classes
    ]
    return to_proto(metrics_pb2.LabelReport, found, classes=classes)


def criteria_to_proto(found: Sequence[CriterionValue]) -> list[metrics_pb2.CriterionValue]:
    """Mean grades by criterion."""
    return [
        to_proto(
            metrics_pb2.CriterionValue,
            one,
            mean=one.grade.mean,
            interval_low=one.grade.low,
            interval_high=one.grade.high,
        )
        for one in found
    ]


def judge_report_to_proto(found: JudgeReport) -> metrics_pb2.JudgeReport:
    """What the judge did."""
    return to_proto(
        metrics_pb2.JudgeReport,
        found,
        prompt_token_count=found.prompt_tokens,
        completion_token_count=found.completion_tokens,
    )


def retrieval_to_proto(summary: RetrievalSummary) -> pb.RetrievalSummary:
    """How the RAG arms retrieved."""
    coverage = summary.judged_count / summary.row_count if summary.row_count else 0.0
    retrievers = [
        to_proto(pb.RetrieverResult, found, metrics=[_retrieval_metric(one, coverage) for one in found.metrics])
        for found in summary.retrievers
    ]
    return to_proto(pb.RetrievalSummary, summary, retrievers=retrievers, judged_row_count=summary.judged_count)


def _retrieval_metric(found: RetrievalMetric, coverage: float) -> pb.MetricValue:
    # Rows without anything relevant to find are in no mean, so nothing is missing from it.
    return to_proto(
        pb.MetricValue,
        found,
        mean=found.value,
        interval_low=found.low,
        interval_high=found.high,
        coverage=coverage,
        worst_mean=found.value,
        best_mean=found.value,
        scored_mean=found.value,
    )
