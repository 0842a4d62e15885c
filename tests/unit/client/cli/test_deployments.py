from __future__ import annotations

import io

import pytest

REVISION = "tenants/acme/adapters/style/revisions/r2"
LIVE = {"id": "g", "adapter_revision": REVISION, "adapter_sha256": "abcdef0123", "state": 2}
CERTIFICATE = {
    "row_count": 2,
    "token_count": 32,
    "deviation_mean_nats": 0.0012,
    "tolerance_nats": 0.02,
    "effect_mean_nats": 1.5,
    "engine_version": "vllm 0.32.0 (cpu, float32)",
}
STAGES = [{"name": "fetch", "duration": {"nanos": 12_000_000}}, {"name": "parity_check", "duration": {"seconds": 1}}]
DEPLOYMENT = {"name": "tenants/acme/deployments/d", "revision": 4, "live": LIVE, "previous": LIVE}
FINISH = {"finish_reason": "stop", "completion_token_count": 2, "ttft_ms": 1.0, "latency_ms": 2.0}
ORIGIN = {"loaded_adapter": "g", "adapter_revision": REVISION}


async def test_an_adapter_revision_is_deployed(services, luthier):
    services.answers["DeployAdapter"] = {"deployment": DEPLOYMENT}
    found = await luthier("deploy", "d", "style/r2", "--stage")
    assert found.code == 0
    assert "revision 4, live style/r2 (abcdef01)" in found.out
    assert "luthier rollback" in found.err
    [request] = services.asked["DeployAdapter"]
    assert (request.name, request.adapter_revision, request.stage_only) == (DEPLOYMENT["name"], REVISION, True)
    assert request.request_id


async def test_the_parity_certificate_and_the_stages_are_shown(services, luthier):
    live = {**LIVE, "certificate": CERTIFICATE, "load_stages": STAGES}
    services.answers["DeployAdapter"] = {"deployment": {**DEPLOYMENT, "live": live}}
    services.answers["ListDeployments"] = {"deployments": [{**DEPLOYMENT, "live": live, "pinned": True}]}
    out = (await luthier("deploy", "d", "style/r2")).out
    assert "parity: 0.0012 of 0.02 nats a token off the training (2 rows, 32 tokens), effect 1.500, vllm" in out
    assert "stages, s: fetch 0.012, parity_check 1.000" in out
    listed = (await luthier("deployments")).out
    assert "0.0012 of 0.02" in listed
    assert "(pinned)" in listed
    shown = (await luthier("deploy", "d", "style/r2", "--json")).lines[0]["live"]
    assert shown["certificate"]["deviation_mean_nats"] == 0.0012
    assert shown["load_stages"][0] == {"name": "fetch", "duration": "0.012s"}


async def test_a_deployment_is_pinned_let_go_and_loaded_ahead(services, luthier):
    services.answers["PinDeployment"] = services.answers["PrefetchDeployment"] = {"deployment": DEPLOYMENT}
    for command in ("pin", "unpin", "prefetch"):
        assert (await luthier(command, "d")).code == 0
    assert [request.pinned for request in services.asked["PinDeployment"]] == [True, False]
    assert services.asked["PrefetchDeployment"][0].name == DEPLOYMENT["name"]


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


async def test_what_an_answer_must_be_is_read_from_files_and_options(services, luthier, tmp_path):
    services.answers["GenerateStream"] = [{"delta": "a", "finish": FINISH}]
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}')
    common = ["generate", "x", "--deployment", "d", "--top-k", "3", "--session", "s"]
    for options in (["--json-schema", str(schema)], ["--choice", "a", "--choice", "b"], ["--regex", "a+"]):
        assert (await luthier(*common, *options)).code == 0
    both = await luthier(*common, "--regex", "a", "--choice", "b")
    of_schema, of_choices, of_regex = services.asked["GenerateStream"]
    assert (of_schema.sampling.json_schema, of_schema.sampling.top_k, of_schema.session_id) == (
        '{"type": "object"}',
        3,
        "s",
    )
    assert (list(of_choices.sampling.choices.texts), of_regex.sampling.regex) == (["a", "b"], "a+")
    assert (both.code, "at most one" in both.err) == (64, True)


async def test_a_file_is_answered_line_by_line_in_batches(services, luthier, tmp_path):
    answers = [{"answer": {"text": "yes"}}, {"error": {"code": 3, "message": "too long"}}]
    services.answers["BatchGenerate"] = {"results": answers}
    asked = tmp_path / "asked.jsonl"
    asked.write_text('{"prompt": "p"}\n\n' + '{"messages": [{"role": "user", "content": "m"}]}\n' * 64)
    found = await luthier("batch", str(asked), "--deployment", "d", "--max-tokens", "3")
    assert found.code == 0
    assert (found.lines[0]["answer"]["text"], found.lines[1]["error"]["message"]) == ("yes", "too long")
    first, second = services.asked["BatchGenerate"]
    assert (len(first.inputs), len(second.inputs), first.sampling.max_tokens) == (64, 1, 3)
    assert first.inputs[0].prompt == "p"
    assert second.inputs[0].conversation.messages[0].content == "m"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"text": "x"}'])
async def test_a_file_that_cannot_be_asked_is_refused_before_a_call(services, luthier, tmp_path, content):
    asked = tmp_path / "asked.jsonl"
    asked.write_text(content)
    assert (await luthier("batch", str(asked), "--deployment", "d")).code == 64
    assert "BatchGenerate" not in services.asked


async def test_a_score_is_a_table_with_its_total(services, luthier):
    token = {"token_id": 7, "text": " Paris", "logprob": -0.25}
    services.answers["Score"] = {"tokens": [token], "total_logprob": -0.25, "response_id": "r-1"}
    found = await luthier("score", "The capital of France is", " Paris", "--base", "m")
    assert "' Paris'" in found.out
    assert "total -0.250" in found.out
    as_json = await luthier("score", "hi", " Paris", "--base", "m", "--chat", "--json")
    assert as_json.lines[0]["tokens"][0]["token_id"] == 7
    plain, chat = services.asked["Score"]
    assert (plain.prompt_text, chat.conversation.messages[0].role) == ("The capital of France is", "user")


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
