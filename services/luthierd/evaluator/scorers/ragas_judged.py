"""RAGAS's judged metrics, one row at a time: `ascore` alone, since its batch call has no limit on concurrency and drops
failed rows. Empty answers and empty contexts, on which RAGAS raises, have their own reasons here.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.scores import ScoreFailedError
from luthierd.evaluator.graders.judge import Judge
from luthierd.evaluator.graders.ragas import (
    AnswerRelevancy,
    BaseRagasEmbedding,
    ContextPrecisionWithReference,
    ContextRecall,
    FactualCorrectness,
    Faithfulness,
    RagasJudge,
)
from luthierd.evaluator.scorers.scorer import Sample
from luthierd.evaluator.scorers.semantic_similarity import TextEmbedder
from luthierd.evaluator.scorers.sources import Passages

# Asks RAGAS for a sample's result.
Ask = Callable[[Sample], Awaitable[Any]]


class RagasScorer:
    """One of RAGAS's metrics. An empty answer claims nothing and answers nothing: 0, without asking."""

    def __init__(self, metric: Metric, judge: Judge, ask: Ask) -> None:
        self.metric = metric
        self.concurrency = judge.concurrency
        self._ask = ask

    async def prepare(self, samples: Sequence[Sample]) -> None:
        """Nothing to batch."""

    async def score(self, sample: Sample) -> float:
        if not sample.said.text.strip():
            return 0.0
        value = float((await self._ask(sample)).value)
        if math.isnan(value):
            # By RAGAS's design: the judge found no statement to check.
            raise ScoreFailedError("JUDGE_FOUND_NO_STATEMENT")
        return value


def ragas_scorers(judge: Judge, embedder: TextEmbedder, passages: Passages) -> dict[Metric, RagasScorer]:
    """All of them."""
    llm = RagasJudge(judge)
    faithfulness, correctness = Faithfulness(llm=llm), FactualCorrectness(llm=llm)
    precision, recall = ContextPrecisionWithReference(llm=llm), ContextRecall(llm=llm)
    relevancy = AnswerRelevancy(llm=llm, embeddings=OnDemandEmbedding(embedder), strictness=1)

    asks: dict[Metric, Ask] = {
        Metric.FAITHFULNESS: lambda one: faithfulness.ascore(
            user_input=one.question, response=one.said.text, retrieved_contexts=passages.shown(one)
        ),
        Metric.GROUNDEDNESS: lambda one: faithfulness.ascore(
            user_input=one.question, response=one.said.text, retrieved_contexts=passages.gold(one)
        ),
        # strictness 1: a greedy judge would write RAGAS's three questions alike, at three times the price.
        Metric.ANSWER_RELEVANCY: lambda one: relevancy.ascore(user_input=one.question, response=one.said.text),
        Metric.CONTEXT_PRECISION: lambda one: precision.ascore(
            user_input=one.question, reference=one.reference.text, retrieved_contexts=passages.shown(one)
        ),
        Metric.CONTEXT_RECALL: lambda one: recall.ascore(
            user_input=one.question, reference=one.reference.text, retrieved_contexts=passages.shown(one)
        ),
        Metric.FACTUAL_CORRECTNESS: lambda one: correctness.ascore(
            response=one.said.text, reference=one.reference.text
        ),
    }
    return {metric: RagasScorer(metric, judge, ask) for metric, ask in asks.items()}


class OnDemandEmbedding(BaseRagasEmbedding):  # type: ignore[misc]  # RAGAS ships no types
    """RAGAS's embedding interface over our embedder: the judge's questions are not known beforehand."""

    def __init__(self, embedder: TextEmbedder) -> None:
        super().__init__()
        self._embedder = embedder

    def embed_text(self, text: str, **kwargs: Any) -> list[float]:
        return [float(value) for value in self._embedder.embed([text])[0]]

    async def aembed_text(self, text: str, **kwargs: Any) -> list[float]:
        return await asyncio.to_thread(self.embed_text, text)
