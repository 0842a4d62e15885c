"""A search for a prompt as a job of the worker: what it is built from."""

from __future__ import annotations

from collections.abc import Sequence

from luthier.client import AsyncClient

from luthierd.evaluator.api.peers import InferenceModel
from luthierd.evaluator.codec import from_json
from luthierd.evaluator.config import EvaluatorConfig
from luthierd.evaluator.models.generate import Generator, SystemClock
from luthierd.evaluator.run.prompt_run import PromptInputs, PromptRun
from luthierd.evaluator.run.prompt_search import PromptSearch
from luthierd.evaluator.run.store import SqlSampleStore
from luthierd.evaluator.scorers.scorer import Scorer
from luthierd.jobs.worker import JobContext
from luthierd.storage.blobs import BlobStore
from luthierd.storage.database import Database


def prepare_search(
    context: JobContext, config: EvaluatorConfig, database: Database, blobs: BlobStore, client: AsyncClient
) -> PromptRun:
    """The run of a job of kind `prompts.KIND`."""
    inputs = from_json(PromptInputs, context.job.payload["inputs"])
    search = from_json(PromptSearch, context.job.payload["search"])
    samples = SqlSampleStore(database, context.job.name)
    generator = Generator(
        InferenceModel(client, lambda _: inputs.target, timeout_s=config.answer_timeout_s),
        samples,
        SystemClock(),
        concurrency=search.concurrency,
        max_tokens=search.max_answer_tokens,
        patience_s=config.inference_patience_s,
    )

    def report(done_count: int) -> None:
        context.raise_if_cancelled()
        context.emit("progress", {"done_count": done_count})

    def tell(text: str) -> None:
        context.emit("message", {"message": text})

    return PromptRun(inputs, search, generator, samples, blobs, load_scorers, report, tell, config.shot_characters)


def load_scorers() -> Sequence[Scorer]:
    """The metrics that need no model. Imports RAGAS: about five seconds on two cores."""
    from luthierd.evaluator.scorers.chrf import ChrfScorer
    from luthierd.evaluator.scorers.exact_match import ExactMatchScorer
    from luthierd.evaluator.scorers.json_validity import JsonValidityScorer
    from luthierd.evaluator.scorers.labels import LabelAccuracyScorer
    from luthierd.evaluator.scorers.rouge_l import RougeLScorer

    return (ExactMatchScorer(), JsonValidityScorer(), LabelAccuracyScorer(), RougeLScorer(), ChrfScorer())
