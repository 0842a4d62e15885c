"""Which blob holds the retention suite of a base model: SQL for the worker."""

from __future__ import annotations

import time

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from luthierd.storage.database import Database

_suites = sa.table(
    "retention_suites",
    *map(sa.column, ("base_model_sha256", "item_count", "blob_sha256")),
    sa.column("create_time", sa.Float),
)


class SqlRetentionSuites:
    """See `suite.RetentionSuiteCatalogue`. Suites contain no tenant's data, so tenants share them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, base_model_sha256: str, item_count: int) -> str | None:
        """The blob's sha256, or None."""
        query = sa.select(_suites.c.blob_sha256).where(
            _suites.c.base_model_sha256 == base_model_sha256, _suites.c.item_count == item_count
        )
        async with self._database.read() as tx:
            return (await tx.execute(query)).scalar_one_or_none()

    async def add(self, base_model_sha256: str, item_count: int, *, blob_sha256: str) -> None:
        """Remembers the blob; does nothing if there is one."""
        values = {
            "base_model_sha256": base_model_sha256,
            "item_count": item_count,
            "blob_sha256": blob_sha256,
            "create_time": time.time(),
        }
        try:
            async with self._database.begin() as tx:
                await tx.execute(sa.insert(_suites).values(**values))
        except IntegrityError:
            return
