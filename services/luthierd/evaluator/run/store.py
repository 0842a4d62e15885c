"""Where the evaluator keeps things: SQL for the service, memory for tests."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from luthierd.evaluator.codec import from_json, to_json
from luthierd.evaluator.decisions.gate import GatePolicy
from luthierd.evaluator.decisions.gate_policies import PolicyExistsError, PolicyNotFoundError, StoredPolicy
from luthierd.evaluator.domain.rows import Answer
from luthierd.paging import Page, PageRequest
from luthierd.storage.database import Database

_answers = sa.table(
    "evaluation_answers",
    *map(sa.column, ("evaluation", "arm", "row_id", "tenant", "content_key")),
    sa.column("answer", sa.JSON),
)
_indexes = sa.table(
    "retrieval_indexes",
    *map(sa.column, ("tenant", "train_sha256", "embedder_sha256", "blob_sha256")),
    sa.column("create_time", sa.Float),
)
_policies = sa.table(
    "gate_policies", sa.column("name"), sa.column("policy", sa.JSON), sa.column("create_time", sa.Float)
)


KEYS_AT_ONCE = 500
"""Below the least number of parameters that any build of SQLite takes in a statement (999)."""


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
    """Answers of one tenant's evaluations by content; see `sample_cache.SampleLookup`."""

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


class SqlIndexCatalogue:
    """Which blob holds the index of a training split."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, tenant: str, train_sha256: str, embedder_sha256: str) -> str | None:
        """The blob's sha256, or None."""
        query = sa.select(_indexes.c.blob_sha256).where(
            _indexes.c.tenant == tenant,
            _indexes.c.train_sha256 == train_sha256,
            _indexes.c.embedder_sha256 == embedder_sha256,
        )
        async with self._database.read() as tx:
            return (await tx.execute(query)).scalar_one_or_none()

    async def add(self, tenant: str, train_sha256: str, embedder_sha256: str, *, blob_sha256: str) -> None:
        """Remembers the blob; does nothing if there is one."""
        values = {
            "tenant": tenant,
            "train_sha256": train_sha256,
            "embedder_sha256": embedder_sha256,
            "blob_sha256": blob_sha256,
            "create_time": time.time(),
        }
        try:
            async with self._database.begin() as tx:
                await tx.execute(sa.insert(_indexes).values(**values))
        except IntegrityError:
            return


class SqlPolicyStore:
    """Stored gate policies."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, stored: StoredPolicy) -> None:
        """PolicyExistsError on a clash."""
        name = stored.policy.name
        values = {"name": name, "policy": to_json(stored.policy), "create_time": stored.create_time}
        try:
            async with self._database.begin() as tx:
                await tx.execute(sa.insert(_policies).values(**values))
        except IntegrityError:
            raise PolicyExistsError(name) from None

    async def get(self, name: str) -> StoredPolicy:
        """PolicyNotFoundError."""
        async with self._database.read() as tx:
            row = (await tx.execute(sa.select(_policies).where(_policies.c.name == name))).one_or_none()
        if row is None:
            raise PolicyNotFoundError(name)
        return _stored(row)

    async def list(self, name_prefix: str, page: PageRequest) -> Page[StoredPolicy]:
        """Policies whose names start so, by name."""
        query = sa.select(_policies).where(
            _policies.c.name.startswith(name_prefix, autoescape=True), _policies.c.name > page.after
        )
        async with self._database.read() as tx:
            rows = await tx.execute(query.order_by(_policies.c.name).limit(page.limit))
            found = [_stored(row) for row in rows]
        return page.page(found, [stored.policy.name for stored in found])


class MemoryPolicyStore:
    """Stored gate policies, for tests."""

    def __init__(self) -> None:
        self._kept: dict[str, StoredPolicy] = {}

    async def add(self, stored: StoredPolicy) -> None:
        if stored.policy.name in self._kept:
            raise PolicyExistsError(stored.policy.name)
        self._kept[stored.policy.name] = stored

    async def get(self, name: str) -> StoredPolicy:
        if name not in self._kept:
            raise PolicyNotFoundError(name)
        return self._kept[name]

    async def list(self, name_prefix: str, page: PageRequest) -> Page[StoredPolicy]:
        names = sorted(name for name in self._kept if name.startswith(name_prefix) and name > page.after)
        found = [self._kept[name] for name in names[: page.limit]]
        return page.page(found, [stored.policy.name for stored in found])


def _stored(row: Any) -> StoredPolicy:
    return StoredPolicy(from_json(GatePolicy, row.policy), row.create_time)
