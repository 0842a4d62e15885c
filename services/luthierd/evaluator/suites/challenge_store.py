"""Where challenge sets are kept: SQL for the service."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from luthierd.evaluator.suites.challenge_sets import ChallengeSet, ChallengeSetNotFoundError
from luthierd.paging import Page, PageRequest
from luthierd.storage.database import Database
from luthierd.storage.tombstones import exhume

_sets = sa.table(
    "challenge_sets",
    *map(sa.column, ("name", "sha256", "reviewer")),
    sa.column("kind_counts", sa.JSON),
    sa.column("create_time", sa.Float),
)


class SqlChallengeSetStore:
    """See `sets.ChallengeSetStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, found: ChallengeSet) -> ChallengeSet:
        """The set that is kept under the name: this one or an earlier one."""
        values = {
            "name": found.name,
            "sha256": found.sha256,
            "reviewer": found.reviewer,
            "kind_counts": dict(found.kind_counts),
            "create_time": found.create_time,
        }
        try:
            async with self._database.begin() as tx:
                await exhume(tx, found.name)  # its name is its content
                await tx.execute(sa.insert(_sets).values(**values))
        except IntegrityError:
            return await self.get(found.name)
        return found

    async def get(self, name: str) -> ChallengeSet:
        """ChallengeSetNotFoundError."""
        async with self._database.read() as tx:
            row = (await tx.execute(sa.select(_sets).where(_sets.c.name == name))).one_or_none()
        if row is None:
            raise ChallengeSetNotFoundError(name)
        return _set(row)

    async def list(self, name_prefix: str, page: PageRequest) -> Page[ChallengeSet]:
        """Sets whose names start so, by name."""
        query = sa.select(_sets).where(_sets.c.name.startswith(name_prefix, autoescape=True), _sets.c.name > page.after)
        async with self._database.read() as tx:
            found = [_set(row) for row in await tx.execute(query.order_by(_sets.c.name).limit(page.limit))]
        return page.page(found, [one.name for one in found])


def _set(row: Any) -> ChallengeSet:
    return ChallengeSet(row.name, row.sha256, dict(row.kind_counts), row.reviewer, row.create_time)
