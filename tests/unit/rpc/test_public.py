"""Whoever has no token holds nothing that others need: health, reflection, and calls that are never sent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from luthierd.config import ServerConfig
from support.scripted import FULL_NAME, SHAPES, UNARY, call, scripted
from support.serving import bearer, error_info, running, serving

LIMIT_S = 5.0
SERVING = health_pb2.HealthCheckResponse.SERVING
CHECK = "/grpc.health.v1.Health/Check"


async def is_serving(channel: grpc.aio.Channel) -> bool:
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=LIMIT_S)
    return bool(answer.status == SERVING)


async def silence() -> AsyncIterator[bytes]:
    """A call whose message never comes."""
    await asyncio.Event().wait()
    yield b""


async def refusal(made: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await made
    return caught.value


async def test_watches_of_health_lock_nobody_out_and_the_oldest_makes_room() -> None:
    async with running(scripted(), ServerConfig(max_public_calls=8, max_concurrent_rpcs=4)) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watches = []
        for _ in range(20):
            watches.append(stub.Watch(health_pb2.HealthCheckRequest(), timeout=LIMIT_S))
            assert (await watches[-1].read()).status == SERVING
        await call(channel, UNARY)
        assert await is_serving(channel)
        ended = await refusal(watches[0].read())
        assert error_info(ended).reason == "PUBLIC_CALL_ENDED"
        assert not watches[-1].done()


async def test_reflection_has_no_endless_streams() -> None:
    async with running(scripted(), ServerConfig(handshake_limit_s=0.1)) as channel:
        stream = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(timeout=LIMIT_S)
        await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        answer = await stream.read()
        assert FULL_NAME in {service.name for service in answer.list_services_response.service}
        assert (await refusal(stream.read())).code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_check_of_health_whose_message_never_comes_ends_soon() -> None:
    async with running(scripted(), ServerConfig(handshake_limit_s=0.1)) as channel:
        ended = await refusal(channel.stream_unary(CHECK)(silence(), timeout=LIMIT_S))
    assert ended.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_calls_of_strangers_end_before_their_message_comes_and_take_no_place() -> None:
    async with running(scripted(), ServerConfig(max_concurrent_rpcs=2)) as channel:
        make = channel.stream_unary(f"/{FULL_NAME}/{UNARY}")
        for _ in range(5):
            assert (await refusal(make(silence(), timeout=LIMIT_S))).code() is grpc.StatusCode.UNAUTHENTICATED
        await call(channel, UNARY)


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_call_whose_message_never_comes_meets_its_limit(shape: str) -> None:
    async with running(scripted(limits_s={shape: 0.1}), ServerConfig()) as channel:
        ended = await refusal(
            channel.stream_unary(f"/{FULL_NAME}/{shape}")(silence(), metadata=bearer(), timeout=LIMIT_S)
        )
    assert error_info(ended).reason == "DEADLINE_EXCEEDED"


async def test_a_call_without_a_message_is_refused() -> None:
    async def nothing() -> AsyncIterator[bytes]:
        for data in list[bytes]():
            yield data

    async with running(scripted(), ServerConfig()) as channel:
        ended = await refusal(channel.stream_unary(f"/{FULL_NAME}/{UNARY}")(nothing(), metadata=bearer()))
        health = await refusal(channel.stream_unary(CHECK)(nothing()))
    assert (ended.code(), health.code()) == (grpc.StatusCode.INVALID_ARGUMENT,) * 2


async def test_one_tenant_leaves_places_to_the_others() -> None:
    entered, proceed = asyncio.Event(), asyncio.Event()

    async def act(_context: object) -> None:
        entered.set()
        await proceed.wait()

    config = ServerConfig(max_concurrent_rpcs=3, max_concurrent_rpcs_per_tenant=1)
    async with running(scripted(act), config) as channel:
        first = asyncio.create_task(call(channel, UNARY))
        await entered.wait()
        refused = await refusal(call(channel, UNARY))
        other = asyncio.create_task(call(channel, UNARY, tenant="globex", metadata=bearer("globex")))
        proceed.set()
        await asyncio.gather(first, other)
    assert error_info(refused).reason == "TOO_MANY_CALLS"


# --- connections ---


async def test_a_silent_connection_is_closed() -> None:
    async with serving(scripted(), ServerConfig(handshake_limit_s=0.2)) as bound:
        reader, writer = await asyncio.open_connection("127.0.0.1", bound.port)
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), LIMIT_S)
        writer.close()


async def test_a_connection_without_calls_is_closed_and_opened_by_the_next_call() -> None:
    async with running(scripted(), ServerConfig(connection_idle_limit_s=0.2)) as channel:
        await call(channel, UNARY)
        async with asyncio.timeout(LIMIT_S):
            await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
        await call(channel, UNARY)
