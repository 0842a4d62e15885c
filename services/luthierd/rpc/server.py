"""`serve()`: the life cycle of a server, the same in tests and in production.

Start: NOT_SERVING (grpc's health servicer starts with SERVING), listen, background tasks, SERVING when ready.
Stop, on SIGTERM or SIGINT: NOT_SERVING -> drain delay -> stop(grace) -> no handler in flight -> `Service.close`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ipaddress
import logging
import pathlib
import resource
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from luthierd.config import ConfigError, ServerConfig, describe
from luthierd.errors import FailedPreconditionError
from luthierd.process import run
from luthierd.rpc.auth import TokenVerifier
from luthierd.rpc.connections import Connections
from luthierd.rpc.contract import add_to_server, methods_of, services_of
from luthierd.rpc.idempotency import ReplayInterceptor
from luthierd.rpc.interceptors import (
    CallPlaces,
    InFlight,
    Interceptor,
    Middleware,
    authenticating,
    bounded_in_time,
    explaining_deletions,
    logged,
    measured,
    translating_errors,
    with_request_id,
)
from luthierd.rpc.metrics import MetricsPage
from luthierd.rpc.public import PublicCalls
from luthierd.storage.replays import SqlReplayStore
from luthierd.storage.tombstones import Tombstones

log = logging.getLogger(__name__)

C = TypeVar("C", bound=ServerConfig)

MAX_DESCRIPTORS = 65_536
MIN_PING_INTERVAL_MS, MAX_PING_STRIKES = 1_000, 10
"""Clients ping while they wait minutes for a first token; only a flood of pings ends a connection (GOAWAY)."""


class PortInUseError(FailedPreconditionError):
    """Another process listens on the port."""

    reason = "PORT_IN_USE"


class Health:
    """The health of the server. Services whose readiness changes call `set_serving`."""

    def __init__(self) -> None:
        self.servicer = health.aio.HealthServicer()  # type: ignore[attr-defined]
        self.names: Sequence[str] = ("",)
        self._is_closing = False

    async def set_serving(self, is_serving: bool) -> None:
        """Changes the status. Has no effect once the server shuts down."""
        if self._is_closing:
            return
        status = health_pb2.HealthCheckResponse.SERVING if is_serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in self.names:
            await self.servicer.set(name, status)

    async def close(self) -> None:
        """NOT_SERVING from now on."""
        self._is_closing = True
        await self.servicer.enter_graceful_shutdown()


@dataclass(frozen=True, kw_only=True)
class Service:
    """What `serve()` needs to know about a service."""

    name: str
    """Its errors have the domain `<name>.luthier.dev`."""
    servicers: Sequence[object]
    """Each derives from the generated classes of the gRPC services that it implements."""
    verifier: TokenVerifier
    limits_s: Mapping[str, float] = field(default_factory=dict)
    """Limits by method that the configuration sets instead of the contract; 0: no limit."""
    replays: SqlReplayStore | None = None
    """Stores the responses to calls with a `request_id`."""
    tombstones: Tombstones | None = None
    """What is known of deleted resources."""
    background: Sequence[Callable[[], Awaitable[None]]] = ()
    """Tasks that run as long as the server; a failed one stops the server."""
    close: Sequence[Callable[[], Awaitable[None]]] = ()
    """Called in order after the last handler has finished, and when the start fails."""
    health: Health | None = None
    """Set by services whose readiness changes; they set SERVING themselves."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server begins to stop, so that Watch streams can end."""


@dataclass(frozen=True)
class Bound:
    """Where a started server listens."""

    address: str
    port: int
    metrics_port: int


def run_server(name: str, config_class: type[C], build: Callable[[C], Awaitable[Service]]) -> None:
    """The main function of a server process: builds the service and serves it until a signal."""

    async def main(config: C) -> None:
        _raise_descriptor_limit()
        await serve(await build(config), config)

    run(name, config_class, main)


async def serve(
    service: Service,
    config: ServerConfig,
    *,
    stop: asyncio.Event | None = None,
    started: Callable[[Bound], None] | None = None,
) -> None:
    """Serves until `stop` is set, by default until SIGTERM or SIGINT; `started` is called with where it listens."""
    async with contextlib.AsyncExitStack() as stack:
        for close in reversed(service.close):  # closed in the order of `close`, also if one fails
            stack.push_async_callback(close)
        await _serve(service, config, stop=stop or _stop_at_signal(), started=started)


def _raise_descriptor_limit() -> None:
    """Every connection takes a descriptor, and the usual limit of 1,024 is soon reached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def _stop_at_signal() -> asyncio.Event:
    """Set by SIGTERM and SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    return stop


async def _serve(
    service: Service, config: ServerConfig, *, stop: asyncio.Event, started: Callable[[Bound], None] | None
) -> None:
    in_flight, connections = InFlight(), Connections(config.max_unauthenticated_connections)
    server = _build(service, config, in_flight, connections)
    full_names = [described.full_name for servicer in service.servicers for described in services_of(servicer)]
    state = service.health or Health()
    state.names = ("", *full_names)
    await state.set_serving(False)
    health_pb2_grpc.add_HealthServicer_to_server(state.servicer, server)
    reflection.enable_server_reflection([*full_names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    port = _listen(server, config)
    page = _serve_metrics(config)
    await server.start()
    log.info("started", extra={"port": port, "metrics_port": page.port, "config": describe(config)})
    sweeping = asyncio.create_task(connections.run(port))
    try:
        await _run_until(
            stop, service, state, lambda: started and started(Bound(f"{config.host}:{port}", port, page.port))
        )
    finally:
        service.stopping.set()
        await state.close()
        await asyncio.sleep(config.drain_delay_s)
        await server.stop(config.grace_s)
        try:
            async with asyncio.timeout(config.cleanup_s):
                await in_flight.idle.wait()
        except TimeoutError:
            log.warning("handlers did not finish in time", extra={"cleanup_s": config.cleanup_s})
        sweeping.cancel()
        await asyncio.to_thread(page.close)
        log.info("stopped")


async def _run_until(stop: asyncio.Event, service: Service, state: Health, started: Callable[[], object]) -> None:
    """Runs the background tasks until `stop`, or until one of them fails."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_forever(run)) for run in service.background]
        if service.health is None:
            await state.set_serving(True)
        started()
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        for task in tasks:
            task.cancel()


async def _forever(run: Callable[[], Awaitable[None]]) -> None:
    await run()


def _build(service: Service, config: ServerConfig, in_flight: InFlight, connections: Connections) -> grpc.aio.Server:
    """The server with its interceptors and servicers."""
    methods = {
        path: dataclasses.replace(method, limit_s=service.limits_s.get(method.name, method.limit_s))
        for servicer in service.servicers
        for path, method in methods_of(services_of(servicer)).items()
    }
    domain = f"{service.name}.luthier.dev"
    middlewares: list[Middleware] = [
        in_flight,
        with_request_id,
        logged,
        measured,
        translating_errors(domain),
        authenticating(service.verifier, connections.authorised),
        CallPlaces(config.max_concurrent_rpcs, config.max_concurrent_rpcs_per_tenant),
        bounded_in_time,
        *([explaining_deletions(service.tombstones)] if service.tombstones else []),
    ]
    public = PublicCalls(config.max_public_calls, domain=domain, limit_s=config.handshake_limit_s)
    interceptors: list[Any] = [Interceptor(service.name, methods, middlewares, public)]
    if service.replays is not None:
        interceptors.append(ReplayInterceptor(service.replays))
    # grpc's own limit of concurrent calls would count those without a token, too: they could lock all others out
    server = grpc.aio.server(interceptors=interceptors, options=_options(config))
    for servicer in service.servicers:
        add_to_server(servicer, server)
    return server


def _options(config: ServerConfig) -> list[tuple[str, int]]:
    """Channel arguments of gRPC's core (grpc_types.h)."""
    return [
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", config.max_message_bytes),
        ("grpc.max_concurrent_streams", config.max_streams_per_connection),
        ("grpc.server_handshake_timeout_ms", int(config.handshake_limit_s * 1000)),
        ("grpc.max_connection_idle_ms", int(config.connection_idle_limit_s * 1000)),
        # Ends connections whose other end has vanished without a word.
        ("grpc.keepalive_time_ms", int(config.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", int(config.handshake_limit_s * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
        ("grpc.http2.max_ping_strikes", MAX_PING_STRIKES),
        ("grpc.so_reuseport", 0),
    ]


def _listen(server: grpc.aio.Server, config: ServerConfig) -> int:
    """Binds the port. PortInUseError; ConfigError if plain text would leave the machine."""
    address = f"[{config.host}]:{config.port}" if ":" in config.host else f"{config.host}:{config.port}"
    credentials = _tls_credentials(config)
    if credentials is None and not _is_loopback(config.host) and not config.insecure_network:
        raise ConfigError(
            f"{config.host} is not a loopback address and there is no certificate; set LUTHIER_TLS_CERTIFICATE_PATH "
            "and LUTHIER_TLS_KEY_PATH, or LUTHIER_INSECURE_NETWORK=1 if the network itself encrypts",
            metadata={"host": config.host},
        )
    try:
        port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    except RuntimeError:
        port = 0
    if port == 0:
        raise PortInUseError(
            f"{address} is in use or not an address of this machine; stop the other program or choose another port",
            metadata={"address": address},
        )
    return port


def _tls_credentials(config: ServerConfig) -> grpc.ServerCredentials | None:
    """None without TLS. ConfigError names the file that is missing or is not a certificate or key."""
    paths = {
        "LUTHIER_TLS_CERTIFICATE_PATH": config.tls_certificate_path,
        "LUTHIER_TLS_KEY_PATH": config.tls_key_path,
    }
    unset = [variable for variable, path in paths.items() if path is None]
    if len(unset) == 2:
        return None
    if unset:  # half a configuration must not mean plain text
        raise ConfigError(f"TLS also needs {unset[0]}", metadata={"variable": unset[0]})
    certificate = _read_pem(config.tls_certificate_path, x509.load_pem_x509_certificates)
    key = _read_pem(config.tls_key_path, lambda pem: serialization.load_pem_private_key(pem, password=None))
    return grpc.ssl_server_credentials([(key, certificate)])


def _read_pem(path: pathlib.Path | None, parse: Callable[[bytes], object]) -> bytes:
    try:
        content = path.read_bytes() if path else b""
        parse(content)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} cannot be used for TLS: {error}", metadata={"path": str(path)}) from error
    return content


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _serve_metrics(config: ServerConfig) -> MetricsPage:
    """PortInUseError."""
    try:
        return MetricsPage(config.host, config.metrics_port)
    except OSError as error:
        address = f"{config.host}:{config.metrics_port}"
        raise PortInUseError(
            f"{address} is in use; choose another metrics port", metadata={"address": address}
        ) from error
