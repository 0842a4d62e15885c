"""Verdicts between the contract and the domain."""

from __future__ import annotations

from luthier.evaluator.v1 import verdict_pb2 as pb
from luthier.evaluator.v1 import verdict_service_pb2

from luthierd.evaluator.api.metric_wire import difference_to_proto, metric_from_name, metric_to_proto
from luthierd.evaluator.decisions.comparison import EvaluationComparison
from luthierd.evaluator.decisions.verdict import Preferences, Verdict
from luthierd.rpc.wire import from_proto, to_proto


def preferences_from_proto(message: pb.VerdictPreferences) -> Preferences:
    """InvalidArgumentError for an unknown metric; `check_preferences` has the bounds."""
    metric = metric_from_name(message.metric, field="preferences.metric") if message.metric else None
    return from_proto(Preferences, message, metric=metric)


def verdict_to_proto(verdict: Verdict, *, evaluation: str) -> pb.Verdict:
    """A verdict on `evaluation`."""
    options = [to_proto(pb.VerdictOption, one, quality=metric_to_proto(one.quality)) for one in verdict.options]
    differences = [difference_to_proto(one) for one in verdict.differences]
    return to_proto(pb.Verdict, verdict, evaluation=evaluation, options=options, differences=differences)


def comparison_to_proto(found: EvaluationComparison) -> verdict_service_pb2.CompareEvaluationsResponse:
    """Two evaluations compared."""
    differences = [difference_to_proto(one) for one in found.differences]
    return to_proto(verdict_service_pb2.CompareEvaluationsResponse, found, differences=differences)
