"""Fixtures of more than one folder: a database of either kind, an object store, a tiny base model."""

from __future__ import annotations

import pathlib
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest
from luthierd.storage.database import Database
from support import databases

if TYPE_CHECKING:
    from support.object_store import ObjectStore


@pytest.fixture(scope="session")
def postgres() -> Iterator[databases.Cluster]:
    """A PostgreSQL that lives as long as the test run."""
    with databases.cluster() as made:
        yield made


@pytest.fixture(scope="session")
def postgres_url(postgres: databases.Cluster) -> str:
    """Its URL."""
    return postgres.url


@pytest.fixture(scope="session")
def object_store() -> Iterator[ObjectStore]:
    """An S3 server that lives as long as the test run."""
    from support import object_store as server

    with server.object_store() as made:
        yield made


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    """The URL of an SQLite file, and in a second run of the test that of a PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'ground.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def schema() -> str:
    """A schema name that no other test has."""
    return f"test_{uuid.uuid4().hex[:12]}"


@pytest.fixture
async def database(database_url: str, schema: str) -> AsyncIterator[Database]:
    """A database with the tables of the ground: jobs, events, replays."""
    made = Database(database_url, schema=schema)
    await made.migrate(databases.NO_VERSIONS)
    yield made
    await made.close()


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A base model's folder, with random weights."""
    from support.tiny_model import write_base_model

    return write_base_model(tmp_path_factory.mktemp("tiny"))
