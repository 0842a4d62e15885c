"""`kill -9` of the engine's process while it streams: what callers and load balancers see, and how it comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from luthier import AsyncClient, Endpoints
from luthier.inference.v1 import inference_service_pb2 as api
from luthier.inference.v1.deployment_pb2 import LOADED_ADAPTER_STATE_READY
from luthier.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from support.inference_server import InferenceServer
from support.serving import error_info

pytestmark = pytest.mark.e2e

TENANTS = ("north", "south")
STREAMS = 6
PATIENCE_S = 120
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
LONG = 450
"""Tokens of an answer that does not end before the engine is killed; the window has 512."""


@pytest.fixture
async def clients(server: InferenceServer) -> AsyncIterator[dict[str, AsyncClient]]:
    """An SDK client for each tenant, with a deployment that has a live and a previous revision."""
    endpoints = Endpoints(inference=f"127.0.0.1:{server.port}")
    async with contextlib.AsyncExitStack() as stack:
        made = {
            tenant: await stack.enter_async_context(AsyncClient(endpoints, server.token(tenant))) for tenant in TENANTS
        }
        for index, (tenant, client) in enumerate(made.items()):
            for number in (1, 2):
                seed = 300 + 10 * index + number
                revision = server.add_revision(tenant, f"r{number}", seed=seed, adapter="mortal")
                await client.deployments.deploy(mortal(tenant), adapter_revision=revision)
        yield made


def mortal(tenant: str) -> str:
    return f"tenants/{tenant}/deployments/mortal"


class Stream:
    """Long answers, one after another until one fails, over one of the protocols. `begun` is set with the first delta;
    `ending` says how the last one ended.
    """

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.ending: tuple[str, str] = ("", "")

    async def over_grpc(self, channel: grpc.aio.Channel, server: InferenceServer, tenant: str) -> None:
        request = api.GenerateStreamRequest(
            target=api.Target(deployment=mortal(tenant)), prompt="a", sampling=api.Sampling(max_tokens=LONG, stop=["#"])
        )
        metadata = (("authorization", f"Bearer {server.token(tenant)}"),)
        try:
            while True:
                async for _ in InferenceServiceStub(channel).GenerateStream(request, metadata=metadata, timeout=60):
                    self.begun.set()
        except grpc.aio.AioRpcError as error:
            self.ending = (error.code().name, error_info(error).reason)

    async def over_http(self, client: httpx.AsyncClient, server: InferenceServer, tenant: str) -> None:
        body = {"model": mortal(tenant), "prompt": "a", "max_tokens": LONG, "stream": True, "ignore_eos": True}
        headers = {"authorization": f"Bearer {server.token(tenant)}"}
        while not self.ending[0]:
            async with client.stream("POST", "/v1/completions", json=body, headers=headers) as response:
                async for line in response.aiter_lines():
                    self.begun.set()
                    if self.ending[0] and line:
                        self.ending = ("went on after its error", line)
                    elif "error" in (event := json.loads(line.removeprefix("data: ").replace("[DONE]", "") or "{}")):
                        self.ending = ("error", str(event["error"].get("code")))


async def follow_health(
    channel: grpc.aio.Channel, seen: list[tuple[int, float]], is_down: asyncio.Event, is_back: asyncio.Event
) -> None:
    """Notes what the server says of itself, and when, until it serves again after it did not."""
    request = health_pb2.HealthCheckRequest(service="luthier.inference.v1.InferenceService")
    async for message in health_pb2_grpc.HealthStub(channel).Watch(request):
        seen.append((message.status, time.monotonic()))
        if message.status == NOT_SERVING:
            is_down.set()
        if message.status == SERVING and any(status == NOT_SERVING for status, _ in seen):
            is_back.set()
            return


async def first_refusal(channel: grpc.aio.Channel, server: InferenceServer) -> grpc.StatusCode:
    """Calls made between the death and the return are refused: the status of the first of them."""
    request = api.GenerateRequest(
        target=api.Target(deployment=mortal("north")), prompt="a", sampling=api.Sampling(max_tokens=1)
    )
    metadata = (("authorization", f"Bearer {server.token('north')}"),)
    while True:
        try:
            await InferenceServiceStub(channel).Generate(request, metadata=metadata, timeout=60)
        except grpc.aio.AioRpcError as error:
            return error.code()


async def test_a_killed_engine_fails_its_streams_with_unavailable_and_comes_back_with_every_deployment(
    server: InferenceServer, clients: dict[str, AsyncClient], record_property: Callable[[str, object], None]
) -> None:
    ask = {tenant: (client, mortal(tenant)) for tenant, client in clients.items()}
    before = {
        tenant: (await client.inference.chat(name, "who?", max_tokens=12)) for tenant, (client, name) in ask.items()
    }
    start_count = (await clients["north"].engine.get()).start_count
    seen, is_down, is_back = [], asyncio.Event(), asyncio.Event()
    streams = [Stream() for _ in range(STREAMS)]
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.http_port}", timeout=PATIENCE_S) as http,
        asyncio.timeout(PATIENCE_S),
        asyncio.TaskGroup() as group,
    ):
        group.create_task(follow_health(channel, seen, is_down, is_back))
        for index, stream in enumerate(streams):
            tenant = TENANTS[index % 2]
            is_http = index % 3 == 2
            made = stream.over_http(http, server, tenant) if is_http else stream.over_grpc(channel, server, tenant)
            group.create_task(made)
        for stream in streams:
            await stream.begun.wait()
        killed = time.monotonic()
        server.engine_process().kill()
        refused = await first_refusal(channel, server)
        await is_down.wait()
        down = await http.get("/health")
        await is_back.wait()
    told_s = next(at for status, at in seen if status == NOT_SERVING) - killed
    back_s = seen[-1][1] - killed
    record_property("not_serving_after_s", round(told_s, 2))
    record_property("serving_again_after_s", round(back_s, 2))
    print(f"NOT_SERVING after {told_s:.2f} s, SERVING again after {back_s:.1f} s")

    over_grpc = [stream.ending for index, stream in enumerate(streams) if index % 3 != 2]
    assert set(over_grpc) == {("UNAVAILABLE", "ENGINE_DIED")}
    over_http = [stream.ending for index, stream in enumerate(streams) if index % 3 == 2]
    assert set(over_http) == {("error", "ENGINE_DIED")}
    assert refused is grpc.StatusCode.UNAVAILABLE
    assert down.status_code == 503
    for tenant, (client, name) in ask.items():
        after = await client.inference.chat(name, "who?", max_tokens=12)
        assert (after.text, after.origin) == (before[tenant].text, before[tenant].origin)
        found = await client.deployments.get(name)
        assert (found.live.state, found.live.lease_count) == (LOADED_ADAPTER_STATE_READY, 0)
        assert (await client.deployments.rollback(name)).revision == before[tenant].origin.deployment_revision + 1
    assert (await clients["north"].engine.get()).start_count == start_count + 1
    assert await server.metric("luthier_answers_in_flight") == 0
