"""The health of services, read without the health stubs: the response is one number."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import grpc

from luthier.endpoints import TlsOptions
from luthier.transport import open_channel

_STATUSES = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
TIMEOUT_S = 3.0


def health_of(addresses: Mapping[str, str], tls: TlsOptions | None) -> dict[str, str]:
    """SERVING, NOT_SERVING or UNREACHABLE, by service."""

    async def check_all() -> dict[str, str]:
        answers = await asyncio.gather(*(_check(address, tls) for address in addresses.values()))
        return dict(zip(addresses, answers, strict=True))

    return asyncio.run(check_all())


async def _check(address: str, tls: TlsOptions | None) -> str:
    if not address:
        return "STOPPED"
    async with open_channel(address, tls) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check", bytes, bytes)
        try:
            answer: bytes = await check(b"", timeout=TIMEOUT_S)  # HealthCheckRequest(service="") is empty
        except grpc.aio.AioRpcError:
            return "UNREACHABLE"
    # HealthCheckResponse{status = 1}: tag 0x08, then the number; empty means 0.
    return _STATUSES.get(answer[1] if len(answer) > 1 else 0, "UNKNOWN")
