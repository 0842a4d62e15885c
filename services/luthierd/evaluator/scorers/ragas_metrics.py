"""The one door to RAGAS: tracking is off before it is imported, and only what is used comes through.

RAGAS 0.4.3's batch call has no limit on concurrency and drops failed rows as NaN, so only `ascore`, one row, is used.
"""

from __future__ import annotations

import os

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
    "ExactMatch",
    "FactualCorrectness",
    "Faithfulness",
    "InstructorBaseRagasLLM",
    "RougeScore",
    "SemanticSimilarity",
]
