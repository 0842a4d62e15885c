"""What an evaluation reads beyond an adapter and a dataset, fixed by digest when it is created: documents, additional
adapters, an endpoint, a prompt.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

from luthierd.errors import FailedPreconditionError, NotFoundError
from luthierd.evaluator.domain.arm import ADAPTER_FIELDS
from luthierd.evaluator.domain.evaluation import AdapterRevision, DatasetRevision, EvaluationConfig, EvaluationInputs
from luthierd.evaluator.models.endpoints import Endpoints
from luthierd.jobs.queue import JobNotFoundError, JobQueue, JobState
from luthierd.names import ADAPTER_REVISION, DATASET_REVISION, PROMPT

PASSAGE_SPLITS = ("train", "validation", "holdout")


class PassagesUnusableError(FailedPreconditionError):
    """The dataset revision that should hold the documents is not READY, or has no rows."""

    reason = "PASSAGES_UNUSABLE"

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(
            f"{name} cannot be used as documents: {problem}", metadata={"dataset_revision": name, "problem": problem}
        )


class PromptNotFoundError(NotFoundError):
    """No such prompt."""

    reason = "PROMPT_NOT_FOUND"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is no prompt {name}; `luthier prompt list` shows those there are", metadata={"prompt": name}
        )


class PromptNotFinishedError(FailedPreconditionError):
    """The search for the prompt has no result (yet)."""

    reason = "PROMPT_NOT_SUCCEEDED"

    def __init__(self, name: str, state: JobState) -> None:
        advice = "search again under another id" if state.is_final else "wait until it is"
        super().__init__(f"{name} is {state}, not SUCCEEDED; {advice}", metadata={"prompt": name, "state": state.value})


class Peers(Protocol):
    """The other services, asked in the name of a tenant. Raises their errors as ours."""

    async def adapter_revision(self, tenant: str, name: str) -> AdapterRevision: ...

    async def dataset_revision(self, tenant: str, name: str) -> DatasetRevision: ...


class InputResolver:
    """Resolves the names in a configuration."""

    def __init__(self, peers: Peers, queue: JobQueue, endpoints: Endpoints) -> None:
        self._peers = peers
        self._queue = queue
        self._endpoints = endpoints

    async def of(self, tenant: str, inputs: EvaluationInputs, config: EvaluationConfig) -> EvaluationInputs:
        """`inputs` with everything that `config` names. The services' NotFoundErrors, EndpointNotFoundError,
        PassagesUnusableError, PromptNotFinishedError.
        """
        if config.endpoint is not None:
            self._endpoints.find(config.endpoint.endpoint, tenant=tenant)
        if config.passages:
            inputs = replace(inputs, passage_sha256s=await self._passages(tenant, config.passages))
        for field, sha256_field in ADAPTER_FIELDS.items():
            if name := getattr(config, field):
                inputs = await self._with_adapter(tenant, inputs, field, name, sha256_field)
        if config.prompt:
            inputs = replace(inputs, prompt_sha256=await self._prompt(config.prompt))
        return inputs

    async def _prompt(self, name: str) -> str:
        PROMPT.parse(name, field="evaluation.config.prompt")
        try:
            job = await self._queue.get(name)
        except JobNotFoundError:
            raise PromptNotFoundError(name) from None
        if not job.result:
            raise PromptNotFinishedError(name, job.state)
        return str(job.result["sha256"])

    async def _passages(self, tenant: str, name: str) -> tuple[str, ...]:
        DATASET_REVISION.parse(name, field="evaluation.config.passages")
        found = await self._peers.dataset_revision(tenant, name)
        if not found.is_ready:
            raise PassagesUnusableError(name, "it is not READY; wait for its curation")
        splits = [split for split in PASSAGE_SPLITS if found.row_counts.get(split)]
        if not splits:
            raise PassagesUnusableError(name, "it has no rows; import documents and curate again")
        return tuple(found.splits[split] for split in splits)

    async def _with_adapter(
        self, tenant: str, inputs: EvaluationInputs, field: str, name: str, sha256_field: str
    ) -> EvaluationInputs:
        """Adds an adapter; the rows that it was trained on must not be evaluated."""
        ADAPTER_REVISION.parse(name, field=f"evaluation.config.{field}")
        adapter = await self._peers.adapter_revision(tenant, name)
        learned = list(inputs.other_trained_sha256s)
        if adapter.dataset_revision:
            trained_on = await self._peers.dataset_revision(tenant, adapter.dataset_revision)
            learned += filter(None, [trained_on.splits.get("train", "")])
        changes: dict[str, Any] = {sha256_field: adapter.sha256, "other_trained_sha256s": tuple(dict.fromkeys(learned))}
        return replace(inputs, **changes)
