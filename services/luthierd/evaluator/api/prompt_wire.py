"""Between the contract and the domain: prompts and their search."""

from __future__ import annotations

from typing import Any

from luthier.evaluator.v1 import evaluation_pb2, prompt_pb2

from luthierd.errors import InvalidArgumentError
from luthierd.evaluator.api.wire_parts import timestamp
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.run.prompt_search import Measured, PromptSearch
from luthierd.evaluator.run.prompts import Prompt
from luthierd.evaluator.scorers.registry import known_metrics
from luthierd.jobs.queue import JobEvent
from luthierd.rpc import job_resource
from luthierd.rpc.status import status_from_failure

DOMAIN = "evaluator.luthier.dev"
_NUMBERS = ("shot_count", "candidate_count", "query_budget", "max_answer_tokens", "concurrency", "seed")


def target_from_proto(message: prompt_pb2.Prompt) -> str:
    """Who is prompted. InvalidArgumentError if nobody is named."""
    kind = message.WhichOneof("target")
    if kind is None:
        raise InvalidArgumentError.of_field("prompt.target", "name a base model or an adapter revision")
    return str(getattr(message, kind))


def search_from_proto(message: prompt_pb2.PromptSearch) -> PromptSearch:
    """With every default filled in. InvalidArgumentError for an unknown metric."""
    present = {field.name for field, _ in message.ListFields()}
    given: dict[str, Any] = {name: getattr(message, name) for name in _NUMBERS if name in present}
    if message.instructions:
        given["instructions"] = tuple(message.instructions)
    if message.metric:
        if message.metric not in known_metrics():
            raise InvalidArgumentError.of_field("prompt.search.metric", f"{message.metric!r} is not a metric")
        given["metric"] = Metric(message.metric)
    return PromptSearch(**given)


def search_to_proto(search: PromptSearch) -> prompt_pb2.PromptSearch:
    """Every field set."""
    return prompt_pb2.PromptSearch(
        instructions=search.instructions,
        metric=search.metric or "",
        **{name: getattr(search, name) for name in _NUMBERS},
    )


def prompt_to_proto(prompt: Prompt) -> prompt_pb2.Prompt:
    """The resource; what was found only when it has SUCCEEDED."""
    message = prompt_pb2.Prompt(
        name=prompt.name,
        dataset_revision=prompt.inputs.dataset_revision,
        search=search_to_proto(prompt.search),
        state=_state(prompt.state),
        create_time=timestamp(prompt.create_time),
        end_time=timestamp(prompt.end_time),
        query_count=prompt.query_count,
        target_sha256=prompt.inputs.target_sha256,
        dataset_sha256=prompt.inputs.dataset_sha256,
    )
    if prompt.inputs.target.startswith("tenants/"):
        message.adapter_revision = prompt.inputs.target
    else:
        message.base_model = prompt.inputs.target
    if prompt.query_count:
        message.progress.CopyFrom(_progress(prompt.query_count, prompt.search.query_budget))
    if prompt.error:
        message.error.CopyFrom(status_from_failure(prompt.error, DOMAIN))
    if prompt.result:
        result = prompt.result
        message.instruction = result.instruction
        message.sha256 = result.sha256
        message.examples.extend(
            prompt_pb2.PromptExample(row_id=one.row_id, question=one.question, answer=one.answer)
            for one in result.examples
        )
        message.score.CopyFrom(_measured(result.metric, result.score))
        message.default_score.CopyFrom(_measured(result.metric, result.default_score))
        message.trials.extend(
            prompt_pb2.PromptTrial(
                instruction=one.instruction,
                example_row_ids=one.example_row_ids,
                mean=one.mean,
                row_count=one.row_count,
            )
            for one in result.trials
        )
    return message


def event_to_proto(event: JobEvent | None, *, query_budget: int) -> prompt_pb2.PromptEvent | None:
    """See `rpc.job_resource.event_to_proto`; the search has at most `query_budget` queries."""
    return job_resource.event_to_proto(
        prompt_pb2.PromptEvent, event, progress=lambda data: _progress(data["done_count"], query_budget)
    )


def _state(state: str) -> evaluation_pb2.EvaluationState.ValueType:
    return evaluation_pb2.EvaluationState.Value(f"EVALUATION_STATE_{state}")


def _progress(done_count: int, query_budget: int) -> prompt_pb2.PromptProgress:
    return prompt_pb2.PromptProgress(done_count=done_count, total_count=query_budget)


def _measured(metric: Metric, found: Measured) -> evaluation_pb2.MetricValue:
    nothing = float("nan")
    return evaluation_pb2.MetricValue(
        metric=metric,
        mean=found.value,
        interval_low=found.interval.low if found.interval else nothing,
        interval_high=found.interval.high if found.interval else nothing,
        coverage=1.0 if found.row_count else 0.0,
    )
