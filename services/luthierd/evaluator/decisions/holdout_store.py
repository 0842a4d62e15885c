"""The ledger of holdouts in SQL. Entries are added, never changed."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from luthierd.evaluator.decisions.holdout_ledger import AccessCounts, FinalSliceSpentError, HoldoutAccess
from luthierd.paging import Page, PageRequest
from luthierd.storage.database import Database

_FIELDS = (
    "tenant",
    "rows_sha256",
    "evaluation",
    "adapter_revision",
    "adapter_sha256",
    "subject",
    "row_count",
    "create_time",
    "purpose",
    "gate_policy",
    "gate_outcome",
)
_accesses = sa.table(
    "holdout_accesses",
    sa.column("number", sa.Integer),
    sa.column("access_id", sa.Text),
    sa.column("is_final", sa.Boolean),
    sa.column("final_key", sa.Text),
    sa.column("row_count", sa.BigInteger),
    sa.column("create_time", sa.Float),
    *(sa.column(name, sa.Text) for name in _FIELDS if name not in ("row_count", "create_time")),
)


class SqlLedger:
    """See `holdout_ledger.Ledger`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(self, access: HoldoutAccess) -> None:
        """Does nothing for an id that is recorded already. FinalSliceSpentError."""
        values: dict[str, Any] = {name: getattr(access, name) for name in _FIELDS}
        values |= {"access_id": access.id, "is_final": access.is_final, "final_key": access.final_key}
        try:
            async with self._database.begin() as tx:
                await tx.execute(sa.insert(_accesses).values(**values))
        except IntegrityError:
            spent = await self.final_access(access.final_key) if access.final_key else None
            if spent is not None and spent.id != access.id:
                raise FinalSliceSpentError(spent) from None

    async def counts(self, tenant: str, rows_sha256: str) -> AccessCounts:
        """Evaluations only: a gate shows no new result."""
        query = (
            sa.select(_accesses.c.is_final, sa.func.count())
            .where(_accesses.c.tenant == tenant, _accesses.c.rows_sha256 == rows_sha256, _accesses.c.gate_outcome == "")
            .group_by(_accesses.c.is_final)
        )
        async with self._database.read() as tx:
            found = {bool(is_final): count for is_final, count in await tx.execute(query)}
        return AccessCounts(found.get(False, 0), found.get(True, 0))

    async def final_access(self, final_key: str) -> HoldoutAccess | None:
        """The one access with this key, if there is one."""
        async with self._database.read() as tx:
            row = (await tx.execute(sa.select(_accesses).where(_accesses.c.final_key == final_key))).one_or_none()
        return _access(row) if row is not None else None

    async def list(self, tenant: str, rows_sha256: str, page: PageRequest) -> Page[HoldoutAccess]:
        """Newest first."""
        query = sa.select(_accesses).where(_accesses.c.tenant == tenant, _accesses.c.rows_sha256 == rows_sha256)
        if page.after:
            query = query.where(_accesses.c.number < page.after_number)
        async with self._database.read() as tx:
            rows = (await tx.execute(query.order_by(_accesses.c.number.desc()).limit(page.limit))).all()
        return page.page([_access(row) for row in rows], [str(row.number) for row in rows])


def _access(row: Any) -> HoldoutAccess:
    return HoldoutAccess(
        id=row.access_id, is_final=bool(row.is_final), **{name: getattr(row, name) for name in _FIELDS}
    )
