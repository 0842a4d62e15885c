"""Evaluations between the contract and the domain: the resource, its events and its rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.evaluator.v1 import evaluation_pb2 as pb
from luthier.evaluator.v1 import metrics_pb2

from luthierd.codec import from_json
from luthierd.evaluator.api.config_wire import config_to_proto
from luthierd.evaluator.api.metric_wire import (
    criteria_to_proto,
    difference_to_proto,
    judge_report_to_proto,
    label_report_to_proto,
    metric_to_proto,
    retrieval_to_proto,
)
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import Progress, Results
from luthierd.evaluator.domain.scores import ArmCost, MetricResults
from luthierd.evaluator.run.evaluations import Evaluation
from luthierd.jobs.queue import JobEvent
from luthierd.rpc import job_resource
from luthierd.rpc.status import status_from_failure
from luthierd.rpc.wire import to_proto

DOMAIN = "evaluator.luthier.dev"
_PHASE_LENGTH_LIMIT = 32


def evaluation_to_proto(evaluation: Evaluation, *, with_slices: bool = True) -> pb.Evaluation:
    """The resource; results only when it has SUCCEEDED."""
    inputs, results = evaluation.inputs, evaluation.results
    message = to_proto(
        pb.Evaluation,
        evaluation,
        adapter_revision=inputs.adapter_revision,
        dataset_revision=inputs.dataset_revision,
        config=config_to_proto(evaluation.config),
        error=status_from_failure(evaluation.error, DOMAIN) if evaluation.error else None,
        progress=progress_to_proto(evaluation.progress) if evaluation.progress else None,
        lineage=to_proto(pb.EvaluationLineage, inputs),
    )
    if results:
        _add_results(message, results)
        if with_slices:
            message.slices.extend(slice_to_proto(*found) for found in results.slices.items())
    return message


def _add_results(message: pb.Evaluation, results: Results) -> None:
    details = results.metric_details
    message.lineage.index_sha256 = results.index_sha256
    message.lineage.versions.update(results.versions)
    found = pb.Evaluation(
        arms=[_arm_result(cost, results) for cost in results.costs],
        differences=[difference_to_proto(one) for one in results.overall.comparisons],
        judge_report=judge_report_to_proto(details.judge) if details.judge else None,
        style_report=to_proto(metrics_pb2.StyleReport, details.style) if details.style else None,
        retrieval=retrieval_to_proto(results.retrieval) if results.retrieval else None,
        suites=[to_proto(pb.SuiteResult, one) for one in results.suites],
        sequential_decisions=[to_proto(pb.SequentialDecision, one) for one in results.sequential_decisions],
        holdout_use=to_proto(pb.HoldoutUse, results.holdout_use) if results.holdout_use else None,
        leakage=to_proto(pb.LeakageReport, results.leakage),
    )
    message.MergeFrom(found)


def _arm_result(cost: ArmCost, results: Results) -> pb.ArmResult:
    arm, details = cost.arm, results.metric_details
    failures = details.failures.get(arm, {})
    metrics = [metric_to_proto(one) for one in results.overall.metrics if one.arm is arm]
    for value in metrics:
        value.failure_counts.update(failures.get(value.metric, {}))
    labels = details.labels.get(arm)
    intervals = {
        f"{name}_{end}": getattr(getattr(cost, f"{name}_interval"), end, None)
        for name in ("ttft_ms_p50", "latency_ms_p50", "latency_ms_p95")
        for end in ("low", "high")
    }
    return to_proto(
        pb.ArmResult,
        cost,
        row_count=cost.answered_count + cost.failed_count,
        failed_row_count=cost.failed_count,
        cached_row_count=cost.cached_count,
        metrics=metrics,
        cost_per_1000=cost.cost_per_1000_answers,
        wall_s=cost.busy_s,
        labels=label_report_to_proto(labels) if labels else None,
        criteria=criteria_to_proto(details.criteria.get(arm, ())),
        latency_intervals=to_proto(pb.ArmLatencyIntervals, None, **intervals),
    )


def slice_to_proto(name: str, results: MetricResults) -> pb.SliceResult:
    """The results of a slice, arm by arm."""
    arms = [
        to_proto(
            pb.SliceArm, None, arm=arm, metrics=[metric_to_proto(one) for one in results.metrics if one.arm is arm]
        )
        for arm in dict.fromkeys(one.arm for one in results.metrics)
    ]
    differences = [difference_to_proto(one) for one in results.comparisons]
    return to_proto(pb.SliceResult, results, slice=name, arms=arms, differences=differences)


def progress_to_proto(progress: Progress) -> pb.EvaluationProgress:
    """How far it is."""
    return to_proto(pb.EvaluationProgress, progress, phase=progress.phase[:_PHASE_LENGTH_LIMIT])


def event_to_proto(event: JobEvent | None) -> pb.EvaluationEvent | None:
    """See `rpc.job_resource.event_to_proto`."""
    return job_resource.event_to_proto(
        pb.EvaluationEvent, event, progress=lambda data: progress_to_proto(from_json(Progress, data))
    )


def row_to_proto(row: Mapping[str, Any]) -> pb.EvaluationRow:
    """One stored row (`rows.write_rows`)."""
    answers = [
        pb.ArmAnswer(**_shown(pb.ArmAnswer, one) | {"arm": f"ARM_{Arm(one['arm']).name}"}) for one in row["answers"]
    ]
    return pb.EvaluationRow(**_shown(pb.EvaluationRow, row) | {"answers": answers})


def _shown(message: Any, stored: Mapping[str, Any]) -> dict[str, Any]:
    """The stored values that the contract shows."""
    return {name: stored[name] for name in message.DESCRIPTOR.fields_by_name if name in stored}
