"""Runs a service in the test's process exactly as production does: the same `serve()`, interceptors and sockets."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.rpc import error_details_pb2, status_pb2
from luthier.services import SCOPES
from luthierd.config import ServerConfig
from luthierd.rpc.auth import TokenIssuer, TokenVerifier
from luthierd.rpc.server import Bound, Service, serve

_key = Ed25519PrivateKey.generate()
ISSUER = TokenIssuer(lambda: _key)
VERIFIER = TokenVerifier(lambda: [_key.public_key()])


def bearer(
    tenant: str = "acme", *, scopes: tuple[str, ...] = SCOPES, ttl_s: float = 600.0
) -> tuple[tuple[str, str], ...]:
    """Call metadata that proves a caller of `tenant`."""
    return (("authorization", f"Bearer {ISSUER.issue(tenant=tenant, subject='tester', scopes=scopes, ttl_s=ttl_s)}"),)


@contextlib.asynccontextmanager
async def running(service: Service, config: ServerConfig) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to `service`, served on a free port of loopback; stopped the ordinary way at the end."""
    async with serving(service, config) as bound, grpc.aio.insecure_channel(bound.address) as channel:
        yield channel


@contextlib.asynccontextmanager
async def serving(service: Service, config: ServerConfig, *, port: int = 0) -> AsyncIterator[Bound]:
    """Where `service` listens while the block runs. `port` 0: any free one."""
    stop = asyncio.Event()
    bound: asyncio.Future[Bound] = asyncio.get_running_loop().create_future()
    quick = dataclasses.replace(config, port=port, metrics_port=0, drain_delay_s=0.0, grace_s=1.0)
    task = asyncio.create_task(serve(service, quick, stop=stop, started=bound.set_result))
    await asyncio.wait([task, bound], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    try:
        yield bound.result()
    finally:
        stop.set()
        await task


def details(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    """The `google.rpc.Status` of a failed call."""
    return status_pb2.Status.FromString(dict(error.trailing_metadata() or ())["grpc-status-details-bin"])


def error_info(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    """The `ErrorInfo` of a failed call."""
    info = error_details_pb2.ErrorInfo()
    assert next(detail.Unpack(info) for detail in details(error).details if detail.Is(info.DESCRIPTOR))
    return info
