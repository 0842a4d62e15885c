"""A judge over a local server, and samples for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from luthierd.evaluator.dataset.parsing import ParsedAnswer
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.graders.judge import Judge
from luthierd.evaluator.graders.judge_models import EndpointJudge
from luthierd.evaluator.models.chat_endpoint import ChatEndpoint, Completion
from luthierd.evaluator.models.endpoints import Endpoint
from luthierd.evaluator.scorers.ragas_judged import RagasScorer
from luthierd.evaluator.scorers.registry import load
from luthierd.evaluator.scorers.scorer import SCORERS, Passages, Sample, Scorer

from support.evaluator_material import HashingEmbedder, row


class MemoryJudgementStore:
    """Judgements in memory; see `judge.JudgementStore`."""

    def __init__(self) -> None:
        self.kept: dict[str, Completion] = {}

    async def find(self, key: str) -> Completion | None:
        return self.kept.get(key)

    async def add(self, key: str, completion: Completion) -> None:
        self.kept.setdefault(key, completion)


@contextlib.asynccontextmanager
async def judge_at(
    url: str,
    *,
    timeout_s: float = 5.0,
    concurrency: int = 4,
    model: str = "tiny",
    max_tokens: int = 64,
    store: MemoryJudgementStore | None = None,
) -> AsyncIterator[Judge]:
    """A judge that asks the house and waits for nothing between attempts."""
    endpoint = Endpoint(name="house", url=url, model=model, timeout_s=timeout_s, concurrency=concurrency)
    client = ChatEndpoint(endpoint)

    async def no_wait(_: float) -> None:
        await asyncio.sleep(0)

    try:
        judged = EndpointJudge(endpoint, client, "", max_tokens)
        yield Judge(model=judged, store=store or MemoryJudgementStore(), concurrency=concurrency, sleep=no_wait)
    finally:
        await client.close()


def text(value: str) -> ParsedAnswer:
    return ParsedAnswer(text=value, label=value, valid=False, canonical=value)


def sample(number: int, said: str = "an answer", *, arm: Arm = Arm.ADAPTER, **more: Any) -> Sample:
    """One answer to its own question."""
    return Sample(
        row_id=f"r{number}",
        reference=text("the reference"),
        answer=text(said),
        arm=arm,
        row=row(number),
        raw=said,
        **more,
    )


def ragas_scorer(metric: Metric, judge: Judge, passages: Passages) -> Scorer:
    """One of RAGAS's metrics over a judge."""
    load()
    kind = SCORERS[metric]
    assert issubclass(kind, RagasScorer)
    return kind(judge, HashingEmbedder(), passages)
