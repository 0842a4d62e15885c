"""Between the contract's metrics.proto and measures.py, both ways; part of wire.py."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import Any

from luthier.evaluator.v1 import evaluation_pb2 as evaluation_pb
from luthier.evaluator.v1 import metrics_pb2 as pb

from luthierd.errors import InvalidArgumentError
from luthierd.evaluator.domain.evaluation import EvaluationConfig
from luthierd.evaluator.domain.metric_details import (
    Criterion,
    CriterionValue,
    JudgeChoice,
    JudgeReport,
    LabelReport,
    StyleReport,
    TaskKind,
)
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.scorers.registry import known_metrics

_KINDS = {kind: pb.TaskKind.Value(f"TASK_KIND_{kind.value.upper()}") for kind in TaskKind}
_KIND_OF = {number: kind for kind, number in _KINDS.items()}


def metric_from_name(name: str, *, field: str) -> Metric:
    """InvalidArgumentError for an unknown metric, with the closest known name."""
    if name not in known_metrics():
        near = difflib.get_close_matches(name, known_metrics(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known metrics: {', '.join(known_metrics())}"
        raise InvalidArgumentError.of_field(field, f"{name!r} is not a metric; {hint}")
    return Metric(name)


def metric_config_from_proto(message: evaluation_pb.EvaluationConfig) -> dict[str, Any]:
    """The fields of `EvaluationConfig` that say what to measure; those left out are absent."""
    given: dict[str, Any] = {}
    where = "evaluation.config"
    if message.metrics:
        given["metrics"] = tuple(
            metric_from_name(name, field=f"{where}.metrics[{index}]") for index, name in enumerate(message.metrics)
        )
    if message.HasField("judge"):
        judge = message.judge
        tokens = {"max_tokens": judge.max_tokens} if judge.HasField("max_tokens") else {}
        given["judge"] = JudgeChoice(endpoint=judge.endpoint, target=judge.target, model=judge.model, **tokens)
    if message.task:
        if message.task not in _KIND_OF:
            raise InvalidArgumentError.of_field(f"{where}.task", f"{message.task} is not a kind of task")
        given["task"] = _KIND_OF[message.task]
    if message.json_schema:
        given["json_schema"] = message.json_schema
    if message.rubric:
        given["rubric"] = tuple(
            Criterion(one.name, one.description, *([one.scale] if one.HasField("scale") else []))
            for one in message.rubric
        )
    for name in ("repeat_count", "repeat_temperature"):
        if message.HasField(name):
            given[name] = getattr(message, name)
    return given


def add_metric_config(message: evaluation_pb.EvaluationConfig, config: EvaluationConfig) -> None:
    """Writes the same fields; `judge` only where one was chosen."""
    message.metrics.extend(config.metrics)
    if config.judge.name:
        message.judge.model = config.judge.model
        message.judge.max_tokens = config.judge.max_tokens
        if config.judge.endpoint:
            message.judge.endpoint = config.judge.endpoint
        else:
            message.judge.target = config.judge.target
    message.task = _KINDS[config.task]
    message.json_schema = config.json_schema
    for criterion in config.rubric:
        message.rubric.add(name=criterion.name, description=criterion.description, scale=criterion.scale)
    message.repeat_count = config.repeat_count
    message.repeat_temperature = config.repeat_temperature


def label_report_to_proto(found: LabelReport) -> pb.LabelReport:
    """The labels that an arm gave."""
    return pb.LabelReport(
        precision_macro=found.precision_macro,
        recall_macro=found.recall_macro,
        classes=[
            pb.ClassMetrics(
                label=one.label,
                row_count=one.row_count,
                precision=one.precision.mean,
                recall=one.recall.mean,
                f1=one.f1,
                recall_low=_end(one.recall.low),
                recall_high=_end(one.recall.high),
                precision_low=_end(one.precision.low),
                precision_high=_end(one.precision.high),
            )
            for one in found.classes
        ],
        confusion=[
            pb.ConfusionCell(reference=cell.reference, predicted=cell.predicted, count=cell.count)
            for cell in found.cells
        ],
    )


def criteria_to_proto(found: Sequence[CriterionValue]) -> list[pb.CriterionValue]:
    """Mean grades by criterion."""
    return [
        pb.CriterionValue(
            name=one.name,
            mean=one.grade.mean,
            interval_low=_end(one.grade.low),
            interval_high=_end(one.grade.high),
            coverage=one.coverage,
        )
        for one in found
    ]


def judge_report_to_proto(found: JudgeReport) -> pb.JudgeReport:
    """What the judge did."""
    return pb.JudgeReport(
        judge=found.judge,
        model=found.model,
        prompts_sha256=found.prompts_sha256,
        call_count=found.call_count,
        cached_count=found.cached_count,
        parse_failure_count=found.parse_failure_count,
        failure_counts=found.failure_counts,
        pair_count=found.pair_count,
        disagreement_count=found.disagreement_count,
        first_position_share=_end(found.first_position_share),
        prompt_token_count=found.prompt_tokens,
        completion_token_count=found.completion_tokens,
    )


def style_report_to_proto(found: StyleReport) -> pb.StyleReport:
    """The classifier behind `style`."""
    return pb.StyleReport(
        held_out_accuracy=found.held_out_accuracy, own_count=found.own_count, base_count=found.base_count
    )


def _end(value: float | None) -> float:
    return math.nan if value is None else value
