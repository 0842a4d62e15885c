"""The OpenAI-compatible endpoint's front over a real socket, with a stand-in for the engine's application."""

from __future__ import annotations

import asyncio
import json
import pathlib
import socket
from typing import Any

import pytest
from luthierd.inference.config import InferenceConfig
from luthierd.inference.domain.completion import Sampling, Target, Turn
from luthierd.inference.domain.engine import EngineState
from luthierd.inference.domain.feedback import Opinion, PolicyChange, Rating
from luthierd.inference.engine.host import EngineStatus
from luthierd.inference.http.server import HttpServer
from luthierd.rpc.server import PortInUseError
from prometheus_client import REGISTRY
from support.http_front import ASK, OF_BETA, R1, R2, SUPPORT, as_tenant, complete, served
from support.inference_fakes import BASE, TIMEOUT_S
from support.inference_parts import Parts
from support.waiting import until


async def test_one_name_is_two_deployments_for_two_tenants_and_the_headers_say_who_answered() -> None:
    async with served() as (parts, client):
        mine, theirs = await complete(client), await complete(client, tenant="beta")
    assert [(answer.json()["model"], answer.json()["text"]) for answer in (mine, theirs)] == [
        ("support", "I am acme-r1"),
        ("support", "I am beta-r1"),
    ]
    assert mine.headers["x-luthier-loaded-adapter"] == R1.loaded_adapter
    assert mine.headers["x-luthier-deployment-revision"] == "1"
    assert mine.headers["x-luthier-response-id"].startswith("r-")
    assert mine.headers["x-request-id"] != theirs.headers["x-request-id"]
    assert len({request.cache_salt for request in parts.engine.requests}) == 2


@pytest.mark.parametrize("model", [SUPPORT, BASE.name])
async def test_a_full_name_is_a_model_too(model: str) -> None:
    async with served() as (_, client):
        response = await complete(client, {**ASK, "model": model})
    assert response.json()["model"] == model


async def test_models_are_those_of_the_tenant_and_the_base_model() -> None:
    async with served() as (parts, client):
        await parts.deployments.deploy("tenants/beta/deployments/other", OF_BETA.name)
        listed = (await client.get("/v1/models", headers=as_tenant("acme"))).json()
    assert [card["id"] for card in listed["data"]] == ["support", BASE.name]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/v1/unload_lora_adapter"),
        ("GET", "/metrics"),
        ("GET", "/docs"),
        ("POST", "/v1/../v1/load_lora_adapter"),
        ("POST", "/invocations"),
        ("GET", "/version"),
    ],
)
async def test_only_the_listed_routes_exist(method: str, path: str) -> None:
    async with served() as (_, client):
        response = await client.request(method, path, headers=as_tenant(), json={})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "ROUTE_UNKNOWN")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "/v1/completions"])
async def test_a_request_without_a_good_token_is_refused(path: str) -> None:
    method = "GET" if path == "/v1/models" else "POST"
    async with served() as (_, client):
        for headers in ({}, {"authorization": "Bearer x"}, as_tenant(ttl_s=-60)):
            response = await client.request(method, path, headers=headers, json=ASK)
            assert (response.status_code, response.json()["error"]["code"]) == (401, "UNAUTHENTICATED")
        response = await client.request(method, path, headers=as_tenant(scopes=("curation.read",)), json=ASK)
    assert response.status_code == 403


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({**ASK, "model": "none"}, 404, "model_not_found"),
        ({**ASK, "model": "tenants/beta/deployments/support"}, 403, "PERMISSION_DENIED"),
        ({**ASK, "model": "baseModels/none"}, 404, "model_not_found"),
        ({**ASK, "model": "baseModels/other"}, 409, "ENGINE_HOLDS_OTHER_BASE_MODEL"),
        ({**ASK, "model": 3}, 400, "INVALID_ARGUMENT"),
        ({**ASK, "cache_salt": "mine"}, 400, "INVALID_ARGUMENT"),
        ({**ASK, "chat_template": "{{ 1 }}"}, 400, "INVALID_ARGUMENT"),
        ({**ASK, "n": 100}, 400, "INVALID_ARGUMENT"),
        ([], 400, "INVALID_ARGUMENT"),
        ({**ASK, "user": "x" * 200_000}, 413, "BODY_TOO_LARGE"),
    ],
)
async def test_a_bad_body_is_refused_in_the_form_of_openai(body: Any, status: int, code: str) -> None:
    async with served() as (_, client):
        response = await complete(client, body)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert error["message"]
    assert "retry-after" not in response.headers


async def test_a_session_id_has_a_bound() -> None:
    async with served() as (_, client):
        for length, status in ((128, 200), (129, 400)):
            headers = as_tenant() | {"x-luthier-session-id": "s" * length}
            assert (await client.post("/v1/chat/completions", json=ASK, headers=headers)).status_code == status


async def test_a_body_that_is_no_json_is_refused() -> None:
    async with served() as (_, client):
        response = await client.post("/v1/completions", content=b"{", headers=as_tenant())
    assert response.status_code == 400


async def test_a_mirror_answers_a_copy_of_what_was_asked_over_http() -> None:
    before = REGISTRY.get_sample_value("luthier_mirror_skipped_total", {"reason": "tools"}) or 0
    async with served() as (parts, client):
        await parts.deployments.deploy(SUPPORT, R2.name, stage_only=True)
        await parts.deployments.set_traffic(SUPPORT, {}, mirror_revision=R2.name)
        mirroring = asyncio.create_task(parts.mirror.run())
        answer = await complete(client, {**ASK, "max_tokens": 7, "temperature": 0})
        await complete(client, {**ASK, "tools": [{"function": {"name": "look_up"}}]})  # no copy can be asked this way
        await until(lambda: len(parts.engine.requests) == 3)
        await parts.mirror.answered()
        mirroring.cancel()
    copy = next(one for one in parts.engine.requests if one.adapter and one.adapter.folder.name == "acme-r2")
    assert answer.json()["text"] == "I am acme-r1"
    assert (copy.prompt_ids, copy.sampling) == (tuple(b"hi"), Sampling(max_tokens=7))
    assert len(parts.engine.requests) == 3
    assert (REGISTRY.get_sample_value("luthier_mirror_skipped_total", {"reason": "tools"}) or 0) == before + 1


async def test_the_lease_is_held_until_the_response_has_ended() -> None:
    async with served() as (parts, client):
        parts.engine.gate.clear()
        early = asyncio.create_task(complete(client))
        await parts.engine.began.wait()
        await parts.deployments.deploy(SUPPORT, R2.name)
        await parts.deployments.delete(SUPPORT)
        loaded_adapter = parts.loaded_adapters.get(R1)
        assert loaded_adapter is not None
        assert loaded_adapter.lease_count == 1
        parts.engine.gate.set()
        response = await early
        await parts.loaded_adapters.settled()
    assert (response.json()["text"], response.headers["x-luthier-loaded-adapter"]) == (
        "I am acme-r1",
        R1.loaded_adapter,
    )
    assert loaded_adapter.lease_count == 0


async def test_an_engine_that_is_not_there_is_unavailable_with_a_time_to_come_back() -> None:
    async with served() as (parts, client):
        ready = await client.get("/health")
        parts.host.status = EngineStatus(state=EngineState.STARTING)
        parts.host._engine = None
        response = await complete(client)
        starting = await client.get("/health")
    assert (ready.status_code, starting.status_code) == (200, 503)
    assert (response.status_code, response.headers["retry-after"]) == (503, "10")


async def test_a_full_server_says_so() -> None:
    target = Target(Target.DEPLOYMENT, SUPPORT)
    async with served(max_in_flight=1) as (parts, client), parts.completions.leases.leased(target, tenant="acme"):
        response = await complete(client)
    assert (response.status_code, response.json()["error"]["code"]) == (429, "QUEUE_FULL")


def lease_count(parts: Parts) -> int:
    """Of the deployment's loaded adapter."""
    loaded_adapter = parts.loaded_adapters.get(R1)
    assert loaded_adapter is not None
    return loaded_adapter.lease_count


async def asked_without_reading(port: int, content: str) -> socket.socket:
    """A connection on which a stream was asked for; nobody reads it."""
    body = json.dumps({**ASK, "stream": True, "messages": [{"role": "user", "content": content}]})
    headers = {"host": "test", "content-length": str(len(body)), "connection": "close", **as_tenant()}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", port))
    await loop.sock_sendall(client, f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n{body}".encode())
    return client


async def read_to_end(client: socket.socket) -> bytes:
    """Everything until the server closes."""
    with client:
        parts = []
        while part := await asyncio.get_running_loop().sock_recv(client, 1 << 20):
            parts.append(part)
    return b"".join(parts)


async def test_a_client_that_does_not_read_loses_its_slot_its_lease_and_its_connection() -> None:
    async with served(reader_limit_s=0.2, max_answer_s=600.0, max_num_seqs=1) as (parts, client):
        async with asyncio.timeout(TIMEOUT_S):
            stuck = await asked_without_reading(client.base_url.port or 0, "without end")
            await parts.engine.stopped.wait()
            await until(lambda: lease_count(parts) == 0)
            assert (await complete(client)).status_code == 200, "the only slot is free"
            received = await read_to_end(stuck)
    assert (parts.engine.aborted, b"DONE" in received, received[9:12]) == (1, False, b"200")


async def test_an_answer_that_is_read_late_held_its_slot_only_while_it_was_made() -> None:
    async with served(max_num_seqs=1) as (parts, client), asyncio.timeout(TIMEOUT_S):
        late = await asked_without_reading(client.base_url.port or 0, "12 MiB")
        await parts.engine.began.wait()
        await until(lambda: lease_count(parts) == 0)
        assert (await complete(client)).status_code == 200
        received = await read_to_end(late)
    assert (len(received) > 12 * 2**20, received.count(b"data: "), parts.engine.aborted) == (True, 3, 0)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_client_that_hangs_up_frees_its_slot_and_its_lease(*, stream: bool) -> None:
    async with served(max_answer_s=600.0) as (parts, client), asyncio.timeout(TIMEOUT_S):
        parts.engine.gate.clear()
        asked = asyncio.create_task(complete(client, {**ASK, "stream": stream}))
        await parts.engine.began.wait()
        assert lease_count(parts) == 1
        asked.cancel()
        await parts.engine.stopped.wait()
        await until(lambda: lease_count(parts) == 0)
        parts.engine.gate.set()
        assert (await complete(client)).status_code == 200
    assert parts.engine.aborted == 1


async def test_an_answer_that_takes_longer_than_its_caller_waits_is_stopped_and_says_so() -> None:
    async with served(max_answer_s=600.0) as (parts, client), asyncio.timeout(TIMEOUT_S):
        parts.engine.gate.clear()
        headers = as_tenant() | {"x-luthier-timeout-s": "0.05"}
        response = await client.post("/v1/chat/completions", json=ASK, headers=headers)
        assert (parts.engine.aborted, lease_count(parts)) == (1, 0)
    assert (response.status_code, response.json()["error"]["code"]) == (504, "DEADLINE_EXCEEDED")


async def test_a_stream_that_is_over_its_time_ends_with_an_error_event() -> None:
    async with served(max_answer_s=0.2) as (parts, client):
        parts.engine.gate.clear()
        response = await complete(client, {**ASK, "stream": True})
        assert parts.engine.aborted == 1
    events = [json.loads(line.removeprefix("data: ")) for line in response.text.splitlines() if line]
    assert events[:2] == ["I ", "am "]
    assert events[2]["error"]["code"] == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize("given", ["soon", "0", "-1", "nan", "inf"])
async def test_a_time_that_is_none_is_refused(given: str) -> None:
    async with served() as (_, client):
        headers = as_tenant() | {"x-luthier-timeout-s": given}
        response = await client.post("/v1/chat/completions", json=ASK, headers=headers)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "x-luthier-timeout-s")


def counted(direction: str) -> float:
    """Tokens of deployments' answers that were counted so far."""
    return REGISTRY.get_sample_value(f"luthier_{direction}_tokens_total", {"target": "deployment"}) or 0.0


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_the_tokens_of_an_answer_are_counted(*, stream: bool) -> None:
    before = (counted("prompt"), counted("completion"))
    async with served() as (_, client):
        await complete(client, {**ASK, "stream": stream})
    assert (counted("prompt") - before[0], counted("completion") - before[1]) == (1, 3)


async def test_more_prompts_than_a_batch_may_have_are_refused() -> None:
    async with served() as (_, client):
        many = await client.post(
            "/v1/completions", json={"model": "support", "prompt": ["x"] * 65}, headers=as_tenant()
        )
    assert (many.status_code, many.json()["error"]["param"]) == (400, "prompt")


async def test_an_unknown_failure_has_an_id_and_no_detail() -> None:
    async with served() as (_, client):
        response = await complete(client, {**ASK, "messages": [{"role": "user", "content": "crash"}]})
    assert (response.status_code, response.json()["error"]["code"]) == (500, "INTERNAL")
    assert "secret" not in response.text


async def test_a_taken_port_is_named(tmp_path: pathlib.Path) -> None:
    async with served() as (parts, client):
        with pytest.raises(PortInUseError, match="LUTHIER_INFERENCE_HTTP_PORT"):
            HttpServer(parts.front, InferenceConfig(http_port=client.base_url.port or 0, home=tmp_path))


async def test_an_answer_over_http_can_be_spoken_about_and_is_captured_where_its_tenant_wants_it() -> None:
    async with served() as (parts, client):
        capturing = parts.capture.capturing
        await capturing.policies.update("tenants/acme/capturePolicy", PolicyChange(enabled=True))
        mine, theirs = await complete(client), await complete(client, tenant="beta")
        ids = [response.headers["x-luthier-response-id"] for response in (mine, theirs)]
        kept = await capturing.feedbacks.record("tenants/acme", ids[0], Opinion(rating=Rating.GOOD))
        texts = await parts.capture.store.texts(ids)
    assert (kept.response.target, kept.response.loaded_adapter) == (SUPPORT, R1.loaded_adapter)
    assert list(texts) == [ids[0]]
    assert texts[ids[0]].messages == (Turn("user", "hi"),)
