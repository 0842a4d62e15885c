"""The life of a server: what it says of itself, where it listens, and in which order it ends."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import pathlib
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from luthier.curation.v1 import dataset_service_pb2 as pb
from luthier.curation.v1 import dataset_service_pb2_grpc as rpc
from luthierd.config import ConfigError, ServerConfig
from luthierd.errors import UnavailableError
from luthierd.rpc.server import Bound, Health, PortInUseError, Service, serve
from support.certificates import self_signed
from support.scripted import FULL_NAME, SERVER_STREAM, UNARY, call, scripted
from support.serving import bearer, running, serving

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Server:
    """A server whose end the test decides."""

    def __init__(self, service: Service, config: ServerConfig) -> None:
        self.stop = asyncio.Event()
        self.bound: asyncio.Future[Bound] = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(serve(service, config, stop=self.stop, started=self.bound.set_result))

    async def ended(self) -> None:
        await asyncio.wait_for(asyncio.shield(self.task), timeout=10)


async def health_of(channel: grpc.aio.Channel, name: str = "") -> int:
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
    status: int = answer.status
    return status


# --- readiness ---


async def test_a_started_server_serves_under_every_name() -> None:
    async with running(scripted(), ServerConfig()) as channel:
        assert [await health_of(channel, name) for name in ("", FULL_NAME)] == [SERVING, SERVING]


async def test_a_server_is_not_serving_before_its_service_is_ready() -> None:
    """GRPC's own health servicer would say SERVING from the first moment."""
    health = Health()
    async with running(scripted(health=health), ServerConfig()) as channel:
        assert [await health_of(channel, name) for name in ("", FULL_NAME)] == [NOT_SERVING, NOT_SERVING]
        await health.set_serving(True)
        assert [await health_of(channel, name) for name in ("", FULL_NAME)] == [SERVING, SERVING]
        await health.set_serving(False)
        assert await health_of(channel) == NOT_SERVING


async def test_reflection_lists_the_services() -> None:
    async with running(scripted(), ServerConfig()) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = [answer async for answer in stub.ServerReflectionInfo(iter([request]))]
    names = {service.name for service in answer.list_services_response.service}
    assert {FULL_NAME, "grpc.health.v1.Health"} <= names


# --- the start ---


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that another program listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


@pytest.mark.parametrize("setting", ["port", "metrics_port"])
async def test_a_port_in_use_is_named_and_what_was_opened_is_closed(setting: str, taken_port: int) -> None:
    closed = asyncio.Event()

    async def close() -> None:
        closed.set()

    config = dataclasses.replace(ServerConfig(), **{setting: taken_port})
    with pytest.raises(PortInUseError) as caught:
        await serve(scripted(close=[close]), config, stop=asyncio.Event())
    assert caught.value.metadata == {"address": f"127.0.0.1:{taken_port}"}
    assert closed.is_set()


async def test_plain_text_beyond_loopback_is_refused() -> None:
    with pytest.raises(ConfigError, match="LUTHIER_TLS_CERTIFICATE_PATH"):
        await serve(scripted(), ServerConfig(host="0.0.0.0"), stop=asyncio.Event())


async def test_plain_text_beyond_loopback_can_be_allowed() -> None:
    config = ServerConfig(host="0.0.0.0", insecure_network=True)
    async with (
        serving(scripted(), config) as bound,
        grpc.aio.insecure_channel(f"127.0.0.1:{bound.port}") as channel,
    ):
        await call(channel, UNARY)


async def test_a_background_task_that_fails_ends_the_server_with_its_error() -> None:
    go = asyncio.Event()

    async def fail() -> None:
        await go.wait()
        raise UnavailableError("the launcher is dead")

    server = Server(scripted(background=[fail]), ServerConfig())
    await server.bound
    go.set()
    with pytest.raises(ExceptionGroup) as caught:
        await server.ended()
    assert caught.group_contains(UnavailableError, match="the launcher is dead")


async def test_background_tasks_end_before_the_service_is_closed() -> None:
    order = []

    async def run() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            order.append("background")

    async def close() -> None:
        order.append("closed")

    async with running(scripted(background=[run], close=[close]), ServerConfig()) as channel:
        await call(channel, UNARY)
    assert order == ["background", "closed"]


# --- limits ---


async def test_calls_beyond_the_limit_are_refused_at_once() -> None:
    entered, proceed = asyncio.Event(), asyncio.Event()

    async def act(_context: object) -> None:
        entered.set()
        await proceed.wait()

    async with running(scripted(act), ServerConfig(max_concurrent_rpcs=1)) as channel:
        first = asyncio.create_task(call(channel, UNARY))
        await entered.wait()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, UNARY)
        proceed.set()
        await first
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_message_beyond_the_limit_is_refused() -> None:
    async with running(scripted(), ServerConfig(max_message_bytes=1000)) as channel:
        request = pb.GetDatasetRequest(name="x" * 2000)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rpc.DatasetServiceStub(channel).GetDataset(request, metadata=bearer())
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


# --- the end ---


class Work:
    """Handlers that are in the middle of something when the server is told to stop."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.entered = {name: asyncio.Event() for name in ("unary", "stream", "stuck")}
        self.proceed = asyncio.Event()
        self.stopping = asyncio.Event()

    async def unary(self, _request: object, _context: object) -> pb.GetDatasetResponse:
        self.entered["unary"].set()
        await self.proceed.wait()
        self.order.append("unary finished")
        return pb.GetDatasetResponse()

    async def stream(self, _request: object, _context: object) -> AsyncIterator[pb.WatchDatasetRevisionResponse]:
        self.entered["stream"].set()
        yield pb.WatchDatasetRevisionResponse()
        await self.stopping.wait()
        yield pb.WatchDatasetRevisionResponse()
        self.order.append("stream finished")

    async def stuck(self, _request: object, _context: object) -> pb.ListDatasetsResponse:
        """Ends only when it is aborted, and takes its time then: `server.stop()` does not wait (grpc#37239)."""
        self.entered["stuck"].set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.1)
            self.order.append("stuck cleaned up")
        raise AssertionError("unreachable")

    async def close(self) -> None:
        self.order.append("closed")

    def service(self) -> Service:
        behaviors = {UNARY: self.unary, SERVER_STREAM: self.stream, "ListDatasets": self.stuck}
        return scripted(behaviors=behaviors, close=[self.close], stopping=self.stopping)


async def test_everything_in_flight_ends_before_the_service_is_closed_and_health_turns_first() -> None:
    work = Work()
    server = Server(work.service(), ServerConfig(grace_s=0.3, drain_delay_s=0.1))
    async with grpc.aio.insecure_channel((await server.bound).address) as channel:
        stub = rpc.DatasetServiceStub(channel)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        unary = asyncio.create_task(call(channel, UNARY))
        stream = asyncio.create_task(call(channel, SERVER_STREAM))
        stuck = stub.ListDatasets(pb.ListDatasetsRequest(parent="tenants/acme"), metadata=bearer())
        await asyncio.gather(*(event.wait() for event in work.entered.values()))
        server.stop.set()
        assert (await watch.read()).status == NOT_SERVING
        assert work.order == [] or work.order == ["stream finished"]
        work.proceed.set()
        await asyncio.gather(unary, stream)
        with pytest.raises(grpc.aio.AioRpcError):
            await stuck
        await server.ended()
    assert sorted(work.order[:2]) == ["stream finished", "unary finished"]
    assert work.order[2:] == ["stuck cleaned up", "closed"]


async def test_an_open_health_watch_costs_the_grace_period_and_no_more() -> None:
    server = Server(scripted(), ServerConfig(grace_s=0.1))
    async with grpc.aio.insecure_channel((await server.bound).address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        server.stop.set()
        await asyncio.wait_for(server.task, timeout=3)


async def test_a_stopped_server_does_not_serve_again() -> None:
    health = Health()
    server = Server(scripted(health=health), ServerConfig(drain_delay_s=0.2))
    async with grpc.aio.insecure_channel((await server.bound).address) as channel:
        await health.set_serving(True)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        server.stop.set()
        assert (await watch.read()).status == NOT_SERVING
        await health.set_serving(True)  # an engine that gets ready too late
        assert await health_of(channel) == NOT_SERVING
        watch.cancel()
        await server.ended()


async def test_a_handler_that_never_ends_holds_the_stop_for_a_bounded_time(caplog: pytest.LogCaptureFixture) -> None:
    entered, forever = asyncio.Event(), asyncio.Event()

    async def act(_context: object) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            await forever.wait()

    server = Server(scripted(act), ServerConfig(grace_s=0.05, cleanup_s=0.05))
    async with grpc.aio.insecure_channel((await server.bound).address) as channel:
        calling = asyncio.create_task(call(channel, UNARY))
        await entered.wait()
        server.stop.set()
        await asyncio.wait_for(server.task, timeout=5)
        forever.set()
        with pytest.raises(grpc.aio.AioRpcError):
            await calling
    assert "handlers did not finish in time" in caplog.text


async def test_every_part_is_closed_in_order_even_if_one_fails() -> None:
    closed = []

    def closing(name: str) -> Callable[[], Any]:
        async def close() -> None:
            closed.append(name)
            if name == "engine":
                raise RuntimeError("the engine will not end")

        return close

    with pytest.raises(RuntimeError, match="will not end"):
        async with running(scripted(close=[closing("engine"), closing("store")]), ServerConfig()):
            pass
    assert closed == ["engine", "store"]


async def test_the_ports_are_free_after_the_stop() -> None:
    async with serving(scripted(), ServerConfig()) as bound:
        pass
    async with serving(scripted(), ServerConfig()):
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", bound.port))
        with pytest.raises(urllib.error.URLError):
            await asyncio.to_thread(urllib.request.urlopen, f"http://127.0.0.1:{bound.metrics_port}/metrics", timeout=2)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_the_server(signum: int) -> None:
    bound: asyncio.Future[Bound] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(scripted(), ServerConfig(), started=bound.set_result))
    await bound
    os.kill(os.getpid(), signum)
    await asyncio.wait_for(task, timeout=5)


# --- TLS ---


async def test_tls_works_end_to_end_and_plain_text_does_not(tmp_path: pathlib.Path) -> None:
    files = self_signed(tmp_path)
    config = ServerConfig(tls_certificate_path=files.certificate, tls_key_path=files.key, host="0.0.0.0")
    credentials = grpc.ssl_channel_credentials(files.certificate.read_bytes())
    async with serving(scripted(), config) as bound:
        async with grpc.aio.secure_channel(f"localhost:{bound.port}", credentials) as channel:
            await call(channel, UNARY)
            assert await health_of(channel) == SERVING
        async with grpc.aio.insecure_channel(f"127.0.0.1:{bound.port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(channel, UNARY, timeout=2)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("missing", ["tls_certificate_path", "tls_key_path"])
async def test_half_of_tls_is_refused_and_not_taken_for_plain_text(missing: str, tmp_path: pathlib.Path) -> None:
    files = self_signed(tmp_path)
    config = ServerConfig(tls_certificate_path=files.certificate, tls_key_path=files.key)
    with pytest.raises(ConfigError, match=f"LUTHIER_{missing.upper()}"):
        await serve(scripted(), dataclasses.replace(config, **{missing: None}), stop=asyncio.Event())


@pytest.fixture(params=["absent", "empty", "no PEM"])
def damage(request: pytest.FixtureRequest) -> Callable[[pathlib.Path], None]:
    """Makes a file one that cannot be used."""

    def apply(path: pathlib.Path) -> None:
        path.unlink()
        if request.param != "absent":
            path.write_text("" if request.param == "empty" else request.param)

    return apply


@pytest.mark.parametrize("wrong", ["tls_certificate_path", "tls_key_path"])
async def test_a_file_that_cannot_be_used_for_tls_is_named(
    wrong: str, damage: Callable[[pathlib.Path], None], tmp_path: pathlib.Path
) -> None:
    files = self_signed(tmp_path)
    config = ServerConfig(tls_certificate_path=files.certificate, tls_key_path=files.key)
    path: pathlib.Path = getattr(config, wrong)
    damage(path)
    with pytest.raises(ConfigError) as caught:
        await serve(scripted(), config, stop=asyncio.Event())
    assert caught.value.metadata == {"path": str(path)}
