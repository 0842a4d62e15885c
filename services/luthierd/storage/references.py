"""What refers to a resource, found in the rows and documents of a service's own database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from luthierd.storage.database import Database

MAX_REFERENCES = 100
"""References in an answer; documented in the contract."""

FINAL_STATES = ("SUCCEEDED", "FAILED", "CANCELLED")
"""Of `jobs.queue.JobState`."""


@dataclass(frozen=True)
class Reference:
    """`referrer` refers to `name`. `needs_it`: unfinished work or a deployment; else finished work that names it."""

    referrer: str
    name: str
    needs_it: bool = False


NAME: sa.ColumnElement[str] = sa.column("name", sa.Text)
NEVER: sa.ColumnElement[bool] = sa.false()


@dataclass(frozen=True, kw_only=True)
class Referrers:
    """A table whose rows refer to resources: by a column that is a name, or a JSON document with the name in it."""

    table: str
    columns: Sequence[str]
    name: sa.ColumnElement[str] = NAME
    needs: sa.ColumnElement[bool] = NEVER
    """Which rows need what they refer to."""
    needs_base_models: bool = False
    """Whether every row needs the base models it refers to."""

    def names(self, name: str) -> sa.Select[Any]:
        """The rows that refer to `name`."""
        return sa.select(self.name).select_from(sa.table(self.table)).where(self._matches(name))

    def query(self, name: str) -> sa.Select[Any]:
        """The rows that refer to `name`, and whether they need it; at most `MAX_REFERENCES`."""
        needs = sa.true() if self.needs_base_models and name.startswith("baseModels/") else self.needs
        needs_it = sa.case((needs, 1), else_=0).label("needs_it")
        found = sa.select(self.name.label("referrer"), needs_it).select_from(sa.table(self.table))
        return found.where(self._matches(name)).order_by(needs_it.desc()).limit(MAX_REFERENCES)

    def _matches(self, name: str) -> sa.ColumnElement[bool]:
        texts = [sa.cast(sa.column(column), sa.Text) for column in self.columns]
        # Ids need no escapes in JSON, so that a name in a document is always written like this.
        matches = sa.or_(*(sa.or_(text == name, text.contains(f'"{name}"', autoescape=True)) for text in texts))
        if not name.startswith("tenants/"):
            return matches
        tenant = "/".join(name.split("/")[:2])
        return sa.and_(self.name.startswith(f"{tenant}/", autoescape=True), matches)


JOBS = Referrers(table="jobs", columns=["payload"], needs=sa.column("state").not_in(FINAL_STATES))
"""Jobs of every service, by what they were asked to do."""


class References:
    """The references of one service."""

    def __init__(self, database: Database, referrers: Sequence[Referrers]) -> None:
        self._database = database
        self._referrers = referrers

    async def of(self, names: Sequence[str]) -> Sequence[Reference]:
        """At most `MAX_REFERENCES`, those that need a resource first."""
        async with self._database.read() as tx:
            return await self.read(tx, names)

    async def read(self, tx: AsyncConnection, names: Sequence[str]) -> Sequence[Reference]:
        """As `of`, inside a transaction."""
        found: dict[tuple[str, str], Reference] = {}
        for name in names:
            for referrers in self._referrers:
                for referrer, needs_it in await tx.execute(referrers.query(name)):
                    if needs_it or not referrer.startswith(f"{name}/"):  # a part that is finished goes along
                        found[referrer, name] = Reference(referrer, name, bool(needs_it))
        return sorted(found.values(), key=lambda one: (not one.needs_it, one.referrer))[:MAX_REFERENCES]
