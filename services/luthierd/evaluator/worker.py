"""The worker process of one evaluation: `python -m luthierd.evaluator.worker tenants/T/evaluations/E`."""

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

from luthierd.evaluator.asking import Answerer, Asker, SystemClock
from luthierd.evaluator.chat_endpoint import ChatEndpoint
from luthierd.evaluator.codec import from_json, to_json
from luthierd.evaluator.config import EvaluatorConfig
from luthierd.evaluator.costs import token_price_of
from luthierd.evaluator.domain import Arm, EvaluationConfig, EvaluationInputs, Progress
from luthierd.evaluator.endpoint_arm import EndpointArmAnswerer
from luthierd.evaluator.endpoints import Endpoint, load_endpoints
from luthierd.evaluator.evaluation_run import Embedder, EvaluationRun, Models
from luthierd.evaluator.peers import SdkAnswerer, client_of
from luthierd.evaluator.scorers.scorer import Scorer
from luthierd.evaluator.store import SqlAnswerJournal, SqlIndexCatalogue
from luthierd.evaluator.targets import target_of
from luthierd.jobs.queue import JobQueue
from luthierd.jobs.worker import JobCancelled, JobContext, Outcome, run_job
from luthierd.names import EVALUATION
from luthierd.rpc.auth import TokenIssuer
from luthierd.rpc.main import run
from luthierd.rpc.peers import endpoints_of
from luthierd.storage.blobs import BlobStore
from luthierd.storage.database import Database

T = TypeVar("T")

CANCEL_POLL_INTERVAL_S = 0.3
# Packages whose release can change a number of the report.
MEASURING_PACKAGES = (
    "ragas",
    "rouge-score",
    "sacrebleu",
    "sentence-transformers",
    "faiss-cpu",
    "numpy",
    "scipy",
    "torch",
)


async def main(config: EvaluatorConfig) -> None:
    """Works on the job named on the command line."""
    name = sys.argv[1]
    database = Database(config.database_url_of("evaluator"), schema="evaluator")
    blobs = BlobStore(config.blobs, cache=config.home / "cache/blobs")
    issuer = TokenIssuer.from_file(config.signing_key)
    queue = JobQueue(database, lease_s=config.lease_s)
    async with AsyncClient(endpoints_of(config), token="") as client, contextlib.AsyncExitStack() as opened:

        async def work(context: JobContext) -> Outcome:
            own = client_of(client, issuer, _tenant(name))
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
    journal = SqlAnswerJournal(database, context.job.name)
    endpoint = _endpoint(context, config, settings)
    asker = Asker(
        _answerer(client, config, inputs, settings, endpoint=endpoint, opened=opened),
        journal,
        SystemClock(),
        concurrency=settings.concurrency,
        max_tokens=settings.max_answer_tokens,
        patience_s=config.inference_patience_s,
    )

    def progress(found: Progress) -> None:
        context.raise_if_cancelled()
        context.emit("progress", to_json(found))

    return EvaluationRun(
        name=context.job.name,
        tenant=_tenant(context.job.name),
        inputs=inputs,
        config=settings,
        asker=asker,
        journal=journal,
        blobs=blobs,
        catalogue=SqlIndexCatalogue(database),
        models=Models(load_embedder, load_scorers),
        versions=versions,
        progress=progress,
        shot_characters=config.shot_characters,
        token_prices={Arm.ENDPOINT: token_price_of(endpoint)} if endpoint else {},
    )


def _endpoint(context: JobContext, config: EvaluatorConfig, settings: EvaluationConfig) -> Endpoint | None:
    """The endpoint under test; EndpointNotFoundError if the operator took it away since."""
    if settings.endpoint is None:
        return None
    endpoints = load_endpoints(config.endpoints_path, os.environ)
    return endpoints.find(settings.endpoint.endpoint, tenant=_tenant(context.job.name))


def _answerer(
    client: AsyncClient,
    config: EvaluatorConfig,
    inputs: EvaluationInputs,
    settings: EvaluationConfig,
    *,
    endpoint: Endpoint | None,
    opened: contextlib.AsyncExitStack,
) -> Answerer:
    inference = SdkAnswerer(
        client, lambda arm: target_of(arm, inputs, settings).name, timeout_s=config.answer_timeout_s
    )
    if endpoint is None or settings.endpoint is None:
        return inference
    chat = ChatEndpoint(endpoint)
    opened.push_async_callback(chat.close)
    return EndpointArmAnswerer(inference, chat, model=settings.endpoint.model, concurrency=endpoint.concurrency)


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
    from luthierd.evaluator.embedder import MiniLmEmbedder

    return MiniLmEmbedder()


def load_scorers(embedder: Embedder) -> Sequence[Scorer]:
    """Imports RAGAS: about five seconds on two cores."""
    from luthierd.evaluator.scorers.chrf import ChrfScorer
    from luthierd.evaluator.scorers.exact_match import ExactMatchScorer
    from luthierd.evaluator.scorers.json_validity import JsonValidityScorer
    from luthierd.evaluator.scorers.labels import LabelAccuracyScorer
    from luthierd.evaluator.scorers.rouge_l import RougeLScorer
    from luthierd.evaluator.scorers.semantic_similarity import SemanticSimilarityScorer

    return (
        ExactMatchScorer(),
        JsonValidityScorer(),
        LabelAccuracyScorer(),
        RougeLScorer(),
        ChrfScorer(),
        SemanticSimilarityScorer(embedder),
    )


def versions() -> Mapping[str, str]:
    """Versions of what makes the numbers."""
    found = {"python": platform.python_version(), "luthier": importlib.metadata.version("luthier")}
    for package in MEASURING_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _tenant(name: str) -> str:
    return EVALUATION.parse(name)[0]


if __name__ == "__main__":
    run("evaluator", EvaluatorConfig, main)
