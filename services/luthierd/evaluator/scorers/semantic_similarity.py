"""Semantic similarity of the text field: cosine of sentence embeddings (through RAGAS), embedded in one batch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Self

from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.scorers.scorer import MetricSpec, Sample, Scorer, ScoringMaterial, TextEmbedder, register

BLANK = " "
"""RAGAS embeds a blank text as one space; the batch must hold it under the same key."""


@register
class SemanticSimilarityScorer(Scorer):
    """Cosine between answer and reference, negative values raised to 0. `prepare` must have seen the sample."""

    spec = MetricSpec(Metric("semantic_similarity"), rank=6)

    def __init__(self, embedder: TextEmbedder) -> None:
        from luthierd.evaluator.graders.ragas import EmbeddingTable, SemanticSimilarity  # RAGAS takes seconds to import

        self._embedder = embedder
        self._table = EmbeddingTable()
        self._ragas = SemanticSimilarity(embeddings=self._table)

    @classmethod
    def build(cls, material: ScoringMaterial) -> Self:
        return cls(material.embedder)

    async def prepare(self, samples: Sequence[Sample]) -> None:
        """Embeds every text that is not known yet, once, in a thread."""
        readings = [reading for sample in samples for reading in (sample.reference, sample.answer) if reading]
        new = sorted({reading.text or BLANK for reading in readings} - self._table.vectors.keys())
        if new:
            matrix = await asyncio.to_thread(self._embedder.embed, new)
            self._table.vectors.update(zip(new, matrix, strict=True))

    async def score(self, sample: Sample) -> float:
        result = await self._ragas.ascore(reference=sample.reference.text, response=sample.said.text)
        return max(0.0, float(result.value))
