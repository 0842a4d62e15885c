"""What a scorer is, and the one way to run it: a row that cannot be scored stays, as a failed score, and is never
dropped.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from luthierd.evaluator.domain import Metric, Score
from luthierd.evaluator.tasks import Reading


@dataclass(frozen=True)
class Sample:
    """One row to score. `answer` is None where the query failed; `failure` then says why."""

    row_id: str
    reference: Reading
    answer: Reading | None
    failure: str | None = None


class Scorer(Protocol):
    """Scores answers under one metric."""

    @property
    def metric(self) -> Metric: ...

    async def prepare(self, samples: Sequence[Sample]) -> None:
        """Called once with everything that will be scored, so that a scorer may batch (embeddings)."""

    async def score(self, reference: Reading, answer: Reading) -> float:
        """The score, 0 to 1. Whatever it raises becomes a failed row."""


async def score_all(scorer: Scorer, samples: Sequence[Sample]) -> list[Score]:
    """One score a sample, in order. NaN, RAGAS's sign of failure, is a failure here, not a gap in the mean."""
    scores = []
    for sample in samples:
        scores.append(await _score_one(scorer, sample))
        await asyncio.sleep(0)  # scorers hold the CPU for about a millisecond; the heartbeat must get its turn
    return scores


async def _score_one(scorer: Scorer, sample: Sample) -> Score:
    if sample.answer is None:
        return Score(sample.row_id, None, sample.failure or "NO_ANSWER")
    try:
        value = await scorer.score(sample.reference, sample.answer)
    except Exception as error:  # a border: third-party metrics raise anything, and the row must stay in the count
        return Score(sample.row_id, None, f"SCORER_ERROR: {type(error).__name__}: {error}"[:200])
    if not math.isfinite(value):
        return Score(sample.row_id, None, "SCORER_NOT_FINITE")
    return Score(sample.row_id, value)
