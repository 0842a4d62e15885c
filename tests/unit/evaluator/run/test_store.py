"""The SQL store, on SQLite and on PostgreSQL."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import AsyncIterator

import luthierd.evaluator
import pytest
from luthierd.evaluator.decisions.gate import GateCondition, GatePolicy, Tier
from luthierd.evaluator.decisions.gate_policies import PolicyExistsError, PolicyNotFoundError, PolicyStore, StoredPolicy
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.metrics import Metric
from luthierd.evaluator.domain.rows import AnswerError
from luthierd.evaluator.run.store import MemoryPolicyStore, SqlIndexCatalogue, SqlPolicyStore, SqlSampleStore
from luthierd.paging import PageRequest
from luthierd.storage.database import Database
from support.evaluator_material import answer

VERSIONS = pathlib.Path(luthierd.evaluator.__file__).parent / "versions"
ANSWER = dataclasses.replace(answer(Arm.RAG, "r1", "été\n{}"), shown_row_ids=("a", "b"))


@pytest.fixture
async def tables(database_url: str, schema: str) -> AsyncIterator[Database]:
    found = Database(database_url, schema=schema)
    await found.migrate(VERSIONS)
    yield found
    await found.close()


async def test_an_answer_comes_back_as_it_was(tables: Database) -> None:
    samples = SqlSampleStore(tables, "tenants/t/evaluations/e")
    failed = dataclasses.replace(ANSWER, row_id="r2", text="", error=AnswerError("PROMPT_TOO_LONG", "too long"))
    await samples.add(ANSWER)
    await samples.add(failed)
    assert set(await samples.answers()) == {ANSWER, failed}


async def test_the_first_answer_to_a_query_stays(tables: Database) -> None:
    samples = SqlSampleStore(tables, "tenants/t/evaluations/e")
    await samples.add(ANSWER)
    await samples.add(dataclasses.replace(ANSWER, text="another worker's"))
    assert await samples.answers() == [ANSWER]


async def test_evaluations_do_not_share_answers(tables: Database) -> None:
    await SqlSampleStore(tables, "tenants/t/evaluations/one").add(ANSWER)
    assert await SqlSampleStore(tables, "tenants/t/evaluations/two").answers() == []


async def test_an_index_is_found_for_its_tenant_split_and_embedder_only(tables: Database) -> None:
    catalogue = SqlIndexCatalogue(tables)
    await catalogue.add("acme", "train", "embedder", blob_sha256="blob")
    await catalogue.add("acme", "train", "embedder", blob_sha256="later")
    assert await catalogue.find("acme", "train", "embedder") == "blob"
    assert await catalogue.find("rival", "train", "embedder") is None
    assert await catalogue.find("acme", "train", "other") is None


def stored(name: str) -> StoredPolicy:
    condition = GateCondition(Metric.CHRF, Arm.ADAPTER_RAG, Arm.BASE, at_least=-0.02, tier=Tier.ADVISORY)
    return StoredPolicy(GatePolicy((condition,), 0.9, f"tenants/acme/gatePolicies/{name}"), 12.5)


@pytest.fixture(params=["sql", "memory"])
async def policies(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> AsyncIterator[PolicyStore]:
    if request.param == "memory":
        yield MemoryPolicyStore()
        return
    found = Database(f"sqlite+aiosqlite:///{tmp_path / 'evaluator.db'}", schema="evaluator")
    await found.migrate(VERSIONS)
    yield SqlPolicyStore(found)
    await found.close()


async def test_policies_are_kept_whole_and_never_replaced(policies: PolicyStore) -> None:
    await policies.add(stored("live"))
    assert await policies.get("tenants/acme/gatePolicies/live") == stored("live")
    with pytest.raises(PolicyExistsError):
        await policies.add(stored("live"))
    with pytest.raises(PolicyNotFoundError):
        await policies.get("tenants/acme/gatePolicies/none")


async def test_policies_are_listed_by_name_page_by_page(policies: PolicyStore) -> None:
    for name in ("c", "a", "b"):
        await policies.add(stored(name))
    first = await policies.list("tenants/acme/gatePolicies/", PageRequest.parse(2, "", "x"))
    assert [one.policy.name[-1] for one in first.items] == ["a", "b"]
    rest = await policies.list("tenants/acme/gatePolicies/", PageRequest.parse(2, first.next_page_token, "x"))
    assert [one.policy.name[-1] for one in rest.items] == ["c"]
    assert await policies.list("tenants/other/gatePolicies/", PageRequest.parse(2, "", "x")) == type(rest)((), "")
