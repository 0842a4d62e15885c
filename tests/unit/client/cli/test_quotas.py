from __future__ import annotations

import re

import pytest

QUOTA = {
    "name": "tenants/acme/quota",
    "limits": {"tokens_per_minute": 5000},
    "effective_limits": {"tokens_per_minute": 5000, "requests_per_minute": 0, "weight": 1.0},
    "usage": {"tokens_in_minute": 1234, "running_requests": 2, "waiting_requests": 7},
}


async def test_a_quota_is_shown_with_what_holds_where_it_comes_from_and_what_is_used(services, luthier):
    services.answers["GetQuota"] = {"quota": QUOTA}
    out = (await luthier("quota", "show")).out

    def row(text: str) -> list[str]:
        line = next(line for line in out.splitlines() if text in line)
        return [cell.strip() for cell in re.split("[│┃]", line)[1:-1]]

    assert row("tokens a minute") == ["tokens a minute", "5000", "1234", "set"]
    assert row("requests a minute") == ["requests a minute", "no limit", "0", "default"]
    assert row("in flight") == ["requests in flight", "no limit", "2 + 7 waiting", "default"]
    [document] = (await luthier("quota", "show", "--json")).lines
    assert document["limits"] == {"tokens_per_minute": 5000}
    assert services.asked["GetQuota"][0].name == "tenants/acme/quota"


async def test_the_operator_sees_every_tenant_s_use_beside_its_limit(services, luthier):
    other = {"name": "tenants/beta/quota", "effective_limits": {"weight": 2.5}, "usage": {"requests_in_minute": 3}}
    services.answers["ListQuotas"] = {"quotas": [QUOTA, other]}
    out = (await luthier("quota", "list")).out
    lines = {line.split()[1]: line for line in out.splitlines() if "acme" in line or "beta" in line}
    assert "1234 / 5000" in lines["acme"]
    assert "3 / -" in lines["beta"]
    assert "2.5" in lines["beta"]
    [document] = (await luthier("quota", "list", "--json")).lines
    assert [one["name"] for one in document["quotas"]] == ["tenants/acme/quota", "tenants/beta/quota"]


async def test_a_quota_that_each_of_several_replicas_allows_says_so(services, luthier):
    services.answers["GetQuota"] = {"quota": {**QUOTA, "replica_count": 3}}
    assert "in each of 3 replicas" in (await luthier("quota", "show")).out


async def test_limits_are_set_to_nothing_and_back_to_the_default(services, luthier):
    services.answers["UpdateQuota"] = {"quota": QUOTA}
    found = await luthier(
        "quota", "set", "--requests-per-minute", "0", "--weight", "2.5", "--reset", "tokens_per_minute"
    )
    assert found.code == 0
    [request] = services.asked["UpdateQuota"]
    assert sorted(request.update_mask.paths) == ["requests_per_minute", "tokens_per_minute", "weight"]
    assert (request.limits.HasField("requests_per_minute"), request.limits.requests_per_minute) == (True, 0)
    assert (request.limits.weight, request.limits.HasField("tokens_per_minute")) == (2.5, False)
    assert request.request_id


@pytest.mark.parametrize(
    "options",
    [(), ("--weight", "0"), ("--requests-per-minute", "-1"), ("--weight", "2", "--reset", "weight")],
)
async def test_a_set_that_makes_no_sense_is_refused_before_anything_is_sent(services, luthier, options):
    assert (await luthier("quota", "set", *options)).code == 64
    assert "UpdateQuota" not in services.asked
