from __future__ import annotations

import pathlib
from collections.abc import AsyncIterator

import luthierd.evaluator
import pytest
from luthierd.storage.database import Database
from support.evaluator_service import Server, served

VERSIONS = pathlib.Path(luthierd.evaluator.__file__).parent / "versions"


@pytest.fixture
async def server(tmp_path: pathlib.Path) -> AsyncIterator[Server]:
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'evaluator.db'}", schema="evaluator")
    await database.migrate(VERSIONS)
    async with served(database, tmp_path) as found:
        yield found


@pytest.fixture
async def large_server(tmp_path: pathlib.Path) -> AsyncIterator[Server]:
    """Ninety rows in thirty groups: enough that five ways can be told apart at once."""
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'evaluator.db'}", schema="evaluator")
    await database.migrate(VERSIONS)
    async with served(database, tmp_path, holdout=90) as found:
        yield found
