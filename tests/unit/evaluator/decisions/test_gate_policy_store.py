"""Stored gate policies, on SQLite and on PostgreSQL."""

from __future__ import annotations

import pytest
from luthierd.evaluator.decisions.gate_policy import GateCondition, GatePolicy, Tier
from luthierd.evaluator.decisions.gate_policy_store import SqlPolicyStore
from luthierd.evaluator.decisions.gates import PolicyExistsError, PolicyNotFoundError, StoredPolicy
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.metrics import Metric
from luthierd.paging import PageRequest
from luthierd.storage.database import Database


def stored(name: str) -> StoredPolicy:
    condition = GateCondition(
        metric=Metric("chrf"), arm=Arm.ADAPTER_RAG, reference=Arm.BASE, at_least=-0.02, tier=Tier.ADVISORY
    )
    return StoredPolicy(GatePolicy((condition,), 0.9, f"tenants/acme/gatePolicies/{name}"), 12.5)


@pytest.fixture
def policies(tables: Database) -> SqlPolicyStore:
    return SqlPolicyStore(tables)


async def test_policies_are_kept_whole_and_never_replaced(policies: SqlPolicyStore) -> None:
    await policies.add(stored("live"))
    assert await policies.get("tenants/acme/gatePolicies/live") == stored("live")
    with pytest.raises(PolicyExistsError):
        await policies.add(stored("live"))
    with pytest.raises(PolicyNotFoundError):
        await policies.get("tenants/acme/gatePolicies/none")


async def test_policies_are_listed_by_name_page_by_page(policies: SqlPolicyStore) -> None:
    for name in ("c", "a", "b"):
        await policies.add(stored(name))
    first = await policies.list("tenants/acme/gatePolicies/", PageRequest.parse(2, "", "x"))
    assert [one.policy.name[-1] for one in first.items] == ["a", "b"]
    rest = await policies.list("tenants/acme/gatePolicies/", PageRequest.parse(2, first.next_page_token, "x"))
    assert [one.policy.name[-1] for one in rest.items] == ["c"]
    assert await policies.list("tenants/other/gatePolicies/", PageRequest.parse(2, "", "x")) == type(rest)((), "")
