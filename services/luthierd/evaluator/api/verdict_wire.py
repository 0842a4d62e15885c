"""Between the contract of verdicts and the domain."""

from __future__ import annotations

from luthier.evaluator.v1 import verdict_pb2 as pb
from luthier.evaluator.v1 import verdict_service_pb2

from luthierd.evaluator.api.evaluation_wire import arm_to_proto, difference_to_proto, metric_to_proto
from luthierd.evaluator.api.metric_wire import metric_from_name
from luthierd.evaluator.decisions.comparison import EvaluationComparison
from luthierd.evaluator.decisions.evidence import Decision
from luthierd.evaluator.decisions.verdict import JudgedOption, Preferences
from luthierd.evaluator.domain.metrics import Metric


def metric_from_proto(message: pb.VerdictPreferences) -> Metric | None:
    """The metric asked for; None for the evaluation's own. InvalidArgumentError for an unknown one."""
    return metric_from_name(message.metric, field="preferences.metric") if message.metric else None


def preferences_from_proto(message: pb.VerdictPreferences) -> Preferences:
    """Bounds are checked by `verdicts.check_preferences`."""
    return Preferences(
        worth=message.worth,
        max_price_per_1000=message.max_price_per_1000 if message.HasField("max_price_per_1000") else None,
        max_latency_ms_p95=message.max_latency_ms_p95 if message.HasField("max_latency_ms_p95") else None,
    )


def verdict_to_proto(decision: Decision, *, evaluation: str) -> pb.Verdict:
    """A verdict with the preferences that it was decided by."""
    found, preferences = decision.verdict, decision.preferences
    return pb.Verdict(
        evaluation=evaluation,
        preferences=pb.VerdictPreferences(
            metric=decision.metric,
            worth=preferences.worth,
            max_price_per_1000=preferences.max_price_per_1000,
            max_latency_ms_p95=preferences.max_latency_ms_p95,
        ),
        recommended=arm_to_proto(found.recommended),
        certainty=pb.VerdictCertainty.Value(f"VERDICT_CERTAINTY_{found.certainty.name}"),
        headline=found.headline,
        reasons=found.reasons,
        options=[_option_to_proto(option) for option in found.options],
        differences=[difference_to_proto(difference) for difference in found.differences],
        interval_confidence=decision.interval_confidence,
    )


def _option_to_proto(judged: JudgedOption) -> pb.VerdictOption:
    option = judged.option
    message = pb.VerdictOption(
        arm=arm_to_proto(option.arm),
        standing=pb.OptionStanding.Value(f"OPTION_STANDING_{judged.standing.name}"),
        explanation=judged.explanation,
        quality=metric_to_proto(option.quality),
        price_per_1000=option.price_per_1000,
        latency_ms_p50=option.latency_ms_p50,
        latency_ms_p95=option.latency_ms_p95,
        refresh=option.refresh.work,
    )
    if option.refresh.seconds is not None:
        message.refresh_duration.FromMilliseconds(round(option.refresh.seconds * 1000))
    return message


def comparison_to_proto(found: EvaluationComparison) -> verdict_service_pb2.CompareEvaluationsResponse:
    """Differences, counts and changes."""
    return verdict_service_pb2.CompareEvaluationsResponse(
        differences=[difference_to_proto(difference) for difference in found.differences],
        common_row_count=found.common_count,
        only_evaluation_row_count=found.only_evaluation_count,
        only_reference_row_count=found.only_reference_count,
        changes=[
            verdict_service_pb2.EvaluationChange(
                subject=change.subject,
                evaluation_value=change.evaluation_value,
                reference_value=change.reference_value,
                affects_scoring=change.affects_scoring,
            )
            for change in found.changes
        ],
        not_compared=[verdict_service_pb2.EvaluationGap(subject=gap.subject, reason=gap.reason) for gap in found.gaps],
    )
