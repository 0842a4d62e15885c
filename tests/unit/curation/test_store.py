"""Datasets and the beginning of revisions, in SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from luthierd.curation.build import VERSIONS
from luthierd.curation.recipe import parse_recipe
from luthierd.curation.stages.pii import MASKED_BY_DEFAULT
from luthierd.curation.store import SqlDatasetStore, set_latest_revision
from luthierd.curation.versions.curation_0070_stages import with_stages
from luthierd.jobs.queue import JobQueue, JobState
from luthierd.paging import PageRequest
from luthierd.storage.database import Database

NAME = "tenants/acme/datasets/d"


@pytest.fixture
async def curation_database(database_url: str, schema: str) -> AsyncIterator[Database]:
    made = Database(database_url, schema=schema)
    await made.migrate(VERSIONS)
    yield made
    await made.close()


@pytest.fixture
def store(curation_database: Database) -> SqlDatasetStore:
    times = iter(range(1_800_000_000, 1_900_000_000))
    return SqlDatasetStore(curation_database, JobQueue(curation_database, lease_s=5), now=lambda: float(next(times)))


async def test_a_source_creates_changes_or_leaves_a_dataset(store: SqlDatasetStore) -> None:
    first = await store.put_source(NAME, "s1", 3)
    assert await store.put_source(NAME, "s1", 3) == first == await store.get(NAME)
    second = await store.put_source(NAME, "s2", 4)
    assert (second.source_sha256, second.row_count, second.create_time) == ("s2", 4, first.create_time)
    assert second.update_time > first.update_time
    assert second.etag != first.etag


async def test_revisions_begun_at_once_get_numbers_of_their_own(store: SqlDatasetStore) -> None:
    await store.put_source(NAME, "s1", 3)
    jobs = await asyncio.gather(*(store.begin_revision(NAME, {}) for _ in range(5)))
    assert {job.name for job in jobs if job} == {f"{NAME}/revisions/r{number}" for number in range(1, 6)}
    assert all(job.state is JobState.QUEUED and job.payload["source_sha256"] == "s1" for job in jobs if job)


async def test_a_dataset_that_does_not_exist_has_no_revision(store: SqlDatasetStore) -> None:
    assert await store.begin_revision(NAME, {}) is None
    assert await store.get(NAME) is None


async def test_the_latest_revision_is_the_newest_begun_not_the_last_ended(
    store: SqlDatasetStore, curation_database: Database
) -> None:
    await store.put_source(NAME, "s1", 3)
    for ended, latest in (("r2", "r2"), ("r1", "r2"), ("r10", "r10"), ("r9", "r10")):
        async with curation_database.begin() as connection:
            await set_latest_revision(connection, f"{NAME}/revisions/{ended}")
        found = await store.get(NAME)
        assert found is not None
        assert found.latest_revision == f"{NAME}/revisions/{latest}"


async def test_a_tenants_list_is_not_that_of_one_whose_name_begins_alike(store: SqlDatasetStore) -> None:
    for tenant in ("acme", "acme2"):
        await store.put_source(f"tenants/{tenant}/datasets/d", "s", 1)
    page = await store.list("acme", PageRequest.parse(0, ""))
    assert [item.name for item in page.items] == [NAME]


def test_a_stored_recipe_of_sections_becomes_the_stages_that_it_stood_for() -> None:
    sections = {
        "clean": {"min_completion_characters": 1, "max_row_characters": 32768},
        "deduplicate": {"near_duplicate_threshold": 0.85},
        "pii": {"action": "mask", "entities": list(MASKED_BY_DEFAULT), "min_score": 0.5},
        "split": {"validation_fraction": 0.1, "holdout_fraction": 0.2, "seed": 0, "max_train_rows": 0},
    }
    payload = with_stages({"source_sha256": "s", "recipe": sections})
    assert parse_recipe(payload["recipe"]) == parse_recipe(None)
    assert with_stages(payload) == payload
    off = sections | {"deduplicate": {"near_duplicate_threshold": 1.0}}
    assert "near_duplicates" not in str(with_stages({"recipe": off}))
