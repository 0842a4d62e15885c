from __future__ import annotations

import pathlib
from collections.abc import AsyncIterator

import luthierd.evaluator
import pytest
from luthierd.storage.database import Database

VERSIONS = pathlib.Path(luthierd.evaluator.__file__).parent / "versions"


@pytest.fixture
async def tables(database_url: str, schema: str) -> AsyncIterator[Database]:
    """The evaluator's tables, on SQLite and on PostgreSQL."""
    found = Database(database_url, schema=schema)
    await found.migrate(VERSIONS)
    yield found
    await found.close()
