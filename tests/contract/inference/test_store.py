"""The desired state in SQL, in both kinds of database, and in memory: the same behaviour."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa
from luthierd.inference.build import VERSIONS
from luthierd.inference.deployments.store import SqlStore
from luthierd.inference.domain.deployment import Deployment, Share
from luthierd.inference.domain.engine import Stage
from luthierd.inference.domain.errors import EtagMismatchError
from luthierd.inference.domain.parity import ParityCheck
from luthierd.inference.domain.quota import Quota
from luthierd.storage.database import Database
from support.inference_fakes import BASE, CERTIFICATE, OTHER_BASE, revision
from support.memory_store import MemoryStore

NEW = Deployment(name="tenants/acme/deployments/d", create_time=1.5, update_time=1.5).route(revision("r1"), 2.25)


@pytest.fixture
async def sql(database_url: str, schema: str) -> AsyncIterator[SqlStore]:
    """A store in a fresh database."""
    database = Database(database_url, schema=schema)
    await database.migrate(VERSIONS)
    yield SqlStore(database)
    await database.close()


async def exercise(store: SqlStore | MemoryStore) -> None:
    """Every method, and every refusal."""
    await store.create(NEW)
    with pytest.raises(EtagMismatchError):
        await store.create(NEW)
    changed = NEW.stage(revision("r2"), 3.0)
    await store.replace(changed, change=NEW.change)
    with pytest.raises(EtagMismatchError):
        await store.replace(changed, change=NEW.change)
    assert await store.deployments() == [changed]
    with pytest.raises(EtagMismatchError):
        await store.delete(NEW.name, change=NEW.change)
    await store.delete(NEW.name, change=changed.change)
    assert await store.deployments() == []
    assert await store.quotas() == []
    quota = Quota(name="tenants/acme/quota").changed({"weight": 2.5, "requests_per_minute": 3.0}, 4.5)
    with pytest.raises(EtagMismatchError):
        await store.put_quota(quota, change=1)
    await store.put_quota(quota, change=0)
    with pytest.raises(EtagMismatchError):
        await store.put_quota(quota, change=0)
    later = quota.changed({"weight": None}, 5.5)
    await store.put_quota(later, change=1)
    assert await store.quotas() == [later]
    pinned = NEW.pin(4.0, is_pinned=True)
    await store.create(pinned)
    split = pinned.split((Share(revision("r1").sha256, 3),), revision("r1").sha256, 5.0)
    await store.replace(split, change=pinned.change)
    assert await store.deployments() == [split]
    check = ParityCheck(certificate=CERTIFICATE, stages=(Stage("fetch", 0.25), Stage("parity_check", 0.5)))
    await store.put_parity_check("a" * 64, ParityCheck(certificate=CERTIFICATE))
    await store.put_parity_check("a" * 64, check)
    await store.put_parity_check("b" * 64, check)
    assert await store.parity_checks() == {"a" * 64: check, "b" * 64: check}
    await store.delete_parity_checks(["a" * 64])
    assert await store.parity_checks() == {"b" * 64: check}
    assert await store.chosen_base_model() is None
    for base_model in (BASE, OTHER_BASE):
        await store.choose_base_model(base_model)
        assert await store.chosen_base_model() == base_model


async def test_the_sql_store_keeps_what_it_is_given_and_compares_before_it_sets(sql: SqlStore) -> None:
    await exercise(sql)


async def test_the_store_of_the_tests_does_the_same() -> None:
    await exercise(MemoryStore())


async def test_a_database_from_before_the_new_names_is_upgraded_with_its_rows(
    database_url: str, schema: str, tmp_path: pathlib.Path
) -> None:
    older = tmp_path / "versions"
    shutil.copytree(VERSIONS, older, ignore=shutil.ignore_patterns("inference_0080*", "__pycache__"))
    database = Database(database_url, schema=schema)
    await database.migrate(older)
    certificate = dataclasses.asdict(CERTIFICATE)
    certificate["prove_time"] = certificate.pop("check_time")
    stages = [{"name": "fetch", "duration_s": 0.25}, {"name": "prove", "duration_s": 0.5}]
    proofs = sa.table("proofs", sa.column("sha256"), sa.column("proof", sa.JSON))
    replica_proofs = sa.table("replica_proofs", sa.column("intent"), sa.column("replica"))
    async with database.begin() as connection:
        content = {"certificate": certificate, "stages": stages}
        await connection.execute(sa.insert(proofs).values(sha256="a" * 64, proof=content))
        await connection.execute(sa.insert(replica_proofs).values(intent="i", replica="b"))
    await database.migrate(VERSIONS)
    checks = await SqlStore(database).parity_checks()
    async with database.read() as connection:
        reports = (await connection.execute(sa.text("SELECT intent, replica FROM replica_parity_checks"))).all()
    await database.close()
    expected = ParityCheck(certificate=CERTIFICATE, stages=(Stage("fetch", 0.25), Stage("parity_check", 0.5)))
    assert checks == {"a" * 64: expected}
    assert [tuple(row) for row in reports] == [("i", "b")]
