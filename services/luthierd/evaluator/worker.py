"""The worker process of one job, an evaluation or a search for a prompt:
`python -m luthierd.evaluator.worker tenants/T/evaluations/E`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from luthier.client import AsyncClient

from luthierd.codec import from_json, to_json
from luthierd.evaluator.api.peers import EngineVersion, InferenceModel, SdkChat, SdkLikelihoods, client_of
from luthierd.evaluator.config import EvaluatorConfig
from luthierd.evaluator.decisions.holdout_ledger import EvaluationAccesses
from luthierd.evaluator.decisions.holdout_store import SqlLedger
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import EvaluationConfig, EvaluationInputs
from luthierd.evaluator.graders.judge import Judge
from luthierd.evaluator.graders.judge_models import EndpointJudge, InferenceJudge
from luthierd.evaluator.graders.judgement_store import SqlJudgementStore
from luthierd.evaluator.models.arms import target_of
from luthierd.evaluator.models.chat_endpoint import ChatEndpoint, EndpointArmModel
from luthierd.evaluator.models.costs import token_price_of
from luthierd.evaluator.models.endpoints import Endpoint, load_endpoints
from luthierd.evaluator.models.generate import ChatModel, Generator, SystemClock
from luthierd.evaluator.models.multiple_choice import LikelihoodChooser
from luthierd.evaluator.models.sample_store import SampleCache, SqlSampleLookup, SqlSampleStore
from luthierd.evaluator.retrieval.indexes import SqlIndexCatalogue
from luthierd.evaluator.run import prompts
from luthierd.evaluator.run.config_rules import generators_of
from luthierd.evaluator.run.evaluation import Embedder, EvaluationRun, Models
from luthierd.evaluator.run.prompt_run import METRICS, PromptInputs, PromptRun
from luthierd.evaluator.run.prompt_search import PromptSearch
from luthierd.evaluator.scorers.registry import build_scorers, load, needs_judge
from luthierd.evaluator.scorers.scorer import SCORERS, Scorer
from luthierd.evaluator.suites import lm_harness
from luthierd.evaluator.suites.retention_store import SqlRetentionSuites
from luthierd.evaluator.suites.suite import SuiteParts
from luthierd.jobs.worker import JobCancelled, JobContext, Outcome, run_worker
from luthierd.rpc.auth import TokenIssuer
from luthierd.rpc.peers import endpoints_of
from luthierd.storage.blobs import BlobStore
from luthierd.storage.database import Database

T = TypeVar("T")

CANCEL_POLL_INTERVAL_S = 0.3
SCORING_PACKAGES = (
    "ragas",
    "rouge-score",
    "sacrebleu",
    "sentence-transformers",
    "faiss-cpu",
    "bm25s",
    "ir-measures",
    "lm-eval",
    "numpy",
    "scipy",
    "torch",
)
"""Packages whose release can change a number of the report."""


async def work(context: JobContext, config: EvaluatorConfig, database: Database) -> Outcome:
    """Runs an evaluation or a prompt search."""
    # huggingface_hub reads it once, at its import: nothing that an evaluation reads is downloaded.
    os.environ["HF_HUB_OFFLINE"] = "1"
    issuer = TokenIssuer.of(config)
    async with AsyncClient(endpoints_of(config), token="") as client, contextlib.AsyncExitStack() as opened:
        tenant = context.job.name.split("/")[1]
        worker = Worker(
            context=context,
            config=config,
            tenant=tenant,
            database=database,
            blobs=BlobStore.of(config),
            client=client_of(client, issuer, tenant),
            opened=opened,
        )
        job = worker.prompt_run() if context.job.kind == prompts.KIND else worker.evaluation_run()
        return Outcome(to_json(await until_cancelled(job.run(), context)))


@dataclass(frozen=True, kw_only=True)
class Worker:
    """Builds the run of a job. What it opens for the run is closed with `opened`."""

    context: JobContext
    config: EvaluatorConfig
    tenant: str
    database: Database
    blobs: BlobStore
    client: AsyncClient
    opened: contextlib.AsyncExitStack

    def evaluation_run(self) -> EvaluationRun:
        """The run of an evaluation. EndpointNotFoundError if the operator removed its endpoint since."""
        payload = self.context.job.payload
        inputs = from_json(EvaluationInputs, payload["inputs"])
        settings = from_json(EvaluationConfig, payload["config"])
        samples = SqlSampleStore(self.database, self.context.job.name)
        endpoint = self._endpoint(settings.endpoint.endpoint) if settings.endpoint else None

        def target(arm: Arm) -> str:
            return target_of(arm, inputs, settings).name

        inference = InferenceModel(self.client, target, timeout_s=self.config.answer_timeout_s)
        cache = SampleCache(
            SqlSampleLookup(self.database, self.tenant), inputs, settings, EngineVersion(self.client).get
        )
        generator = Generator(
            chat_model=self._chat_model(inference, settings, endpoint),
            samples=samples,
            clock=SystemClock(),
            concurrency=settings.concurrency,
            endpoint_concurrency=endpoint.concurrency if endpoint else 1,
            max_tokens=settings.max_answer_tokens,
            patience_s=self.config.inference_patience_s,
            chooser=LikelihoodChooser(inference),
            cache=cache,
        )
        return EvaluationRun(
            name=self.context.job.name,
            tenant=self.tenant,
            inputs=inputs,
            config=settings,
            generator=generator,
            samples=samples,
            blobs=self.blobs,
            catalogue=SqlIndexCatalogue(self.database),
            models=Models(load_embedder, build_scorers),
            versions=versions,
            progress=lambda found: self._progress(to_json(found)),
            shot_characters=self.config.shot_characters,
            suite_parts=SuiteParts(
                SdkLikelihoods(self.client, target, timeout_s=self.config.answer_timeout_s),
                SqlRetentionSuites(self.database),
                lm_harness.loader(self.config.lm_tasks_path),
            ),
            token_prices={Arm.ENDPOINT: token_price_of(endpoint)} if endpoint else {},
            judge=self._judge(inputs, settings) if needs_judge(settings) else None,
            accesses=EvaluationAccesses(SqlLedger(self.database), subject=payload.get("subject", "")),
        )

    def prompt_run(self) -> PromptRun:
        """The run of a search for a prompt."""
        inputs = from_json(PromptInputs, self.context.job.payload["inputs"])
        search = from_json(PromptSearch, self.context.job.payload["search"])
        samples = SqlSampleStore(self.database, self.context.job.name)
        generator = Generator(
            chat_model=InferenceModel(self.client, lambda _: inputs.target, timeout_s=self.config.answer_timeout_s),
            samples=samples,
            clock=SystemClock(),
            concurrency=search.concurrency,
            max_tokens=search.max_answer_tokens,
            patience_s=self.config.inference_patience_s,
        )
        return PromptRun(
            inputs=inputs,
            search=search,
            generator=generator,
            samples=samples,
            blobs=self.blobs,
            scorers=search_scorers,
            report=lambda done_count: self._progress({"done_count": done_count}),
            tell=lambda text: self.context.emit("message", {"message": text}),
            shot_characters=self.config.shot_characters,
        )

    def _progress(self, data: dict[str, Any]) -> None:
        self.context.raise_if_cancelled()
        self.context.emit("progress", data)

    def _endpoint(self, name: str) -> Endpoint:
        return load_endpoints(self.config.endpoints_path, os.environ).find(name, tenant=self.tenant)

    def _open(self, endpoint: Endpoint) -> ChatEndpoint:
        chat = ChatEndpoint(endpoint)
        self.opened.push_async_callback(chat.close)
        return chat

    def _chat_model(self, inference: ChatModel, settings: EvaluationConfig, endpoint: Endpoint | None) -> ChatModel:
        if endpoint is None or settings.endpoint is None:
            return inference
        return EndpointArmModel(inference, self._open(endpoint), model=settings.endpoint.model)

    def _judge(self, inputs: EvaluationInputs, settings: EvaluationConfig) -> Judge:
        """The judge of an evaluation: the endpoint or target that it names, else the base model."""
        chosen, store = settings.judge, SqlJudgementStore(self.database, self.tenant)
        if chosen.endpoint:
            endpoint = self._endpoint(chosen.endpoint)
            model = EndpointJudge(endpoint, self._open(endpoint), chosen.model, chosen.max_tokens)
            return Judge(model=model, store=store, concurrency=endpoint.concurrency)
        target = chosen.target or inputs.base_model
        own = InferenceJudge(
            target=target,
            digest=inputs.base_model_sha256 if target == inputs.base_model else "",
            generators=generators_of(settings, inputs.adapter_revision),
            max_tokens=chosen.max_tokens,
            chat=SdkChat(self.client, timeout_s=self.config.answer_timeout_s),
        )
        return Judge(model=own, store=store, concurrency=settings.concurrency)


async def until_cancelled(work: Awaitable[T], context: JobContext) -> T:
    """What `work` returns; JobCancelled soon after a cancel was asked for, wherever the work is waiting."""
    task = asyncio.ensure_future(work)
    while not (await asyncio.wait([task], timeout=CANCEL_POLL_INTERVAL_S))[0]:
        if context.cancelled():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            raise JobCancelled
    return task.result()


def load_embedder() -> Embedder:
    """Imports torch and loads the model: about ten seconds on two cores."""
    from luthierd.evaluator.retrieval.embedder import MiniLmEmbedder

    return MiniLmEmbedder()


def search_scorers() -> Sequence[Scorer]:
    """The metrics that a search for a prompt can maximise. Imports RAGAS: about five seconds on two cores."""
    load()
    return [SCORERS[metric]() for metric in METRICS]


def versions() -> Mapping[str, str]:
    """Versions of what makes the numbers."""
    found = {"python": platform.python_version(), "luthier": importlib.metadata.version("luthier")}
    for package in SCORING_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


if __name__ == "__main__":
    run_worker("evaluator", EvaluatorConfig, work)
