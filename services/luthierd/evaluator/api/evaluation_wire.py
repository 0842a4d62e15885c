"""Between the contract and the domain, both ways."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from luthier.curation.v1 import dataset_pb2
from luthier.evaluator.v1 import evaluation_pb2 as pb
from luthier.inference.v1 import deployment_pb2, inference_service_pb2
from luthier.trainer.v1 import adapter_pb2, training_job_pb2

from luthierd.codec import from_json
from luthierd.evaluator.api import retrieval_wire, suite_wire
from luthierd.evaluator.api.holdout_wire import sequential_from_proto
from luthierd.evaluator.api.metric_wire import (
    add_metric_config,
    criteria_to_proto,
    judge_report_to_proto,
    label_report_to_proto,
    metric_config_from_proto,
    style_report_to_proto,
)
from luthierd.evaluator.api.wire_parts import ARMS as ARMS
from luthierd.evaluator.api.wire_parts import arm_from_proto as arm_from_proto
from luthierd.evaluator.api.wire_parts import arm_to_proto as arm_to_proto
from luthierd.evaluator.api.wire_parts import timestamp
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import AdapterRevision, DatasetRevision, EvaluationConfig, Progress, Results
from luthierd.evaluator.domain.metric_details import MetricDetails
from luthierd.evaluator.domain.scores import ArmCost, Comparison, MetricResult, MetricResults
from luthierd.evaluator.graders.judge_models import Judged
from luthierd.evaluator.models.chat_endpoint import Completion
from luthierd.evaluator.models.generate import Reply
from luthierd.evaluator.models.multiple_choice import Likelihood
from luthierd.evaluator.run.evaluations import Evaluation
from luthierd.jobs.queue import JobEvent, JobState
from luthierd.rpc import job_resource
from luthierd.rpc.status import status_from_failure
from luthierd.rpc.wire import to_proto
from luthierd.statistics.estimates import Bounds, Interval

DOMAIN = "evaluator.luthier.dev"

_SPLITS = {
    dataset_pb2.SPLIT_TRAIN: "train",
    dataset_pb2.SPLIT_VALIDATION: "validation",
    dataset_pb2.SPLIT_HOLDOUT: "holdout",
}
_OPTIONAL_NUMBERS = (
    "row_limit",
    "shot_count",
    "max_answer_tokens",
    "concurrency",
    "seed",
    "machine_price_per_hour",
    "resample_count",
    "passage_characters",
)
_TEXTS = (
    "split",
    "text_field",
    "label_field",
    "instruction",
    "passages",
    "raft_adapter_revision",
    "challenger_revision",
    "prompt",
    "purpose",
)
_SWITCHES = ("use_cache", "final")
_PHASE_LENGTH_LIMIT = 32


def state_to_proto(state: JobState) -> pb.EvaluationState.ValueType:
    """A job's state."""
    return pb.EvaluationState.Value(f"EVALUATION_STATE_{state.value}")


def config_from_proto(message: pb.EvaluationConfig) -> EvaluationConfig:
    """The configuration with every default filled in; bounds are checked by `evaluations.check_config`."""
    present = {field.name for field, _ in message.ListFields()}
    given: dict[str, Any] = {name: getattr(message, name) for name in _OPTIONAL_NUMBERS if name in present}
    given |= {name: getattr(message, name) for name in _TEXTS if getattr(message, name)}
    if message.arms:
        given["arms"] = tuple(
            arm_from_proto(arm, field=f"evaluation.config.arms[{index}]") for index, arm in enumerate(message.arms)
        )
    given |= metric_config_from_proto(message) | retrieval_wire.retrieval_from_proto(message)
    given |= {name: getattr(message, name) for name in _SWITCHES}
    if message.HasField("sequential"):
        given["sequential"] = sequential_from_proto(message.sequential)
    return EvaluationConfig(**given, suites=suite_wire.suites_from_proto(message))


def config_to_proto(config: EvaluationConfig) -> pb.EvaluationConfig:
    """Every field set."""
    values = {name: getattr(config, name) for name in (*_OPTIONAL_NUMBERS, *_TEXTS, *_SWITCHES)}
    further = retrieval_wire.retrieval_to_proto(config)
    message = pb.EvaluationConfig(arms=[ARMS[arm] for arm in config.arms], **values, **further)
    add_metric_config(message, config)
    suite_wire.add_suites(message, config.suites)
    if config.sequential is not None:
        message.sequential.CopyFrom(to_proto(pb.SequentialConfig, config.sequential))
    return message


def evaluation_to_proto(evaluation: Evaluation, *, with_slices: bool = True) -> pb.Evaluation:
    """The resource; results only when it has SUCCEEDED."""
    message = pb.Evaluation(
        name=evaluation.name,
        adapter_revision=evaluation.inputs.adapter_revision,
        dataset_revision=evaluation.inputs.dataset_revision,
        config=config_to_proto(evaluation.config),
        state=state_to_proto(evaluation.state),
        create_time=timestamp(evaluation.create_time),
        start_time=timestamp(evaluation.start_time),
        end_time=timestamp(evaluation.end_time),
        progress=progress_to_proto(evaluation.progress) if evaluation.progress else None,
        lineage=pb.EvaluationLineage(
            adapter_sha256=evaluation.inputs.adapter_sha256,
            dataset_sha256=evaluation.inputs.dataset_sha256,
            base_model=evaluation.inputs.base_model,
            base_model_sha256=evaluation.inputs.base_model_sha256,
        ),
    )
    if evaluation.error:
        message.error.CopyFrom(status_from_failure(evaluation.error, DOMAIN))
    if evaluation.results:
        _add_results(message, evaluation.results)
        if with_slices:
            message.slices.extend(slice_to_proto(*found) for found in evaluation.results.slices.items())
    return message


def _add_results(message: pb.Evaluation, results: Results) -> None:
    message.lineage.index_sha256 = results.index_sha256
    message.lineage.versions.update(results.versions)
    for cost in results.costs:
        metrics = [found for found in results.overall.metrics if found.arm is cost.arm]
        message.arms.append(arm_result_to_proto(cost, metrics, row_count=cost.answered_count + cost.failed_count))
        _add_details(message.arms[-1], results.metric_details, cost.arm)
    if results.metric_details.judge:
        message.judge_report.CopyFrom(judge_report_to_proto(results.metric_details.judge))
    if results.metric_details.style:
        message.style_report.CopyFrom(style_report_to_proto(results.metric_details.style))
    message.differences.extend(difference_to_proto(found) for found in results.overall.comparisons)
    if results.retrieval:
        message.retrieval.CopyFrom(retrieval_wire.summary_to_proto(results.retrieval))
    message.suites.extend(to_proto(pb.SuiteResult, found) for found in results.suites)
    message.sequential_decisions.extend(
        to_proto(pb.SequentialDecision, found) for found in results.sequential_decisions
    )
    if results.holdout_use is not None:
        message.holdout_use.CopyFrom(to_proto(pb.HoldoutUse, results.holdout_use))
    message.leakage.CopyFrom(to_proto(pb.LeakageReport, results.leakage))


def _add_details(message: pb.ArmResult, metric_details: MetricDetails, arm: Arm) -> None:
    if arm in metric_details.labels:
        message.labels.CopyFrom(label_report_to_proto(metric_details.labels[arm]))
    message.criteria.extend(criteria_to_proto(metric_details.criteria.get(arm, ())))
    for value in message.metrics:
        value.failure_counts.update(metric_details.failures.get(arm, {}).get(value.metric, {}))


def arm_result_to_proto(cost: ArmCost, metrics: list[MetricResult], *, row_count: int) -> pb.ArmResult:
    """One arm's figures."""
    return pb.ArmResult(
        arm=ARMS[cost.arm],
        row_count=row_count,
        failed_row_count=cost.failed_count,
        metrics=[metric_to_proto(metric) for metric in metrics],
        ttft_ms_p50=cost.ttft_ms_p50,
        latency_ms_p50=cost.latency_ms_p50,
        latency_ms_p95=cost.latency_ms_p95,
        prompt_tokens_mean=cost.prompt_tokens_mean,
        completion_tokens_mean=cost.completion_tokens_mean,
        cost_per_1000=cost.cost_per_1000_answers,
        wall_s=cost.busy_s,
        cached_row_count=cost.cached_count,
        latency_intervals=_latency_intervals(cost),
    )


def slice_to_proto(name: str, figures: MetricResults) -> pb.SliceResult:
    """The figures of a slice, arm by arm."""
    return pb.SliceResult(
        slice=name,
        row_count=figures.row_count,
        group_count=figures.group_count,
        arms=[
            pb.SliceArm(
                arm=ARMS[arm], metrics=[metric_to_proto(found) for found in figures.metrics if found.arm is arm]
            )
            for arm in dict.fromkeys(found.arm for found in figures.metrics)
        ],
        differences=[difference_to_proto(found) for found in figures.comparisons],
    )


def _latency_intervals(cost: ArmCost) -> pb.ArmLatencyIntervals:
    ends = {}
    for name in ("ttft_ms_p50", "latency_ms_p50", "latency_ms_p95"):
        ends[f"{name}_low"], ends[f"{name}_high"] = ends_of(getattr(cost, f"{name}_interval"))
    return pb.ArmLatencyIntervals(**ends)


def metric_to_proto(found: MetricResult) -> pb.MetricValue:
    """A metric; without an interval its ends are NaN."""
    low, high = ends_of(found.interval)
    unknown = Bounds(math.nan, math.nan) if found.coverage < 1 else Bounds(found.value, found.value)
    bounds = found.bounds or unknown
    return pb.MetricValue(
        metric=found.metric,
        mean=found.value,
        interval_low=low,
        interval_high=high,
        coverage=found.coverage,
        worst_mean=bounds.worst,
        best_mean=bounds.best,
        scored_mean=number(found.scored_value),
    )


def difference_to_proto(found: Comparison) -> pb.PairedDifference:
    """A paired difference; without an interval its ends are NaN."""
    low, high = ends_of(found.interval)
    bounds = found.bounds or Bounds(found.difference, found.difference)
    common_low, common_high = ends_of(found.common.interval if found.common else None)
    return pb.PairedDifference(
        metric=found.metric,
        arm=ARMS[found.arm],
        reference=ARMS[found.reference],
        difference=found.difference,
        interval_low=low,
        interval_high=high,
        row_count=found.row_count,
        group_count=found.group_count,
        worst_difference=bounds.worst,
        best_difference=bounds.best,
        p_value=number(found.p_value),
        adjusted_p_value=number(found.adjusted_p_value),
        common_difference=found.common.difference if found.common else math.nan,
        common_interval_low=common_low,
        common_interval_high=common_high,
        common_row_count=found.common.row_count if found.common else 0,
        test=found.test,
        minimum_detectable_effect=number(found.minimum_detectable_effect),
    )


def progress_to_proto(progress: Progress) -> pb.EvaluationProgress:
    """How far it is."""
    return pb.EvaluationProgress(
        phase=progress.phase[:_PHASE_LENGTH_LIMIT],
        arm=arm_to_proto(progress.arm),
        done_count=progress.done_count,
        total_count=progress.total_count,
    )


def event_to_proto(event: JobEvent | None) -> pb.EvaluationEvent | None:
    """See `rpc.job_resource.event_to_proto`."""
    return job_resource.event_to_proto(pb.EvaluationEvent, event, progress=_stored_progress_to_proto)


def _stored_progress_to_proto(data: Mapping[str, Any]) -> pb.EvaluationProgress:
    return progress_to_proto(from_json(Progress, data))


def row_to_proto(row: Mapping[str, Any]) -> pb.EvaluationRow:
    """One stored row (`rows.write_rows`)."""
    return pb.EvaluationRow(
        row_id=row["row_id"],
        group=row["group"],
        reference=row["reference"],
        slices=row.get("slices", []),
        answers=[
            pb.ArmAnswer(
                arm=ARMS[Arm(answer["arm"])],
                text=answer["text"],
                error_reason=answer["error_reason"],
                scores=answer["scores"],
                score_failures=answer.get("score_failures", {}),
                shown_row_ids=answer["shown_row_ids"],
            )
            for answer in row["answers"]
        ],
    )


def adapter_revision_from_proto(message: adapter_pb2.AdapterRevision) -> AdapterRevision:
    """What the trainer says of an adapter revision."""
    return AdapterRevision(
        name=message.name,
        sha256=message.sha256,
        base_model=message.base_model,
        base_model_sha256=message.base_model_sha256,
        dataset_revision=message.dataset_revision,
    )


def training_s_from_proto(message: training_job_pb2.TrainingJob) -> float | None:
    """Seconds from a training job's first start to its end; None for one that has not ended."""
    if not (message.HasField("start_time") and message.HasField("end_time")):
        return None
    return (message.end_time.ToMicroseconds() - message.start_time.ToMicroseconds()) / 1e6


def dataset_revision_from_proto(message: dataset_pb2.DatasetRevision) -> DatasetRevision:
    """What curation says of a dataset revision."""
    known = {_SPLITS[file.split]: file for file in message.splits if file.split in _SPLITS}
    return DatasetRevision(
        name=message.name,
        sha256=message.sha256,
        is_ready=message.state == dataset_pb2.DATASET_REVISION_STATE_READY,
        splits={split: file.sha256 for split, file in known.items()},
        row_counts={split: file.row_count for split, file in known.items()},
    )


def deployed_adapters_from_proto(message: deployment_pb2.Deployment) -> list[str]:
    """The adapter revisions that a deployment's requests may go to."""
    held = [message.live.adapter_revision, *(share.adapter_revision for share in message.traffic)]
    return [revision for revision in dict.fromkeys(held) if revision]


def reply_from_proto(message: inference_service_pb2.ChatResponse) -> Reply:
    """An answer of the inference service."""
    return Reply(
        text=message.text,
        ttft_s=message.finish.ttft_ms / 1000,
        prompt_tokens=message.finish.prompt_token_count,
        completion_tokens=message.finish.completion_token_count,
        finish_reason=message.finish.finish_reason,
        loaded_adapter=message.origin.loaded_adapter,
    )


def likelihood_from_proto(message: inference_service_pb2.ScoreResponse) -> Likelihood:
    """A scored answer of the inference service."""
    return Likelihood(
        total_logprob=message.total_logprob,
        token_count=len(message.tokens),
        prompt_tokens=message.prompt_token_count,
        loaded_adapter=message.origin.loaded_adapter,
    )


def judged_from_proto(message: inference_service_pb2.ChatResponse) -> Judged:
    """A judgement of the inference service."""
    reply = reply_from_proto(message)
    completion = Completion(
        text=reply.text,
        finish_reason=reply.finish_reason,
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
        model=reply.loaded_adapter,
    )
    return Judged(completion, message.origin.adapter_revision)


def ends_of(interval: Interval | None) -> tuple[float, float]:
    """Both ends; NaN without an interval."""
    return (interval.low, interval.high) if interval else (math.nan, math.nan)


def number(value: float | None) -> float:
    """NaN for None."""
    return math.nan if value is None else value
