"""The one door to RAGAS: tracking is off before it is imported, and its prompts go through our judge.

RAGAS 0.4.3's batch call has no limit on concurrency and drops failed rows as NaN, so only `ascore`, one row, is used.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, get_args

import numpy as np
import numpy.typing as npt
import pydantic

from luthierd.evaluator.graders.judge import Judge

os.environ["RAGAS_DO_NOT_TRACK"] = "true"

from ragas.embeddings.base import BaseRagasEmbedding
from ragas.llms.base import InstructorBaseRagasLLM
from ragas.metrics.collections import (
    AnswerRelevancy,
    CHRFScore,
    ContextPrecisionWithReference,
    ContextRecall,
    ExactMatch,
    FactualCorrectness,
    Faithfulness,
    RougeScore,
    SemanticSimilarity,
)

__all__ = [
    "AnswerRelevancy",
    "BaseRagasEmbedding",
    "CHRFScore",
    "ContextPrecisionWithReference",
    "ContextRecall",
    "EmbeddingTable",
    "ExactMatch",
    "FactualCorrectness",
    "Faithfulness",
    "InstructorBaseRagasLLM",
    "OnDemandEmbedding",
    "RagasJudge",
    "RougeScore",
    "SemanticSimilarity",
]

T = TypeVar("T", bound=pydantic.BaseModel)


class RagasJudge(InstructorBaseRagasLLM):  # type: ignore[misc]  # RAGAS ships no types
    """RAGAS's prompts, through `Judge`."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    def generate(self, prompt: str, response_model: type[T]) -> T:
        """Not used: every metric is awaited."""
        raise NotImplementedError("await agenerate")

    async def agenerate(self, prompt: str, response_model: type[T]) -> T:
        """JudgeError."""
        return await self._judge.ask(prompt, with_flags(response_model), template=f"ragas:{response_model.__name__}")


@functools.cache
def with_flags(form: type[T]) -> type[T]:
    """RAGAS's form with its whole numbers bound to what they mean, 0 or 1. RAGAS 0.4.3 leaves them free and takes any
    number but 0, so also -1, for a yes; its precision and recall of contexts then weigh with it.
    """
    bound: dict[str, Any] = {}
    for name, field in form.model_fields.items():
        item = next((one for one in get_args(field.annotation) if _is_form(one)), None)
        if field.annotation is int:
            bound[name] = (int, pydantic.Field(ge=0, le=1, description=field.description))
        elif item is not None:
            bound[name] = (list[with_flags(item)], pydantic.Field(description=field.description))  # type: ignore[misc]
    return pydantic.create_model(form.__name__, __base__=form, **bound)


def _is_form(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)


class EmbeddingTable(BaseRagasEmbedding):  # type: ignore[misc]  # RAGAS ships no types
    """RAGAS's embedding interface over vectors made beforehand: it asks text by text, which would embed one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors: dict[str, npt.NDArray[np.float32]] = {}

    def embed_text(self, text: str, **kwargs: Any) -> list[float]:
        return [float(value) for value in self.vectors[text]]

    async def aembed_text(self, text: str, **kwargs: Any) -> list[float]:
        return self.embed_text(text, **kwargs)


class TextEmbedder(Protocol):
    """Turns texts into unit vectors, one row a text, float32. Holds the CPU."""

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]: ...


class OnDemandEmbedding(BaseRagasEmbedding):  # type: ignore[misc]  # RAGAS ships no types
    """RAGAS's embedding interface over our embedder: the judge's questions are not known beforehand."""

    def __init__(self, embedder: TextEmbedder) -> None:
        super().__init__()
        self._embedder = embedder

    def embed_text(self, text: str, **kwargs: Any) -> list[float]:
        return [float(value) for value in self._embedder.embed([text])[0]]

    async def aembed_text(self, text: str, **kwargs: Any) -> list[float]:
        return await asyncio.to_thread(self.embed_text, text)
