from __future__ import annotations

import pytest

NAME = "tenants/acme/deployments/d"
R1, R2 = (f"tenants/acme/adapters/style/revisions/r{number}" for number in (1, 2))
DEPLOYMENT = {
    "name": NAME,
    "etag": "e1",
    "live": {"adapter_revision": R1},
    "candidate": {"adapter_revision": R2},
    "traffic": [{"adapter_revision": R1, "weight": 9}, {"adapter_revision": R2, "weight": 1}],
    "mirror_revision": R2,
}


@pytest.fixture(autouse=True)
def answers(services):
    services.answers["GetDeployment"] = services.answers["SetTraffic"] = {"deployment": DEPLOYMENT}


async def test_a_split_is_set_by_slot_or_by_name_and_shown_in_percent(services, luthier):
    found = await luthier("traffic", "set", "d", "live=9", "style/r2=1", "--mirror", "candidate")
    assert found.code == 0
    [request] = services.asked["SetTraffic"]
    assert [(one.adapter_revision, one.weight) for one in request.traffic] == [(R1, 9), (R2, 1)]
    assert (request.name, request.mirror_revision, request.etag) == (NAME, R2, "e1")
    assert "90.0 %" in found.out
    assert "mirror" in found.out


async def test_without_shares_all_requests_go_to_the_live_revision(services, luthier):
    services.answers["SetTraffic"] = {"deployment": {**DEPLOYMENT, "traffic": [], "mirror_revision": ""}}
    found = await luthier("traffic", "set", "d")
    assert len(services.asked["SetTraffic"][0].traffic) == 0
    assert "100.0 %" in found.out


async def test_the_split_is_shown_as_json(luthier):
    [shown] = (await luthier("traffic", "show", "d", "--json")).lines
    assert shown["traffic"][1] == {"adapter_revision": R2, "weight": 1}


@pytest.mark.parametrize("share", ["live", "live=x", "=3", "previous=1", "r2=1"])
async def test_a_share_that_says_nothing_is_refused_before_anything_changes(services, luthier, share):
    assert (await luthier("traffic", "set", "d", share)).code == 64
    assert "SetTraffic" not in services.asked
