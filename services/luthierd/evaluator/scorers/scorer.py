"""What a scorer is, and the one way to run it: a row that cannot be scored stays, as a failed score, and is never
dropped.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from luthierd.evaluator.dataset.parsing import ParsedAnswer
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.rows import Row
from luthierd.evaluator.domain.scores import Score, ScoreFailedError


@dataclass(frozen=True)
class Sample:
    """One row to score. `answer` is None where the query failed; `failure` then says why.

    `raw`: the answer as it came. `shown`: the training rows that stood in the prompt. `probes`: what the same arm said
    to the further questions of `perturbations.py`, by name; a question that failed is absent.
    """

    row_id: str
    reference: ParsedAnswer
    answer: ParsedAnswer | None
    failure: str | None = None
    arm: Arm = Arm.BASE
    row: Row | None = None
    raw: str = ""
    shown: tuple[Row, ...] = ()
    perturbations: Mapping[str, str] = field(default_factory=dict)

    @property
    def said(self) -> ParsedAnswer:
        """The answer; ScoreFailedError where there is none, so that a scorer cannot forget to ask."""
        if self.answer is None:
            raise ScoreFailedError(self.failure or "NO_ANSWER")
        return self.answer

    @property
    def question(self) -> str:
        """The text of the question; empty where the sample has no row."""
        return self.row.question if self.row else ""


class Scorer(Protocol):
    """Scores answers under one metric."""

    @property
    def metric(self) -> Metric: ...

    async def prepare(self, samples: Sequence[Sample]) -> None:
        """Called once with everything that will be scored, so that a scorer may batch (embeddings)."""

    async def score(self, sample: Sample) -> float:
        """The score, 0 to 1, of a sample with an answer. ScoreFailedError names a failure; whatever else it raises
        becomes one.
        """


async def score_all(scorer: Scorer, samples: Sequence[Sample]) -> list[Score]:
    """One score a sample, in order. NaN, RAGAS's sign of failure, is a failure here, not a gap in the mean.

    A scorer with a `concurrency` above 1 waits for somebody else (a judge) and is run for so many samples at a time.
    """
    found: list[Score | None] = [None] * len(samples)
    waiting = iter(enumerate(samples))

    async def work() -> None:
        for position, sample in waiting:
            found[position] = await _score_one(scorer, sample)
            await asyncio.sleep(0)  # scorers hold the CPU for about a millisecond; the heartbeat must get its turn

    async with asyncio.TaskGroup() as group:
        for _ in range(max(1, getattr(scorer, "concurrency", 1))):
            group.create_task(work())
    return [score for score in found if score is not None]


async def _score_one(scorer: Scorer, sample: Sample) -> Score:
    if sample.answer is None:
        return Score(sample.row_id, None, sample.failure or "NO_ANSWER")
    try:
        value = await scorer.score(sample)
    except ScoreFailedError as error:
        return Score(sample.row_id, None, error.reason)
    except Exception as error:  # a border: third-party metrics raise anything, and the row must stay in the count
        return Score(sample.row_id, None, f"SCORER_ERROR: {type(error).__name__}: {error}"[:200])
    if not math.isfinite(value):
        return Score(sample.row_id, None, "SCORER_NOT_FINITE")
    # Rounding of third-party metrics (1.0000000000000002) must not leave the range that intervals assume.
    return Score(sample.row_id, min(1.0, max(0.0, value)))
