"""The one door to RAGAS: tracking is off before it is imported, and only its metrics without a judge come through.

RAGAS 0.4.3's batch call has no limit on concurrency and drops failed rows as NaN, so only `ascore`, one row, is used.
"""

from __future__ import annotations

import os

os.environ["RAGAS_DO_NOT_TRACK"] = "true"

from ragas.embeddings.base import BaseRagasEmbedding
from ragas.metrics.collections import CHRFScore, ExactMatch, RougeScore, SemanticSimilarity

__all__ = ["BaseRagasEmbedding", "CHRFScore", "ExactMatch", "RougeScore", "SemanticSimilarity"]
