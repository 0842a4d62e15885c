"""Stored gate policies."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from luthierd.codec import from_json, to_json
from luthierd.evaluator.decisions.gate_policy import GatePolicy
from luthierd.evaluator.decisions.gates import PolicyExistsError, PolicyNotFoundError, StoredPolicy
from luthierd.paging import Page, PageRequest
from luthierd.storage.database import Database
from luthierd.storage.tombstones import check_new

_policies = sa.table(
    "gate_policies", sa.column("name"), sa.column("policy", sa.JSON), sa.column("create_time", sa.Float)
)


class SqlPolicyStore:
    """Stored gate policies."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, stored: StoredPolicy) -> None:
        """PolicyExistsError on a clash; NameRetiredError."""
        name = stored.policy.name
        values = {"name": name, "policy": to_json(stored.policy), "create_time": stored.create_time}
        try:
            async with self._database.begin() as tx:
                await check_new(tx, name, values["policy"])
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


def _stored(row: Any) -> StoredPolicy:
    return StoredPolicy(from_json(GatePolicy, row.policy), row.create_time)
