"""Connections to the gRPC port: strangers are bounded by address, and nobody else loses his."""

from __future__ import annotations

import asyncio
import contextlib

import grpc
import pytest
from luthierd.config import ServerConfig
from luthierd.rpc.connections import address_of
from support.scripted import UNARY, call, scripted
from support.serving import serving
from support.waiting import until

LIMIT_S = 5.0


async def closed(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):
        while await reader.read(1000):
            pass


async def test_silent_connections_beyond_the_limit_are_closed_and_a_tenants_is_not() -> None:
    async with serving(scripted(), ServerConfig(max_unauthenticated_connections=4)) as bound:
        async with grpc.aio.insecure_channel(bound.address) as channel:
            await call(channel, UNARY)
            silent = [await asyncio.open_connection("127.0.0.1", bound.port) for _ in range(12)]
            readings = [asyncio.create_task(closed(reader)) for reader, _ in silent]
            await until(lambda: sum(reading.done() for reading in readings) == 8, timeout_s=LIMIT_S)
            assert channel.get_state() is grpc.ChannelConnectivity.READY
            await call(channel, UNARY)
            async with grpc.aio.insecure_channel(bound.address, [("grpc.use_local_subchannel_pool", 1)]) as newcomer:
                await call(newcomer, UNARY)
            for reading in readings:
                reading.cancel()
        for _, writer in silent:
            writer.close()


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:127.0.0.1:5000", ("127.0.0.1", 5000)),
        ("ipv6:%5B::1%5D:5000", ("::1", 5000)),
        ("ipv6:[::ffff:10.0.0.1]:5000", ("10.0.0.1", 5000)),
        ("ipv6:%5Bfe80::1%25eth0%5D:5000", ("fe80::1", 5000)),
        ("unix:", None),
    ],
)
def test_a_peer_is_known_by_its_address(peer: str, address: tuple[str, int] | None) -> None:
    assert address_of(peer) == address
