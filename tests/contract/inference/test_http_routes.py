"""The routes of the OpenAI-compatible endpoint: what each answers, under which path and method, and to whom."""

from __future__ import annotations

import base64
import json
import logging
import struct
from typing import Any

import httpx
import pytest
from luthierd.errors import UnavailableError
from luthierd.inference.domain.errors import EngineDiedError, PromptTooLongError
from luthierd.inference.engine.engine import OpenAIApplication, OpenAICall
from support.http_front import ASK, OF_BETA, R1, SUPPORT, as_tenant, complete, served
from support.inference_fakes import BASE, FakeEngine

INPUTS = {"model": "support", "input": ["hi", "you"]}


async def get(client: httpx.AsyncClient, path: str, **options: Any) -> httpx.Response:
    return await client.get(path, headers=as_tenant(**options))


@pytest.mark.parametrize(
    ("name", "root", "parent"),
    [
        ("support", R1.name, BASE.name),
        (SUPPORT, R1.name, BASE.name),
        (BASE.name, BASE.name, None),
        ("adapters/support@r1", R1.name, BASE.name),
    ],
)
async def test_a_model_can_be_looked_up_under_every_name_and_says_how_long_a_prompt_may_be(
    name: str, root: str, parent: str | None
) -> None:
    async with served() as (_, client):
        card = (await get(client, f"/v1/models/{name}")).json()
    assert (card["id"], card["root"], card["parent"]) == (name, root, parent)
    assert card["max_model_len"] == FakeEngine.window


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("none", 404, "model_not_found"),
        ("baseModels/other", 404, "model_not_found"),
        ("adapters/support@r9", 404, "model_not_found"),
        ("adapters/support", 400, "INVALID_ARGUMENT"),
        ("UPPER", 400, "INVALID_ARGUMENT"),
        ("tenants/beta/deployments/support", 403, "PERMISSION_DENIED"),
        (OF_BETA.name, 403, "PERMISSION_DENIED"),
    ],
)
async def test_a_model_that_is_not_there_or_not_the_callers_is_refused(name: str, status: int, code: str) -> None:
    async with served() as (_, client):
        response = await get(client, f"/v1/models/{name}")
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize("name", ["adapters/support@r1", R1.name])
async def test_an_adapter_revision_answers_under_its_name_only_to_a_caller_who_may_evaluate(name: str) -> None:
    async with served(deploy=False) as (parts, client):
        await parts.host.engine_for(BASE)
        answer = await complete(client, {**ASK, "model": name})
        headers = as_tenant(scopes=("inference.generate",))
        refusal = await client.post("/v1/chat/completions", json={**ASK, "model": name}, headers=headers)
    assert (answer.json()["text"], answer.json()["model"]) == ("I am acme-r1", name)
    assert answer.headers["x-luthier-loaded-adapter"] == R1.loaded_adapter
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (403, "PERMISSION_DENIED")


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions/", "//v1/chat/completions", "/v1//chat///completions//", "/v1/chat/completions"]
)
async def test_slashes_at_the_end_or_doubled_do_not_matter(path: str) -> None:
    async with served() as (_, client):
        url = f"{str(client.base_url).rstrip('/')}{path}"
        assert (await client.post(url, json=ASK, headers=as_tenant())).status_code == 200


async def test_head_is_a_get_without_a_body_and_options_names_the_methods() -> None:
    async with served() as (_, client):
        head = await client.head("/v1/models", headers=as_tenant())
        health = await client.head("/health")
        options = await client.options("/v1/chat/completions")
        wrong = await client.request("PUT", "/v1/chat/completions", headers=as_tenant(), json={})
        unknown = await client.options("/v1/none")
    assert (head.status_code, head.content, int(head.headers["content-length"]) > 50) == (200, b"", True)
    assert (health.status_code, unknown.status_code) == (200, 404)
    assert (options.status_code, options.headers["allow"]) == (204, "POST, OPTIONS")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST, OPTIONS")
    assert wrong.json()["error"]["code"] == "METHOD_UNKNOWN"


async def test_a_path_that_is_nearly_right_is_answered_with_the_right_one() -> None:
    async with served() as (_, client):
        response = await client.post("/v1/chat/completion", json=ASK, headers=as_tenant())
    assert response.status_code == 404
    assert "did you mean /v1/chat/completions?" in response.json()["error"]["message"]


PREFLIGHT = {"origin": "https://a.test", "access-control-request-method": "POST"}


async def test_pages_of_other_origins_may_call_only_if_they_are_configured() -> None:
    async with served() as (_, client):
        off = await client.options("/v1/chat/completions", headers=PREFLIGHT)
    assert "access-control-allow-origin" not in off.headers
    async with served(http_allowed_origins="https://a.test, https://b.test") as (_, client):
        wants = {"access-control-request-headers": "authorization,content-type"}
        on = await client.options("/v1/chat/completions", headers=PREFLIGHT | wants)
        other = await client.options("/v1/chat/completions", headers=PREFLIGHT | {"origin": "https://c.test"})
        answer = await client.post("/v1/chat/completions", json=ASK, headers=as_tenant() | {"origin": "https://a.test"})
    assert (on.status_code, on.headers["access-control-allow-origin"]) == (200, "https://a.test")
    assert "access-control-allow-origin" not in other.headers
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://a.test")
    assert "x-luthier-response-id" in answer.headers["access-control-expose-headers"]


@pytest.mark.parametrize("given", ["hi", ["hi", "you"], [104, 105], [[104, 105], [121]]])
async def test_embeddings_are_made_of_texts_and_of_token_ids_as_floats_and_in_base64(given: Any) -> None:
    async with served() as (_, client):
        body = {**INPUTS, "input": given}
        floats = await client.post("/v1/embeddings", json=body, headers=as_tenant())
        packed = await client.post("/v1/embeddings", json={**body, "encoding_format": "base64"}, headers=as_tenant())
    vectors = [one["embedding"] for one in floats.json()["data"]]
    unpacked = [list(struct.unpack("<2f", base64.b64decode(one["embedding"]))) for one in packed.json()["data"]]
    assert vectors == unpacked
    assert vectors[0] == [1.0, 2.0], "the fake engine's second number is the count of tokens"
    assert floats.json()["usage"]["prompt_tokens"] == sum(vector[1] for vector in vectors)
    assert floats.headers["x-luthier-loaded-adapter"] == R1.loaded_adapter


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["a"] * 65}, "input"),
        ({"input": [999]}, "input"),
        ({"input": "x" * 64}, "input"),
        ({"dimensions": 3}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"),
    ],
)
async def test_an_embedding_that_cannot_be_made_names_its_field(more: dict[str, Any], param: str) -> None:
    async with served() as (_, client):
        response = await client.post("/v1/embeddings", json={**INPUTS, **more}, headers=as_tenant())
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_an_engine_that_cannot_embed_is_501() -> None:
    async with served() as (parts, client):
        parts.engine.cannot_embed = True
        response = await client.post("/v1/embeddings", json=INPUTS, headers=as_tenant())
    assert (response.status_code, response.json()["error"]["code"]) == (501, "ENGINE_CANNOT_EMBED")


HOSTILE = {
    "deep": b'{"model": "support", "messages": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "deep object": b'{"model": "support", "response_format": ' + b'{"a":' * 300 + b"1" + b"}" * 300 + b"}",
    "nul": b'{"model": "support", "messages": [{"role": "user", "content": "a\\u0000b"}]}',
    "nul in a name": b'{"model": "sup\\u0000port", "messages": [{"role": "user", "content": "a"}]}',
    "surrogate": b'{"model": "support", "messages": [{"role": "user", "content": "\\ud800"}]}',
    "surrogate in a key": b'{"model": "support", "\\udc00": 1}',
    "not UTF-8": b'{"model": "support", "messages": [{"role": "user", "content": "\xff"}]}',
    "twice": b'{"model": "support", "model": "other", "messages": []}',
    "surrogate twice": b'{"model": "support", "\\udc00": 1, "\\udc00": 1}',
    "infinite": b'{"model": "support", "temperature": 1e999}',
    "nan": b'{"model": "support", "temperature": NaN}',
    "long number": b'{"model": "support", "seed": ' + b"9" * 5000 + b"}",
    "empty": b"",
    "null": b"null",
}


@pytest.mark.parametrize("kind", HOSTILE)
async def test_a_hostile_body_is_the_callers_fault(kind: str) -> None:
    async with served() as (_, client):
        response = await client.post("/v1/chat/completions", content=HOSTILE[kind], headers=as_tenant())
    assert (response.status_code, response.json()["error"]["code"]) == (400, "INVALID_ARGUMENT")
    assert response.json()["error"]["param"]


def failing(error: Exception, *, after: bytes = b"") -> Any:
    """An application that fails, with `after` sent before as an event."""

    def make(_: FakeEngine) -> OpenAIApplication:
        async def application(call: OpenAICall, send: Any) -> None:
            if after:
                headers = [(b"content-type", b"text/event-stream")]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": after, "more_body": True})
            raise error

        return application

    return make


@pytest.mark.parametrize(
    ("error", "status", "code", "param"),
    [
        (EngineDiedError(), 503, "ENGINE_DIED", None),
        (UnavailableError("later"), 503, "UNAVAILABLE", None),
        (PromptTooLongError(99, 64, field="messages"), 400, "context_length_exceeded", "messages"),
    ],
)
async def test_a_failure_has_a_status_openais_code_and_our_reason(
    error: Any, status: int, code: str, param: str | None
) -> None:
    async with served(application=failing(error)) as (_, client):
        response = await complete(client)
    found = response.json()["error"]
    assert (response.status_code, found["code"], found["reason"], found["param"]) == (status, code, error.reason, param)
    assert ("retry-after" in response.headers) == (status == 503)


async def test_a_stream_that_fails_ends_with_an_event_of_the_error_and_nothing_after_it() -> None:
    async with served(application=failing(EngineDiedError(), after=b'data: {"choices": []}\n\n')) as (_, client):
        chat = await complete(client, {**ASK, "stream": True})
        body = {"model": "support", "input": "hi", "stream": True}
        response = await client.post("/v1/responses", json=body, headers=as_tenant())
    assert chat.status_code == response.status_code == 200
    last = chat.text.strip().rpartition("\n")[2]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "ENGINE_DIED"
    *_, name, data = response.text.strip().splitlines()
    event = json.loads(data.removeprefix("data: "))
    assert (name, event["type"], event["code"], event["sequence_number"]) == ("event: error", "error", "ENGINE_DIED", 1)


async def test_every_request_leaves_a_line_in_the_log_without_texts(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="luthierd.inference.http.front")
    async with served() as (_, client):
        await complete(client)
        await client.post("/v1/chat/completions?token=secret", json={**ASK, "model": "none"}, headers=as_tenant())
    lines = [record.__dict__ for record in caplog.records if record.getMessage() == "http"]
    assert [(line["method"], line["path"], line["status"], line["tenant"]) for line in lines] == [
        ("POST", "/v1/chat/completions", 200, "acme"),
        ("POST", "/v1/chat/completions", 404, "acme"),
    ]
    assert (lines[0]["target"], lines[0]["bytes"] > 0, lines[1]["reason"]) == (SUPPORT, True, "DEPLOYMENT_NOT_FOUND")
