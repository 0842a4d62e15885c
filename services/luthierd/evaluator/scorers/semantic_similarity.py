"""Semantic similarity of the text field: cosine of sentence embeddings (through RAGAS), embedded in one batch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.graders.ragas import BaseRagasEmbedding, SemanticSimilarity
from luthierd.evaluator.scorers.scorer import Sample

# RAGAS embeds a blank text as one space; the batch must hold it under the same key.
BLANK = " "


class TextEmbedder(Protocol):
    """Turns texts into unit vectors, one row a text, float32."""

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]: ...


class SemanticSimilarityScorer:
    """Cosine between answer and reference, negative values raised to 0. `prepare` must have seen the sample."""

    metric = Metric.SEMANTIC_SIMILARITY

    def __init__(self, embedder: TextEmbedder) -> None:
        self._embedder = embedder
        self._table = EmbeddingTable()
        self._ragas = SemanticSimilarity(embeddings=self._table)

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


class EmbeddingTable(BaseRagasEmbedding):  # type: ignore[misc]  # RAGAS ships no types
    """RAGAS's embedding interface over vectors made beforehand: it asks text by text, which would embed one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors: dict[str, npt.NDArray[np.float32]] = {}

    def embed_text(self, text: str, **kwargs: Any) -> list[float]:
        return [float(value) for value in self.vectors[text]]

    async def aembed_text(self, text: str, **kwargs: Any) -> list[float]:
        return self.embed_text(text, **kwargs)
