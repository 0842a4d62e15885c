"""The OpenAI-compatible endpoint's front over a real socket, with a stand-in for the engine's application."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
from luthierd.inference.config import InferenceConfig
from luthierd.inference.domain.completion import Sampling
from luthierd.inference.engine.engine import EngineRequest, OpenAIApplication, OpenAICall
from luthierd.inference.http.server import HttpServer

from support.inference_fakes import FakeEngine, revision
from support.inference_parts import Parts, make_parts
from support.serving import bearer

R1, R2 = revision("r1"), revision("r2")
OF_BETA = revision("r1", tenant="beta")
SUPPORT = "tenants/acme/deployments/support"
ASK = {"model": "support", "messages": [{"role": "user", "content": "hi"}]}


def stand_in(engine: FakeEngine) -> OpenAIApplication:
    """Answers as the engine's own application would: through the engine, with the body's model as its name."""

    async def application(call: OpenAICall, send: Any) -> None:
        body, usage = call.body, call.usage
        if body["messages"][0]["content"] == "crash":
            raise RuntimeError("secret")
        request = EngineRequest(
            request_id="1", prompt_ids=(1,), sampling=Sampling(), adapter=call.adapter, cache_salt=call.cache_salt
        )
        is_stream = body.get("stream", False)
        kind = b"text/event-stream" if is_stream else b"application/json"
        start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]}
        if is_stream:
            await send(start)
        text, usage.prompt_token_count = "", 1
        async with (
            call.take_slot(prompt_token_count=1, max_answer_token_count=8, slot_count=1) as slot,
            contextlib.aclosing(engine.generate(request)) as deltas,
        ):
            async for delta in deltas:
                slot.answer_token_count += 1
                usage.completion_token_count += 1
                text += delta.text
                if is_stream:
                    event = f"data: {json.dumps(delta.text)}\n\n".encode()
                    await send({"type": "http.response.body", "body": event, "more_body": True})
                for _ in range({"12 MiB": 16, "without end": sys.maxsize}.get(body["messages"][0]["content"], 0)):
                    await send({"type": "http.response.body", "body": b": %s\n\n" % bytes(2**18), "more_body": True})
        if not is_stream:
            await send(start)
        choices = [{"index": 0, "message": {"content": text}, "finish_reason": "stop"}]
        whole = b"" if is_stream else json.dumps({"model": call.model, "text": text, "choices": choices}).encode()
        await send({"type": "http.response.body", "body": whole})

    return application


@contextlib.asynccontextmanager
async def served(
    *, deploy: bool = True, application: Callable[[FakeEngine], OpenAIApplication] = stand_in, **options: Any
) -> AsyncIterator[tuple[Parts, httpx.AsyncClient]]:
    """Parts with deployments of two tenants under one id, and a client of the endpoint."""
    parts = await make_parts(R1, R2, OF_BETA, application=application, **options)
    http = HttpServer(parts.front, InferenceConfig(grace_s=2))
    tasks = [asyncio.create_task(parts.host.run()), asyncio.create_task(http.run())]
    if deploy:
        await parts.deployments.deploy(SUPPORT, R1.name)
        await parts.deployments.deploy(SUPPORT.replace("acme", "beta"), OF_BETA.name)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{http.port}") as client:
            yield parts, client
    finally:
        await http.close()
        for task in tasks:
            task.cancel()


def as_tenant(tenant: str = "acme", **options: Any) -> dict[str, str]:
    """Headers of a caller."""
    return dict(bearer(tenant, **options))


async def complete(client: httpx.AsyncClient, body: Any = None, *, tenant: str = "acme") -> httpx.Response:
    """One chat completion."""
    return await client.post("/v1/chat/completions", json=ASK if body is None else body, headers=as_tenant(tenant))
