"""What judges said, kept for each tenant by content key: a judgement is paid for once, over crashes and evaluations."""

from __future__ import annotations

import time

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from luthierd.codec import from_json, to_json
from luthierd.evaluator.models.chat_endpoint import Completion
from luthierd.storage.database import Database

_judgements = sa.table(
    "judgements",
    *map(sa.column, ("tenant", "key")),
    sa.column("completion", sa.JSON),
    sa.column("create_time", sa.Float),
)


class SqlJudgementStore:
    """See `judge.JudgementStore`. One tenant's judgements are never found for another."""

    def __init__(self, database: Database, tenant: str) -> None:
        self._database = database
        self._tenant = tenant

    async def find(self, key: str) -> Completion | None:
        """What was said, or None."""
        query = sa.select(_judgements.c.completion).where(
            _judgements.c.tenant == self._tenant, _judgements.c.key == key
        )
        async with self._database.read() as tx:
            found = (await tx.execute(query)).scalar_one_or_none()
        return from_json(Completion, found) if found is not None else None

    async def add(self, key: str, completion: Completion) -> None:
        """Keeps it; does nothing if there is one."""
        values = {
            "tenant": self._tenant,
            "key": key,
            "completion": to_json(completion),
            "create_time": time.time(),
        }
        try:
            async with self._database.begin() as tx:
                await tx.execute(sa.insert(_judgements).values(**values))
        except IntegrityError:
            return
