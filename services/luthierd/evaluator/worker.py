"""The worker process of one job, an evaluation or a search for a prompt:
`python -m luthierd.evaluator.worker tenants/T/evaluations/E`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Awaitable, Mapping, Sequence
from typing import TypeVar

from luthier.client import AsyncClient

from luthierd.evaluator.api.peers import EngineVersion, InferenceModel, SdkChat, SdkLikelihoods, client_of
from luthierd.evaluator.codec import from_json, to_json
from luthierd.evaluator.config import EvaluatorConfig
from luthierd.evaluator.decisions.holdout_ledger import EvaluationAccesses
from luthierd.evaluator.decisions.holdout_store import SqlLedger
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.evaluation import EvaluationConfig, EvaluationInputs, Progress
from luthierd.evaluator.graders.judge import Judge, JudgementStore
from luthierd.evaluator.graders.judge_models import EndpointJudge, InferenceJudge
from luthierd.evaluator.graders.judgement_store import SqlJudgementStore
from luthierd.evaluator.models.chat_endpoint import ChatEndpoint
from luthierd.evaluator.models.costs import token_price_of
from luthierd.evaluator.models.endpoint_arm import EndpointArmModel
from luthierd.evaluator.models.endpoints import Endpoint, load_endpoints
from luthierd.evaluator.models.generate import ChatModel, Generator, SystemClock
from luthierd.evaluator.models.multiple_choice import LikelihoodChooser
from luthierd.evaluator.models.sample_cache import SampleCache
from luthierd.evaluator.models.targets import target_of
from luthierd.evaluator.run import prompts
from luthierd.evaluator.run.evaluation import Embedder, EvaluationRun, Models
from luthierd.evaluator.run.metric_rules import generators_of, needs_judge
from luthierd.evaluator.run.prompt_job import prepare_search
from luthierd.evaluator.run.store import SqlIndexCatalogue, SqlSampleLookup, SqlSampleStore
from luthierd.evaluator.scorers.registry import ScoringMaterial
from luthierd.evaluator.scorers.scorer import Scorer
from luthierd.evaluator.suites import lm_harness
from luthierd.evaluator.suites.retention_store import SqlRetentionSuites
from luthierd.evaluator.suites.retention_suite import SuiteParts
from luthierd.jobs.queue import JobQueue
from luthierd.jobs.worker import JobCancelled, JobContext, Outcome, run_job
from luthierd.rpc.auth import TokenIssuer
from luthierd.rpc.main import run
from luthierd.rpc.peers import endpoints_of
from luthierd.storage.blobs import BlobStore
from luthierd.storage.database import Database

T = TypeVar("T")

CANCEL_POLL_INTERVAL_S = 0.3
# Packages whose release can change a number of the report.
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


async def main(config: EvaluatorConfig) -> None:
    """Works on the job named on the command line."""
    # Read once, by whatever imports huggingface_hub first: nothing that an evaluation reads is downloaded.
    os.environ["HF_HUB_OFFLINE"] = "1"
    name = sys.argv[1]
    database = Database(config.database_url_of("evaluator"), schema="evaluator")
    blobs = BlobStore(config.blobs, cache=config.home / "cache/blobs")
    issuer = TokenIssuer.from_file(config.signing_key)
    queue = JobQueue(database, lease_s=config.lease_s)
    async with AsyncClient(endpoints_of(config), token="") as client, contextlib.AsyncExitStack() as opened:

        async def work(context: JobContext) -> Outcome:
            own = client_of(client, issuer, _tenant(name))
            if context.job.kind == prompts.KIND:
                search = prepare_search(context, config, database, blobs, own)
                return Outcome(to_json(await until_cancelled(search.run(), context)))
            evaluation = _prepare(context, config, database, blobs, own, opened)
            return Outcome(to_json(await until_cancelled(evaluation.run(), context)))

        await run_job(queue, name, work)
    await database.close()


def _prepare(
    context: JobContext,
    config: EvaluatorConfig,
    database: Database,
    blobs: BlobStore,
    client: AsyncClient,
    opened: contextlib.AsyncExitStack,
) -> EvaluationRun:
    payload = context.job.payload
    inputs = from_json(EvaluationInputs, payload["inputs"])
    settings = from_json(EvaluationConfig, payload["config"])
    samples = SqlSampleStore(database, context.job.name)
    tenant = _tenant(context.job.name)
    endpoint = _endpoint(context, config, settings)
    inference = InferenceModel(
        client, lambda arm: target_of(arm, inputs, settings).name, timeout_s=config.answer_timeout_s
    )
    cache = SampleCache(
        SqlSampleLookup(database, _tenant(context.job.name)),
        inputs,
        settings,
        EngineVersion(client).get,
    )
    generator = Generator(
        _chat_model(inference, settings, endpoint=endpoint, opened=opened),
        samples,
        SystemClock(),
        concurrency=settings.concurrency,
        endpoint_concurrency=endpoint.concurrency if endpoint else 1,
        max_tokens=settings.max_answer_tokens,
        patience_s=config.inference_patience_s,
        chooser=LikelihoodChooser(inference),
        cache=cache,
    )

    def progress(found: Progress) -> None:
        context.raise_if_cancelled()
        context.emit("progress", to_json(found))

    return EvaluationRun(
        name=context.job.name,
        tenant=tenant,
        inputs=inputs,
        config=settings,
        generator=generator,
        samples=samples,
        blobs=blobs,
        catalogue=SqlIndexCatalogue(database),
        models=Models(load_embedder, load_scorers),
        versions=versions,
        progress=progress,
        shot_characters=config.shot_characters,
        suite_parts=SuiteParts(
            SdkLikelihoods(
                client, lambda arm: target_of(arm, inputs, settings).name, timeout_s=config.answer_timeout_s
            ),
            SqlRetentionSuites(database),
            lm_harness.loader(config.lm_tasks_path),
        ),
        token_prices={Arm.ENDPOINT: token_price_of(endpoint)} if endpoint else {},
        judge=_judge(
            client, config, inputs, settings, store=SqlJudgementStore(database, tenant), tenant=tenant, opened=opened
        )
        if needs_judge(settings)
        else None,
        accesses=EvaluationAccesses(SqlLedger(database), subject=payload.get("subject", "")),
    )


def _endpoint(context: JobContext, config: EvaluatorConfig, settings: EvaluationConfig) -> Endpoint | None:
    """The endpoint under test; EndpointNotFoundError if the operator took it away since."""
    if settings.endpoint is None:
        return None
    endpoints = load_endpoints(config.endpoints_path, os.environ)
    return endpoints.find(settings.endpoint.endpoint, tenant=_tenant(context.job.name))


def _chat_model(
    inference: ChatModel, settings: EvaluationConfig, *, endpoint: Endpoint | None, opened: contextlib.AsyncExitStack
) -> ChatModel:
    if endpoint is None or settings.endpoint is None:
        return inference
    chat = ChatEndpoint(endpoint)
    opened.push_async_callback(chat.close)
    return EndpointArmModel(inference, chat, model=settings.endpoint.model)


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


def _judge(
    client: AsyncClient,
    config: EvaluatorConfig,
    inputs: EvaluationInputs,
    settings: EvaluationConfig,
    *,
    store: JudgementStore,
    tenant: str,
    opened: contextlib.AsyncExitStack,
) -> Judge:
    """The judge of an evaluation: the endpoint or target that it names, else the base model."""
    chosen = settings.judge
    if chosen.endpoint:
        endpoint = load_endpoints(config.endpoints_path, os.environ).find(chosen.endpoint, tenant=tenant)
        chat = ChatEndpoint(endpoint)
        opened.push_async_callback(chat.close)
        model = EndpointJudge(endpoint, chat, chosen.model, chosen.max_tokens)
        return Judge(model, store, concurrency=endpoint.concurrency)
    target = chosen.target or inputs.base_model
    return Judge(
        InferenceJudge(
            target=target,
            digest=inputs.base_model_sha256 if target == inputs.base_model else "",
            generators=generators_of(settings, inputs.adapter_revision),
            max_tokens=chosen.max_tokens,
            chat=SdkChat(client, timeout_s=config.answer_timeout_s),
        ),
        store,
        concurrency=settings.concurrency,
    )


def load_embedder() -> Embedder:
    """Imports torch and loads the model: about ten seconds on two cores."""
    from luthierd.evaluator.retrieval.embedder import MiniLmEmbedder

    return MiniLmEmbedder()


def load_scorers(material: ScoringMaterial) -> Sequence[Scorer]:
    """Imports RAGAS: about five seconds on two cores."""
    from luthierd.evaluator.scorers.registry import build_scorers

    return build_scorers(material)


def versions() -> Mapping[str, str]:
    """Versions of what makes the numbers."""
    found = {"python": platform.python_version(), "luthier": importlib.metadata.version("luthier")}
    for package in SCORING_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _tenant(name: str) -> str:
    """Of a job's name: the second part, whatever kind of job it is."""
    return name.split("/")[1]


if __name__ == "__main__":
    run("evaluator", EvaluatorConfig, main)
