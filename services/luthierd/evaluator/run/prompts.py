"""Prompts as a resource: a search is created with its inputs fixed by digest, and read."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from luthierd.codec import from_json, to_json
from luthierd.errors import FailedPreconditionError, FieldViolation, InvalidArgumentError
from luthierd.evaluator.domain.evaluation import AdapterRevision, DatasetRevision
from luthierd.evaluator.run.prompt_run import METRICS, PromptInputs, PromptResult
from luthierd.evaluator.run.prompt_search import INSTRUCTIONS, PromptSearch
from luthierd.evaluator.run.resolve_inputs import PromptNotFoundError
from luthierd.jobs.queue import Job, JobNotFoundError, JobQueue, JobState
from luthierd.names import ADAPTER_REVISION, BASE_MODEL, DATASET_REVISION, PROMPT, TENANT, parse_id
from luthierd.paging import Page, PageRequest

KIND = "prompt"
MAX_INSTRUCTIONS, MAX_INSTRUCTION_CHARACTERS = 32, 4000
BOUNDS = {
    "shot_count": (0, 16),
    "candidate_count": (2, 128),
    "query_budget": (10, 100_000),
    "max_answer_tokens": (1, 8192),
    "concurrency": (1, 256),
}


class PromptDatasetUnusableError(FailedPreconditionError):
    """The dataset revision is not READY, or lacks training or validation rows."""

    reason = "PROMPT_DATASET_UNUSABLE"

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(
            f"no prompt can be searched on {name}: {problem}", metadata={"dataset_revision": name, "problem": problem}
        )


class Peers(Protocol):
    """The other services, asked in the name of a tenant. Raises their errors as ours."""

    async def adapter_revision(self, tenant: str, name: str) -> AdapterRevision: ...

    async def dataset_revision(self, tenant: str, name: str) -> DatasetRevision: ...

    async def base_model_sha256(self, tenant: str, name: str) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt as it is now. Times are Unix time; `error` is as `Job.error`."""

    name: str
    inputs: PromptInputs
    search: PromptSearch
    state: JobState
    error: dict[str, Any] | None
    query_count: int
    result: PromptResult | None
    create_time: float
    end_time: float | None


class Prompts:
    """The use cases of `PromptService`."""

    def __init__(self, queue: JobQueue, peers: Peers, *, wake: Callable[[], None]) -> None:
        self._queue = queue
        self._peers = peers
        self._wake = wake

    async def create(
        self, parent: str, *, target: str, dataset_revision: str, search: PromptSearch, prompt_id: str = ""
    ) -> Prompt:
        """Queues a search. Everything that could stop it from starting is an error here."""
        (tenant,) = TENANT.parse(parent, field="parent")
        DATASET_REVISION.parse(dataset_revision, field="prompt.dataset_revision")
        search = replace(search, instructions=search.instructions or INSTRUCTIONS)
        check_search(search)
        prompt_id = parse_id(prompt_id or f"p{uuid.uuid4().hex[:12]}", field="prompt_id")
        inputs = await self._resolve(tenant, target, dataset_revision)
        payload = {"inputs": to_json(inputs), "search": to_json(search)}
        job = await self._queue.submit(PROMPT.format(tenant, prompt_id), KIND, payload)
        self._wake()
        return prompt_of(job)

    async def get(self, name: str) -> Prompt:
        """PromptNotFoundError."""
        PROMPT.parse(name)
        try:
            return prompt_of(await self._queue.get(name))
        except JobNotFoundError:
            raise PromptNotFoundError(name) from None

    async def list(self, parent: str, page_size: int, page_token: str) -> Page[Prompt]:
        """A page of a tenant's prompts, newest first."""
        TENANT.parse(parent, field="parent")
        page = PageRequest.parse(page_size, page_token, parent)
        found = await self._queue.list(f"{parent}/prompts/", page, kind=KIND)
        return Page(tuple(prompt_of(job) for job in found.items), found.next_page_token)

    async def cancel(self, name: str) -> Prompt:
        """Asks a search to end; a finished one is returned unchanged. PromptNotFoundError."""
        PROMPT.parse(name)
        try:
            return prompt_of(await self._queue.cancel(name))
        except JobNotFoundError:
            raise PromptNotFoundError(name) from None

    async def _resolve(self, tenant: str, target: str, dataset_name: str) -> PromptInputs:
        if target.startswith("tenants/"):
            ADAPTER_REVISION.parse(target, field="prompt.adapter_revision")
            sha256 = (await self._peers.adapter_revision(tenant, target)).sha256
        else:
            BASE_MODEL.parse(target, field="prompt.base_model")
            sha256 = await self._peers.base_model_sha256(tenant, target)
        dataset = await self._peers.dataset_revision(tenant, dataset_name)
        if not dataset.is_ready:
            raise PromptDatasetUnusableError(dataset_name, "it is not READY; wait for its curation")
        for split in ("train", "validation"):
            if not dataset.row_counts.get(split):
                raise PromptDatasetUnusableError(
                    dataset_name, f"its {split} split is empty; curate with a larger share for it"
                )
        return PromptInputs(
            target=target,
            target_sha256=sha256,
            dataset_revision=dataset.name,
            dataset_sha256=dataset.sha256,
            train_sha256=dataset.splits["train"],
            validation_sha256=dataset.splits["validation"],
        )


def check_search(search: PromptSearch) -> None:
    """InvalidArgumentError naming every field that is out of bounds."""
    violations = []
    for name, (low, high) in BOUNDS.items():
        value = getattr(search, name)
        if not low <= value <= high:
            violations.append(FieldViolation(f"prompt.search.{name}", f"{value} is not in {low} to {high}"))
    if len(search.instructions) > MAX_INSTRUCTIONS:
        text = f"{len(search.instructions)} are more than {MAX_INSTRUCTIONS}"
        violations.append(FieldViolation("prompt.search.instructions", text))
    for at, instruction in enumerate(search.instructions):
        if len(instruction) > MAX_INSTRUCTION_CHARACTERS:
            text = f"{len(instruction)} characters are more than {MAX_INSTRUCTION_CHARACTERS}"
            violations.append(FieldViolation(f"prompt.search.instructions[{at}]", text))
    if search.metric is not None and search.metric not in METRICS:
        text = f"{search.metric} cannot be optimised; choose one of {', '.join(METRICS)}"
        violations.append(FieldViolation("prompt.search.metric", text))
    if violations:
        message = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
        raise InvalidArgumentError(message, metadata={"field": violations[0].field}, violations=violations)


def prompt_of(job: Job) -> Prompt:
    """A job of the queue as a prompt."""
    result = from_json(PromptResult, job.result) if job.result else None
    return Prompt(
        name=job.name,
        inputs=from_json(PromptInputs, job.payload["inputs"]),
        search=from_json(PromptSearch, job.payload["search"]),
        state=job.state,
        error=job.error,
        query_count=result.query_count if result else (job.progress or {}).get("done_count", 0),
        result=result,
        create_time=job.create_time,
        end_time=job.end_time,
    )
