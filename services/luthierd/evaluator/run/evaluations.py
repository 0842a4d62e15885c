"""Evaluations as a resource: creating them with their inputs fixed by digest, reading them, and their rows
and report.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from luthierd.codec import from_json, to_json
from luthierd.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from luthierd.evaluator.dataset.rows import parse_rows
from luthierd.evaluator.decisions.holdout_ledger import Holdouts
from luthierd.evaluator.domain.evaluation import (
    SPLITS,
    AdapterRevision,
    DatasetRevision,
    EvaluationConfig,
    EvaluationInputs,
    FinishedEvaluation,
    Progress,
    Results,
    adapter_of,
)
from luthierd.evaluator.domain.rows import Row
from luthierd.evaluator.models.endpoints import NO_ENDPOINTS, Endpoints
from luthierd.evaluator.run.config_rules import (
    JudgeIsGeneratorError,
    check_config,
    generators_of,
    refuse_own_endpoint,
)
from luthierd.evaluator.run.resolve_inputs import InputResolver
from luthierd.evaluator.suites.challenge_sets import ChallengeSets
from luthierd.jobs.queue import Job, JobNotFoundError, JobQueue, JobState
from luthierd.jsonl import read_lines
from luthierd.names import ADAPTER_REVISION, DATASET_REVISION, EVALUATION, TENANT, parse_id
from luthierd.paging import Page, PageRequest
from luthierd.storage.blob_errors import about
from luthierd.storage.blobs import BlobStore, Piece, read_piece

KIND = "evaluation"


class EvaluationNotFoundError(NotFoundError):
    """No such evaluation."""

    reason = "EVALUATION_NOT_FOUND"

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no evaluation {name}", metadata={"evaluation": name})


class EvaluationNotFinishedError(FailedPreconditionError):
    """The evaluation has no results (yet)."""

    reason = "EVALUATION_NOT_SUCCEEDED"

    def __init__(self, name: str, state: JobState) -> None:
        advice = "evaluate again" if state.is_final else "wait until it is"
        super().__init__(
            f"{name} is {state}, not SUCCEEDED; {advice}", metadata={"evaluation": name, "state": state.value}
        )


class Peers(Protocol):
    """The other services, asked in the name of a tenant. Raises their errors as ours."""

    async def adapter_revision(self, tenant: str, name: str) -> AdapterRevision: ...

    async def dataset_revision(self, tenant: str, name: str) -> DatasetRevision: ...

    async def deployed_adapters(self, tenant: str, deployment: str) -> Sequence[str]: ...


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """An evaluation as it is now. Times are Unix time; `error` is as `Job.error`."""

    name: str
    inputs: EvaluationInputs
    config: EvaluationConfig
    state: JobState
    error: dict[str, Any] | None
    progress: Progress | None
    results: Results | None
    create_time: float
    start_time: float | None
    end_time: float | None


class Evaluations:
    """The use cases of `EvaluationService`."""

    def __init__(
        self,
        queue: JobQueue,
        peers: Peers,
        blobs: BlobStore,
        *,
        wake: Callable[[], None],
        holdouts: Holdouts,
        endpoints: Endpoints = NO_ENDPOINTS,
        challenge_sets: ChallengeSets | None = None,
    ) -> None:
        """`challenge_sets` None: an evaluation cannot name one."""
        self._queue = queue
        self._resolver = InputResolver(peers, queue, endpoints)
        self._challenge_sets = challenge_sets
        self._peers = peers
        self._blobs = blobs
        self._wake = wake
        self._endpoints = endpoints
        self._holdouts = holdouts

    async def create(
        self,
        parent: str,
        *,
        adapter_revision: str,
        dataset_revision: str,
        config: EvaluationConfig,
        evaluation_id: str = "",
        subject: str = "",
    ) -> Evaluation:
        """Queues an evaluation of what these names mean now, for `subject`. Everything that could stop it from starting
        is an error here: an unknown revision, a revision that is not ready, an empty split, a spent final slice, a bad
        configuration.
        """
        (tenant,) = TENANT.parse(parent, field="parent")
        ADAPTER_REVISION.parse(adapter_revision, field="evaluation.adapter_revision")
        if dataset_revision:
            DATASET_REVISION.parse(dataset_revision, field="evaluation.dataset_revision")
        await asyncio.to_thread(check_config, config)  # a large schema takes seconds
        evaluation_id = parse_id(evaluation_id or f"e{uuid.uuid4().hex[:12]}", field="evaluation_id")
        await self._check_judge(tenant, config, adapter_revision)
        inputs = await self._resolve(tenant, adapter_revision, dataset_revision, config.split)
        inputs = await self._resolver.of(tenant, inputs, config)
        inputs = replace(inputs, challenge_sha256=await self._challenge_sha256(config.suites.challenge_set))
        if config.final:
            await self._holdouts.check_final(tenant, inputs)
        payload = {"inputs": to_json(inputs), "config": to_json(config), "subject": subject}
        job = await self._queue.submit(EVALUATION.format(tenant, evaluation_id), KIND, payload)
        self._wake()
        return evaluation_of(job)

    async def get(self, name: str) -> Evaluation:
        """EvaluationNotFoundError."""
        EVALUATION.parse(name)
        try:
            return evaluation_of(await self._queue.get(name))
        except JobNotFoundError:
            raise EvaluationNotFoundError(name) from None

    async def list(self, parent: str, page_size: int, page_token: str) -> Page[Evaluation]:
        """A page of a tenant's evaluations, newest first."""
        TENANT.parse(parent, field="parent")
        page = PageRequest.parse(page_size, page_token, parent)
        found = await self._queue.list(f"{parent}/evaluations/", page, kind=KIND)
        return Page(tuple(evaluation_of(job) for job in found.items), found.next_page_token)

    async def cancel(self, name: str) -> Evaluation:
        """Asks an evaluation to end; a finished one is returned unchanged. EvaluationNotFoundError."""
        EVALUATION.parse(name)
        try:
            return evaluation_of(await self._queue.cancel(name))
        except JobNotFoundError:
            raise EvaluationNotFoundError(name) from None

    async def finished(self, name: str) -> FinishedEvaluation:
        """A SUCCEEDED evaluation. EvaluationNotFoundError, EvaluationNotFinishedError."""
        found = await self.get(name)
        if found.results is None:
            raise EvaluationNotFinishedError(name, found.state)
        return FinishedEvaluation(found.name, found.inputs, found.config, found.results)

    async def results(self, name: str) -> Results:
        """The results of a SUCCEEDED evaluation. EvaluationNotFinishedError."""
        return (await self.finished(name)).results

    async def rows(self, name: str, page_size: int, page_token: str) -> Page[dict[str, Any]]:
        """A page of rows with all answers and scores, as `rows.write_rows` wrote them."""
        results = await self.results(name)
        page = PageRequest.parse(page_size, page_token, name)
        with about(name):
            lines = (await asyncio.to_thread(self._blobs.read_bytes, results.answers_sha256)).splitlines()
        found = page.slice(lines)
        return Page(tuple(json.loads(line) for line in found.items), found.next_page_token)

    async def scored_rows(self, name: str) -> Sequence[dict[str, Any]]:
        """All rows with all answers and scores. EvaluationNotFinishedError."""
        digest = (await self.results(name)).answers_sha256
        with about(name):
            return read_lines(await asyncio.to_thread(self._blobs.read_bytes, digest))

    async def split_rows(self, dataset_revision: str, split: str) -> Sequence[Row]:
        """The rows of a split that could be evaluated on. DatasetNotReadyError, SplitEmptyError."""
        tenant = DATASET_REVISION.parse(dataset_revision, field="dataset_revision")[0]
        if split not in SPLITS:
            raise InvalidArgumentError.of_field("split", f"{split!r} is not one of {', '.join(SPLITS)}")
        dataset = await self._peers.dataset_revision(tenant, dataset_revision)
        with about(f"the {split} split of {dataset_revision}"):
            data = await asyncio.to_thread(self._blobs.read_bytes, dataset.rows_sha256(split))
        return await asyncio.to_thread(parse_rows, data, split=split)

    async def report(self, name: str, offset_bytes: int, limit_bytes: int) -> Piece:
        """A piece of the HTML report; empty past the end."""
        sha256 = (await self.results(name)).report_sha256
        with about(f"the report of {name}"):
            return await asyncio.to_thread(
                read_piece, self._blobs, sha256, offset_bytes=offset_bytes, limit_bytes=limit_bytes
            )

    async def _check_judge(self, tenant: str, config: EvaluationConfig, adapter_name: str) -> None:
        """EndpointNotFoundError, JudgeIsGeneratorError. A later change of the deployment is seen in its answers."""
        if config.judge.endpoint:
            self._endpoints.find(config.judge.endpoint, tenant=tenant)
        refuse_own_endpoint(config)
        if config.judge.target.startswith("tenants/"):
            tested = generators_of(config, adapter_name)
            for revision in await self._peers.deployed_adapters(tenant, config.judge.target):
                if adapter_of(revision) in tested:
                    raise JudgeIsGeneratorError(config.judge.target, revision)

    async def _challenge_sha256(self, name: str) -> str:
        """The digest of a challenge set's cases; empty for no name."""
        if not name:
            return ""
        if self._challenge_sets is None:
            raise InvalidArgumentError.of_field("evaluation.config.challenge_set", "there are no challenge sets here")
        return (await self._challenge_sets.get(name)).sha256

    async def _resolve(self, tenant: str, adapter_name: str, dataset_name: str, split: str) -> EvaluationInputs:
        adapter = await self._peers.adapter_revision(tenant, adapter_name)
        name = dataset_name or adapter.dataset_revision
        if not name:
            raise InvalidArgumentError.of_field(
                "evaluation.dataset_revision",
                f"{adapter.name} was imported, so that its training data is not known; name the dataset revision to "
                "evaluate on",
            )
        dataset = await self._peers.dataset_revision(tenant, name)
        trained_on = dataset
        if adapter.dataset_revision and adapter.dataset_revision != name:
            trained_on = await self._peers.dataset_revision(tenant, adapter.dataset_revision)
        return EvaluationInputs(
            adapter_revision=adapter.name,
            adapter_sha256=adapter.sha256,
            base_model=adapter.base_model,
            base_model_sha256=adapter.base_model_sha256,
            dataset_revision=dataset.name,
            dataset_sha256=dataset.sha256,
            rows_sha256=dataset.rows_sha256(split),
            train_sha256=dataset.rows_sha256("train"),
            trained_sha256=trained_on.splits.get("train", "") if adapter.dataset_revision else "",
            validation_sha256=dataset.splits.get("validation", "") if dataset.row_counts.get("validation") else "",
        )


def evaluation_of(job: Job) -> Evaluation:
    """A job of the queue as an evaluation."""
    return Evaluation(
        name=job.name,
        inputs=from_json(EvaluationInputs, job.payload["inputs"]),
        config=from_json(EvaluationConfig, job.payload["config"]),
        state=job.state,
        error=job.error,
        progress=from_json(Progress, job.progress) if job.progress else None,
        results=from_json(Results, job.result) if job.result else None,
        create_time=job.create_time,
        start_time=job.start_time,
        end_time=job.end_time,
    )
