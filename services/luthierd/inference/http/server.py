"""Runs the OpenAI-compatible endpoint next to the gRPC server, in the same event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
from typing import Any

import uvicorn

from luthierd.inference.config import InferenceConfig
from luthierd.inference.http.door import Connection, Door
from luthierd.rpc.places import Place
from luthierd.rpc.server import PortInUseError

log = logging.getLogger(__name__)

BACKLOG = 1024
"""Connections that wait to be accepted. Listening follows the bind: two sockets can bind a port, but not listen."""
ACCEPT_PAUSE_S = 0.1
"""After a failure to accept."""


class HttpServer:
    """An ASGI application on a port. The port is bound at once, so that a port in use ends the start."""

    def __init__(self, application: Any, config: InferenceConfig) -> None:
        self._socket = socket.socket(socket.AF_INET6 if ":" in config.host else socket.AF_INET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; connections inherit it
            # A closed connection stays until all data is read, which a stuck client must not delay forever. Twice the
            # limit, so that a stream ends by the limit itself and the log says so.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(2000 * config.reader_limit_s))
        try:
            self._socket.bind((config.host, config.http_port))
            self._socket.listen(BACKLOG)
        except OSError as error:
            self._socket.close()
            address = f"{config.host}:{config.http_port}"
            raise PortInUseError(
                f"{address} is in use or not an address of this machine; set LUTHIER_INFERENCE_HTTP_PORT",
                metadata={"address": address},
            ) from error
        self._socket.setblocking(False)
        self.port = int(self._socket.getsockname()[1])
        self._door = Door(config)
        self._server = _Server(
            uvicorn.Config(
                application,
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                ssl_certfile=config.tls_certificate_path,
                ssl_keyfile=config.tls_key_path,
                timeout_graceful_shutdown=int(config.grace_s),
                timeout_keep_alive=math.ceil(config.http_idle_limit_s) + 1,  # the door's own limit comes first
            )
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Serves until `close`, even when this background task is cancelled."""
        self._server.config.load()
        self._tasks = [asyncio.create_task(self._server.serve(sockets=[])), asyncio.create_task(self._accept())]
        log.info("http started", extra={"port": self.port})
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if not task.cancelled():
                task.result()

    async def close(self) -> None:
        """Refuses new requests and waits for those in flight as long as gRPC does.

        If `run` was never called because another part of the server could not start, only frees the port.
        """
        if self._tasks:
            serving, accepting = self._tasks
            accepting.cancel()
            await asyncio.wait([accepting])
            self._server.should_exit = True
            await asyncio.wait([serving])
        self._socket.close()

    async def _accept(self) -> None:
        """Gives every connection a place before anything is read from it, its TLS handshake included."""
        loop, connecting = asyncio.get_running_loop(), set[asyncio.Task[None]]()
        try:
            while True:
                try:
                    connection, address = await loop.sock_accept(self._socket)
                except OSError as error:  # no file descriptor is left, or the client has gone
                    log.warning("http connection not accepted", extra={"error": str(error)})
                    self._door.strangers.clear_one()
                    await asyncio.sleep(ACCEPT_PAUSE_S)
                    continue
                task = asyncio.create_task(self._connect(connection, str(address[0])))
                connecting.add(task)
                task.add_done_callback(connecting.discard)
                await asyncio.sleep(0)  # sock_accept does not wait while connections do: let those that we have go on
        finally:
            for task in connecting:
                task.cancel()

    async def _connect(self, connection: socket.socket, peer: str) -> None:
        place = Place(peer, asyncio.current_task().cancel)  # type: ignore[union-attr] # this is a task
        config = self._server.config

        def protocol() -> Connection:
            return Connection(self._door, place, config=config, server_state=self._server.server_state)

        self._door.strangers.enter(place)
        with contextlib.suppress(OSError, TimeoutError), contextlib.ExitStack() as undo:
            undo.callback(self._door.leave, place)
            undo.callback(connection.close)
            connection.setblocking(False)
            async with asyncio.timeout(self._door.config.http_header_limit_s):
                await asyncio.get_running_loop().connect_accepted_socket(protocol, connection, ssl=config.ssl)
            undo.pop_all()


class _Server(uvicorn.Server):
    """Leaves the signals to `serve()`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield
