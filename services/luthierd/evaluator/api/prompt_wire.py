"""Prompts and their search between the contract and the domain."""

from __future__ import annotations

from typing import Any

from luthier.evaluator.v1 import evaluation_pb2, prompt_pb2

from luthierd.errors import InvalidArgumentError
from luthierd.evaluator.api.metric_wire import metric_from_name
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.run.prompt_search import PromptSearch, ValidationScore
from luthierd.evaluator.run.prompts import Prompt
from luthierd.jobs.queue import JobEvent
from luthierd.rpc import job_resource
from luthierd.rpc.status import status_from_failure
from luthierd.rpc.wire import from_proto, to_proto

DOMAIN = "evaluator.luthier.dev"


def target_from_proto(message: prompt_pb2.Prompt) -> str:
    """Who is prompted. InvalidArgumentError if nobody is named."""
    kind = message.WhichOneof("target")
    if kind is None:
        raise InvalidArgumentError.of_field("prompt.target", "name a base model or an adapter revision")
    return str(getattr(message, kind))


def search_from_proto(message: prompt_pb2.PromptSearch) -> PromptSearch:
    """With every default filled in. InvalidArgumentError for an unknown metric."""
    given: dict[str, Any] = {}
    if message.metric:
        given["metric"] = metric_from_name(message.metric, field="prompt.search.metric")
    return from_proto(PromptSearch, message, path="prompt.search", **given)


def prompt_to_proto(prompt: Prompt) -> prompt_pb2.Prompt:
    """The resource; what was found only when it has SUCCEEDED."""
    inputs, result = prompt.inputs, prompt.result
    kind = "adapter_revision" if inputs.target.startswith("tenants/") else "base_model"
    given: dict[str, Any] = {
        kind: inputs.target,
        "target_sha256": inputs.target_sha256,
        "dataset_revision": inputs.dataset_revision,
        "dataset_sha256": inputs.dataset_sha256,
        "search": to_proto(prompt_pb2.PromptSearch, prompt.search, metric=prompt.search.metric or ""),
        "error": status_from_failure(prompt.error, DOMAIN) if prompt.error else None,
        "progress": _progress(prompt.query_count, prompt.search.query_budget) if prompt.query_count else None,
    }
    if result:
        given |= {
            "instruction": result.instruction,
            "sha256": result.sha256,
            "examples": result.examples,
            "score": _score(result.metric, result.score),
            "default_score": _score(result.metric, result.default_score),
            "trials": result.trials,
        }
    return to_proto(prompt_pb2.Prompt, prompt, **given)


def event_to_proto(event: JobEvent | None, *, query_budget: int) -> prompt_pb2.PromptEvent | None:
    """See `rpc.job_resource.event_to_proto`; the search has at most `query_budget` queries."""
    return job_resource.event_to_proto(
        prompt_pb2.PromptEvent, event, progress=lambda data: _progress(data["done_count"], query_budget)
    )


def _progress(done_count: int, query_budget: int) -> prompt_pb2.PromptProgress:
    return prompt_pb2.PromptProgress(done_count=done_count, total_count=query_budget)


def _score(metric: Metric, found: ValidationScore) -> evaluation_pb2.MetricValue:
    coverage = 1.0 if found.row_count else 0.0
    return evaluation_pb2.MetricValue(
        metric=metric,
        mean=found.value,
        interval_low=found.interval.low if found.interval else float("nan"),
        interval_high=found.interval.high if found.interval else float("nan"),
        coverage=coverage,
    )
