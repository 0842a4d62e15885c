from __future__ import annotations

import io

import pytest

REVISION = "tenants/acme/adapters/style/revisions/r2"
LIVE = {"generation": "g", "adapter_revision": REVISION, "adapter_sha256": "abcdef0123", "state": 2}
DEPLOYMENT = {"name": "tenants/acme/deployments/d", "revision": 4, "live": LIVE, "previous": LIVE}
FINISH = {"finish_reason": "stop", "completion_token_count": 2, "ttft_ms": 1.0, "latency_ms": 2.0}
ORIGIN = {"generation": "g", "adapter_revision": REVISION}


async def test_an_adapter_revision_is_deployed(services, luthier):
    services.answers["DeployAdapter"] = {"deployment": DEPLOYMENT}
    found = await luthier("deploy", "d", "style/r2", "--stage")
    assert found.code == 0
    assert "revision 4, live style/r2 (abcdef01)" in found.out
    assert "luthier rollback" in found.err
    [request] = services.asked["DeployAdapter"]
    assert (request.name, request.adapter_revision, request.stage_only) == (DEPLOYMENT["name"], REVISION, True)
    assert request.request_id


@pytest.mark.parametrize(("verb", "method"), [("promote", "PromoteDeployment"), ("rollback", "RollbackDeployment")])
async def test_routing_is_changed_by_its_verb(services, luthier, verb, method):
    services.answers[method] = {"deployment": DEPLOYMENT}
    assert (await luthier(verb, "d", "--json")).lines[0]["live"]["state"] == "READY"
    assert services.asked[method][0].name == DEPLOYMENT["name"]


async def test_deployments_are_listed_and_removed(services, luthier):
    services.answers["ListDeployments"] = {"deployments": [DEPLOYMENT]}
    assert "style/r2 (abcdef01)" in (await luthier("deployments")).out
    assert (await luthier("deployments", "--json")).lines[0]["deployments"][0]["revision"] == 4
    assert (await luthier("undeploy", "d")).code == 0
    assert (await luthier("undeploy", "d", "--json")).lines == [{"name": DEPLOYMENT["name"], "deleted": True}]


async def test_an_answer_streams_to_stdout(services, luthier):
    services.answers["ChatStream"] = [{"delta": "Hel", "origin": ORIGIN}, {"delta": "lo"}, {"finish": FINISH}]
    found = await luthier("chat", "hi", "--deployment", "d", "--system", "Be kind.", "--max-tokens", "9")
    assert (found.code, found.out) == (0, "Hello\n")
    [request] = services.asked["ChatStream"]
    assert request.target.deployment == "tenants/acme/deployments/d"
    assert [message.role for message in request.messages] == ["system", "user"]
    assert request.sampling.max_tokens == 9


async def test_with_json_pieces_are_lines_and_the_last_says_who_answered(services, luthier, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("once upon"))
    services.answers["GenerateStream"] = [{"delta": " a", "origin": ORIGIN}, {"delta": " time", "finish": FINISH}]
    found = await luthier("generate", "--base", "m", "--json")
    assert [line["event"] for line in found.lines] == ["delta", "delta", "result"]
    assert (found.lines[-1]["text"], found.lines[-1]["origin"]["adapter_revision"]) == (" a time", REVISION)
    assert services.asked["GenerateStream"][0].prompt == "once upon"


@pytest.mark.parametrize("options", [[], ["--base", "m", "--deployment", "d"]])
async def test_exactly_one_target_must_be_named(services, luthier, options):
    found = await luthier("chat", "hi", *options)
    assert found.code == 64
    assert "exactly one" in found.err


async def test_a_conversation_keeps_its_turns(services, luthier, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal("first\nsecond\n\n"))
    services.answers["ChatStream"] = [{"delta": "yes"}]
    services.answers["ListAdapterRevisions"] = {"revisions": [{"name": REVISION}]}
    found = await luthier("chat", "--adapter", "style")
    assert found.code == 0
    turns = [[(m.role, m.content) for m in request.messages] for request in services.asked["ChatStream"]]
    assert turns[1] == [("user", "first"), ("assistant", "yes"), ("user", "second")]
    assert services.asked["ChatStream"][0].target.adapter_revision == REVISION
