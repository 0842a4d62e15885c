"""The desired state in SQL, in both kinds of database, and in memory: the same behaviour."""

from __future__ import annotations

import pathlib
from collections.abc import AsyncIterator

import luthierd.inference
import pytest
from luthierd.inference.deployments.store import MemoryStore, SqlStore
from luthierd.inference.domain.deployment import Deployment, Share
from luthierd.inference.domain.engine import Stage
from luthierd.inference.domain.errors import EtagMismatchError
from luthierd.inference.domain.parity import Proof
from luthierd.inference.domain.quota import Quota
from luthierd.storage.database import Database
from support.inference_parts import BASE, CERTIFICATE, OTHER_BASE, revision

VERSIONS = pathlib.Path(next(iter(luthierd.inference.__path__))) / "versions"
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
    proof = Proof(certificate=CERTIFICATE, stages=(Stage("fetch", 0.25), Stage("prove", 0.5)))
    await store.put_proof("a" * 64, Proof(certificate=CERTIFICATE))
    await store.put_proof("a" * 64, proof)
    await store.put_proof("b" * 64, proof)
    assert await store.proofs() == {"a" * 64: proof, "b" * 64: proof}
    await store.delete_proofs(["a" * 64])
    assert await store.proofs() == {"b" * 64: proof}
    assert await store.chosen_base_model() is None
    assert await store.choose_base_model(BASE) == BASE
    assert await store.choose_base_model(OTHER_BASE) == BASE
    await store.forget_base_model(OTHER_BASE)
    assert await store.chosen_base_model() == BASE
    await store.forget_base_model(BASE)
    assert await store.choose_base_model(OTHER_BASE) == OTHER_BASE


async def test_the_sql_store_keeps_what_it_is_given_and_compares_before_it_sets(sql: SqlStore) -> None:
    await exercise(sql)


async def test_the_store_of_the_tests_does_the_same() -> None:
    await exercise(MemoryStore())
