"""Answers as they arrive, and those that the tenant already paid for.

Greedy answers of the same weights to the same messages are the same, whichever evaluation asks. A reused answer was not
timed: it counts in no latency and no cost (`costs.arm_costs`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from luthierd.codec import from_json, to_json
from luthierd.evaluator.domain.evaluation import EvaluationConfig, EvaluationInputs
from luthierd.evaluator.domain.rows import Answer
from luthierd.evaluator.models.arms import Query, target_of
from luthierd.storage.database import Database

_answers = sa.table(
    "evaluation_answers",
    *map(sa.column, ("evaluation", "arm", "row_id", "tenant", "content_key")),
    sa.column("answer", sa.JSON),
)

KEYS_AT_ONCE = 500
"""Below the lowest limit on a statement's parameters that a build of SQLite has (999)."""
KEY_VERSION = 1
"""Raised when something new decides what an answer says: no older answer is then taken for a new one."""


class SqlSampleStore:
    """The answers of one evaluation; each is committed before the next query takes its place."""

    def __init__(self, database: Database, evaluation: str) -> None:
        self._database = database
        self._evaluation = evaluation

    async def answers(self) -> Sequence[Answer]:
        """All answers, in no order."""
        query = sa.select(_answers.c.answer).where(_answers.c.evaluation == self._evaluation)
        async with self._database.read() as tx:
            return [from_json(Answer, data) for data in (await tx.execute(query)).scalars()]

    async def add(self, answer: Answer, *, content_key: str | None = None) -> None:
        """Keeps an answer; does nothing if its (arm, row) has one. `content_key`: other evaluations of the tenant may
        take it (`SqlSampleLookup`).
        """
        values = {
            "evaluation": self._evaluation,
            "arm": answer.arm.value,
            "row_id": answer.row_id,
            "answer": to_json(answer),
            "tenant": self._evaluation.split("/")[1],
            "content_key": content_key,
        }
        try:
            async with self._database.begin() as tx:
                await tx.execute(sa.insert(_answers).values(**values))
        except IntegrityError:
            return  # a worker that lost its lease was faster: the first answer stays


class SqlSampleLookup:
    """Answers of one tenant's evaluations by content key; for `SampleCache`."""

    def __init__(self, database: Database, tenant: str) -> None:
        self._database = database
        self._tenant = tenant

    async def find(self, keys: Sequence[str]) -> Mapping[str, Answer]:
        """The answers that there are, by key; of several, the first evaluation's by name."""
        found: dict[str, Answer] = {}
        async with self._database.read() as tx:
            for start in range(0, len(keys), KEYS_AT_ONCE):
                query = sa.select(_answers.c.content_key, _answers.c.answer).where(
                    _answers.c.tenant == self._tenant, _answers.c.content_key.in_(keys[start : start + KEYS_AT_ONCE])
                )
                for key, answer in await tx.execute(query.order_by(_answers.c.evaluation, _answers.c.arm)):
                    found.setdefault(key, from_json(Answer, answer))
        return found


@dataclass
class SampleCache:
    """`engine` says kind and version of what computes the answers, `` if it does not know (yet): nothing is then
    reused. `config.use_cache`: whether answers are reused; they are kept for others either way.
    """

    store: SqlSampleLookup
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
