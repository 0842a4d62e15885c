"""Answers that the tenant already paid for, by their full content: weights, engine, messages and sampling.

Greedy answers of the same weights to the same messages are the same, whichever evaluation asks. What was not asked was
not timed either: a reused answer counts in no latency and no cost (`costs.arm_cost`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from luthierd.evaluator.domain.evaluation import EvaluationConfig, EvaluationInputs
from luthierd.evaluator.domain.rows import Answer
from luthierd.evaluator.models.arms import Query
from luthierd.evaluator.models.targets import target_of

KEY_VERSION = 1
"""Raised when something new decides what an answer says: no older answer is then taken for a new one."""


class SampleLookup(Protocol):
    """Answers of one tenant by content key."""

    async def find(self, keys: Sequence[str]) -> Mapping[str, Answer]: ...


@dataclass
class SampleCache:
    """`engine` says kind and version of what computes the answers, `` if it does not know (yet): nothing is then
    reused. `config.use_cache`: whether answers are reused; they are kept for others either way.
    """

    store: SampleLookup
    inputs: EvaluationInputs
    config: EvaluationConfig
    engine: Callable[[], Awaitable[str]]
    _engine_version: str = field(default="", init=False)

    async def reused(self, queries: Sequence[Query]) -> list[Answer]:
        """Answers to those of the queries that another evaluation of the tenant asked."""
        if not self.config.use_cache:
            return []
        by_key: dict[str, list[Query]] = {}  # arms of the same weights may ask the same
        for query in queries:
            if (key := await self.key(query)) is not None:
                by_key.setdefault(key, []).append(query)
        found = await self.store.find(list(by_key))
        return [
            replace(answer, arm=query.arm, row_id=query.row.id, shown_row_ids=query.shown_row_ids, is_cached=True)
            for key, answer in found.items()
            for query in by_key[key]
        ]

    async def key(self, query: Query) -> str | None:
        """The key of an answer to `query`; None where weights or engine cannot be told."""
        target = target_of(query.arm, self.inputs, self.config)
        if not target.sha256:  # nobody vouches for what is behind an endpoint
            return None
        if not self._engine_version:
            self._engine_version = await self.engine()
            if not self._engine_version:
                return None
        content = {
            "version": KEY_VERSION,
            "engine": self._engine_version,
            "weights": [self.inputs.base_model_sha256, target.sha256],
            "messages": [[turn.role, turn.content] for turn in query.messages],
            "max_tokens": self.config.max_answer_tokens,
            "choices": query.choices,
            "temperature": query.temperature,
            "seed": query.seed,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
