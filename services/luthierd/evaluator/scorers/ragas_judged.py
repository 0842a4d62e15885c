"""RAGAS's judged metrics, one row at a time: `ascore` alone, since its batch call has no limit on concurrency and drops
failed rows. Empty answers and empty contexts, on which RAGAS raises, have their own reasons here.
"""

from __future__ import annotations

import math
from typing import Any, Self

from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.scores import ScoreFailedError
from luthierd.evaluator.graders.judge import Judge
from luthierd.evaluator.scorers.scorer import (
    MetricSpec,
    Needs,
    Passages,
    Sample,
    Scorer,
    ScoringMaterial,
    TextEmbedder,
    register,
)


class RagasScorer(Scorer):
    """One of RAGAS's metrics; `kind` is its class there. An empty answer claims nothing and answers nothing: 0."""

    kind: str

    def __init__(self, judge: Judge, embedder: TextEmbedder, passages: Passages) -> None:
        from luthierd.evaluator.graders import ragas  # RAGAS takes seconds to import

        self.concurrency = judge.concurrency
        self._passages = passages
        self._ragas = getattr(ragas, self.kind)(llm=ragas.RagasJudge(judge), **self._options(embedder))

    @classmethod
    def build(cls, material: ScoringMaterial) -> Self:
        return cls(material.needed_judge, material.embedder, material.passages)

    def _options(self, embedder: TextEmbedder) -> dict[str, Any]:
        return {}

    def arguments(self, sample: Sample) -> dict[str, Any]:
        """What RAGAS is given of a sample."""
        raise NotImplementedError

    async def score(self, sample: Sample) -> float:
        if not sample.said.text.strip():
            return 0.0
        value = float((await self._ragas.ascore(**self.arguments(sample))).value)
        if math.isnan(value):
            # By RAGAS's design: the judge found no statement to check.
            raise ScoreFailedError("JUDGE_FOUND_NO_STATEMENT")
        return value


@register
class FaithfulnessScorer(RagasScorer):
    """Share of the answer's statements that the passages of the prompt support."""

    spec = MetricSpec(Metric("faithfulness"), rank=25, needs=Needs(opt_in=True, judge=True, context=True))
    kind = "Faithfulness"

    def arguments(self, sample: Sample) -> dict[str, Any]:
        contexts = self._passages.shown(sample)
        return {"user_input": sample.question, "response": sample.said.text, "retrieved_contexts": contexts}


@register
class GroundednessScorer(RagasScorer):
    """Share of the answer's statements that the row's gold passages support."""

    spec = MetricSpec(Metric("groundedness"), rank=26, needs=Needs(opt_in=True, judge=True))
    kind = "Faithfulness"

    def arguments(self, sample: Sample) -> dict[str, Any]:
        contexts = self._passages.gold(sample)
        return {"user_input": sample.question, "response": sample.said.text, "retrieved_contexts": contexts}


@register
class AnswerRelevancyScorer(RagasScorer):
    """Cosine between the question and the question that the judge guesses from the answer."""

    spec = MetricSpec(Metric("answer_relevancy"), rank=27, needs=Needs(opt_in=True, judge=True))
    kind = "AnswerRelevancy"

    def _options(self, embedder: TextEmbedder) -> dict[str, Any]:
        from luthierd.evaluator.graders.ragas import OnDemandEmbedding  # RAGAS takes seconds to import

        # strictness 1: a greedy judge would write RAGAS's three questions alike, at three times the price.
        return {"embeddings": OnDemandEmbedding(embedder), "strictness": 1}

    def arguments(self, sample: Sample) -> dict[str, Any]:
        return {"user_input": sample.question, "response": sample.said.text}


class _ContextScorer(RagasScorer):
    def arguments(self, sample: Sample) -> dict[str, Any]:
        contexts = self._passages.shown(sample)
        return {"user_input": sample.question, "reference": sample.reference.text, "retrieved_contexts": contexts}


@register
class ContextPrecisionScorer(_ContextScorer):
    """Whether the passages that help to answer stand first, by the reference."""

    spec = MetricSpec(Metric("context_precision"), rank=28, needs=Needs(opt_in=True, judge=True, context=True))
    kind = "ContextPrecisionWithReference"


@register
class ContextRecallScorer(_ContextScorer):
    """Share of the reference's statements that the passages support."""

    spec = MetricSpec(Metric("context_recall"), rank=29, needs=Needs(opt_in=True, judge=True, context=True))
    kind = "ContextRecall"


@register
class FactualCorrectnessScorer(RagasScorer):
    """F1 of statements between answer and reference."""

    spec = MetricSpec(Metric("factual_correctness"), rank=30, needs=Needs(opt_in=True, judge=True))
    kind = "FactualCorrectness"

    def arguments(self, sample: Sample) -> dict[str, Any]:
        return {"response": sample.said.text, "reference": sample.reference.text}
