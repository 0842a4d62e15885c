"""Every field of every HTTP route with boundary values, and what is no body, header or path: no answer is a 500.

What is refused has OpenAI's form, and a 400 names its field. FUZZ_VALUES=100 FUZZ_SEED=7 tries more.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from luthierd.inference.engine.engine import OpenAIApplication, OpenAICall
from luthierd.inference.http import fields
from support.http_front import as_tenant, served
from support.inference_fakes import FakeEngine
from support.inference_parts import Parts
from support.serving import bearer
from support.strangers import STRANGERS

VALUES_PER_FIELD = int(os.environ.get("FUZZ_VALUES", "3"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))

MESSAGES = '[{"role": "user", "content": "hi"}]'
ROUTES: dict[str, tuple[type[fields.Body], dict[str, str]]] = {
    "/v1/chat/completions": (fields.Chat, {"messages": MESSAGES}),
    "/v1/completions": (fields.Completions, {"prompt": '"hi"'}),
    "/v1/responses": (fields.Responses, {"input": '"hi"'}),
    "/v1/embeddings": (fields.Embeddings, {"input": '"hi"'}),
    "/tokenize": (fields.Tokenize, {"prompt": '"hi"'}),
    "/v1/tokenize": (fields.Tokenize, {"messages": MESSAGES}),
    "/detokenize": (fields.Detokenize, {"tokens": "[1, 2]"}),
    "/v1/detokenize": (fields.Detokenize, {"tokens": "[]"}),
}
"""Their fields, and a request that is right but for the model: JSON by field."""
READ = ("/v1/models", "/v1/models/support", "/health")

DEEP = "[" * 20_000 + "]" * 20_000
VALUES = (
    "null",
    "true",
    "0",
    "-0.0",
    "-1",
    "1.5",
    "64.0",
    '"64"',
    "1e308",
    "1e999",
    "-1e999",
    "NaN",
    "Infinity",
    "9" * 5000,
    str(2**31),
    str(2**63),
    str(-(2**63) - 1),
    '""',
    '" "',
    '"\\u0000"',
    '"\\ud800"',
    '"\\ud83d\\ude00"',
    '"' + "x" * 8000 + '"',
    '"(a+)+$"',
    '"required"',
    "[]",
    "[[]]",
    "[null]",
    '[""]',
    "[-1]",
    "[9999999999999999999]",
    '["a", 1]',
    '[{"role": "user"}]',
    '[{"role": "user", "content": [{"type": "text"}]}]',
    '[{"role": "tool", "content": "x", "tool_call_id": 3}]',
    '[{"role": "assistant", "tool_calls": [{"function": {"name": ""}}]}]',
    '[{"type": "function", "function": {"name": "f", "parameters": {"type": 3}}}]',
    "[" + "{}," * 5000 + "{}]",
    "{}",
    '{"": {}}',
    '{"type": "json_schema", "json_schema": []}',
    '{"type": "json_schema", "json_schema": {"name": "a", "schema": {"$ref": "#"}}}',
    '{"json": "{", "regex": "("}',
    '{"regex": "(a|b"}',
    '{"choice": "a"}',
    '{"choice": [1, null]}',
    '{"type": "function", "function": null}',
    '{"a": 1, "a": 2}',
    '{"\\ud800": 1}',
    DEEP,
)
BODIES = (
    b"",
    b" ",
    b"{",
    b"null",
    b"[]",
    b'"model"',
    b"\xff\xfe{}",
    b"\xef\xbb\xbf{}",
    '{"model": "support"}'.encode("utf-16"),
    b'{"model": "support", "model": 3}',
    b"\0",
    b"--x\r\ncontent-disposition: form-data\r\n\r\n",
    DEEP.encode(),
    b'{"a":' * 20_000,
    b'{"model": "support", "' + b"x" * 8000 + b'": 1}',
)
MODELS = (
    "support",
    "",
    " ",
    "..",
    "\0",
    "é",
    "\ud7ff",
    "x" * 300,
    "x" * 8000,
    "tenants/acme/deployments/support",
    "tenants/acme/deployments/",
    "tenants/beta/deployments/support",
    "tenants/",
    "adapters/support@r1",
    "adapters/support@r" + "9" * 40,
    "adapters/@",
    "tenants/acme/adapters/support/revisions/r" + "9" * 40,
    "baseModels/",
    "baseModels/" + "x" * 8000,
)
HEADERS = {
    "authorization": ("Bearer \xff", "Bearer " + "x" * 8000, "Bearer a.b.c.d", "Bearer e30.e30.e30"),
    "x-luthier-timeout-s": ("nan", "inf", "-inf", "1e999", "-1", "0", "0x10", "1_0", "", "x" * 5000, "\xb2"),
    "x-luthier-session-id": ("x" * 5000, "\xff", "a\tb"),
    "x-request-id": ("x" * 5000, "\xff", "a b"),
    "content-type": ("text/plain", "multipart/form-data", "application/json; charset=utf-16", "\xff"),
    "content-encoding": ("gzip", "br"),
    "accept": ("text/event-stream", "\xff"),
    "origin": ("null", "https://evil.example", "\xff"),
    "access-control-request-method": ("POST", "\xff"),
}
PATHS = (
    "/",
    "//",
    "/v1",
    "/v1/models/",
    "/v1//models",
    "/v1/models/%00",
    "/v1/models/%ff",
    "/v1/models/..%2f..",
    "/v1/models/%ed%a0%80",
    "/v1/models/" + "x" * 8000,
    "/v1/models/tenants%2Fbeta%2Fdeployments%2Fsupport",
    "/v1/models?" + "a=b&" * 1000,
    "/v1/chat/completions/",
    "/%2e%2e/health",
)


def tolerant(_engine: FakeEngine) -> OpenAIApplication:
    """Answers whatever passed the checks."""

    async def application(_call: OpenAICall, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": b"{}"})

    return application


def object_of(given: dict[str, str]) -> bytes:
    """A JSON object of JSON by key, which may be what no encoder would write."""
    return ("{" + ", ".join(f'"{key}": {one}' for key, one in given.items()) + "}").encode()


def requests(rng: random.Random, values_per_field: int) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, path, and what else httpx takes."""
    token = as_tenant()
    for route, (kind, right) in ROUTES.items():
        base = {"model": '"support"', **right}
        for name in (*kind.__struct_fields__, "unknown"):
            for value in rng.sample(VALUES, min(values_per_field, len(VALUES))):
                given = {**base, name: value}
                yield "POST", route, {"content": object_of(given), "headers": token}
        for model in rng.sample(MODELS, min(values_per_field, len(MODELS))):
            yield "POST", route, {"content": object_of(base | {"model": json.dumps(model)}), "headers": token}
        for body in rng.sample(BODIES, min(values_per_field, len(BODIES))):
            yield "POST", route, {"content": body, "headers": token}
        for name, values in HEADERS.items():
            body = object_of(base)
            for value in rng.sample(values, 1):
                yield "POST", route, {"content": body, "headers": {**token, name: value.encode("latin-1")}}
    for method in ("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE", "X-Y"):
        for path in (*READ, *PATHS, *ROUTES):
            yield method, path, {"headers": token}


def fault_of(method: str, response: httpx.Response) -> str:
    """What is wrong with the answer; empty if nothing is."""
    if response.status_code == 500 or response.status_code > 504:
        return f"{response.status_code} {response.text[:200]}"
    if response.status_code < 400 or method == "HEAD":
        return ""
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code} without an error of ours: {response.text[:200]}"
    if response.status_code == 400 and not error.get("param") and "HTTP/1.1" not in error["message"]:
        return f"400 without a field: {response.text[:200]}"
    return "" if len(response.content) < 8000 else f"{response.status_code} with {len(response.content)} bytes"


async def test_no_request_is_an_error_of_the_server() -> None:
    wrong = []
    async with served(application=tolerant, max_http_body_bytes=1_000_000) as (_, client):
        for method, path, given in requests(random.Random(SEED), VALUES_PER_FIELD):
            response = await client.request(method, path, timeout=20, **given)
            if fault := fault_of(method, response):
                wrong.append(f"{method} {path[:60]} {given.get('content', b'')[:160]!r}: {fault}")
    assert wrong == []


# --- who may ask ---


@contextlib.asynccontextmanager
async def guarded() -> AsyncIterator[tuple[Parts, httpx.AsyncClient]]:
    async with served(application=tolerant) as found:
        yield found


def asked() -> Iterator[tuple[str, str, bytes]]:
    """Every route that needs a token, asked rightly."""
    for route, (_, right) in ROUTES.items():
        body = {"model": '"support"', **right}
        yield "POST", route, object_of(body)
    for route in READ:
        if route != "/health":
            yield "GET", route, b""


@pytest.mark.parametrize("header", STRANGERS.values(), ids=STRANGERS.keys())
async def test_no_route_answers_a_stranger(header: str | None) -> None:
    headers = {} if header is None else {"authorization": header.strip()}
    async with guarded() as (parts, client):
        for method, path, content in asked():
            response = await client.request(method, path, content=content, headers=headers)
            assert (response.status_code, response.json()["error"]["code"]) == (401, "UNAUTHENTICATED"), path
        assert parts.engine.requests == []


async def test_no_route_answers_a_token_without_its_scope() -> None:
    async with guarded() as (parts, client):
        for method, path, content in asked():
            headers = dict(bearer(scopes=("curation.read", "inference.read", "inference.deploy")))
            response = await client.request(method, path, content=content, headers=headers)
            assert (response.status_code, response.json()["error"]["code"]) == (403, "PERMISSION_DENIED"), path
            right = await client.request(method, path, content=content, headers=as_tenant())
            assert right.status_code == 200, path
        assert parts.engine.requests == []


async def test_the_answer_to_another_tenant_does_not_depend_on_what_exists() -> None:
    exists, missing = "tenants/beta/deployments/support", "tenants/beta/deployments/missing"
    async with guarded() as (_, client):
        for method, path, content in asked():
            if path == "/v1/models":
                continue
            said = []
            for name in (exists, missing):
                where = f"/v1/models/{name}" if method == "GET" else path
                body = content.replace(b'"support"', json.dumps(name).encode())
                response = await client.request(method, where, content=body, headers=as_tenant())
                said.append((response.status_code, response.text.replace(name, "NAME")))
            assert said[0] == said[1], path
            assert said[0][0] in (403, 404), path
