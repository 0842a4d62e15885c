"""Runs the OpenAI-compatible endpoint next to the gRPC server, in the same event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import Any

import uvicorn

from luthierd.inference.config import InferenceConfig
from luthierd.rpc.server import PortInUseError

log = logging.getLogger(__name__)

BACKLOG = 1024
"""Connections that wait to be accepted. Listening follows the bind: two sockets can bind a port, but not listen."""


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
        self.port = int(self._socket.getsockname()[1])
        self._server = _Server(
            uvicorn.Config(
                application,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                ssl_certfile=config.tls_certificate_path,
                ssl_keyfile=config.tls_key_path,
                timeout_graceful_shutdown=int(config.grace_s),
                limit_concurrency=config.max_concurrent_rpcs,
            )
        )
        self._serving: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serves until `close`, even when this background task is cancelled."""
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        log.info("http started", extra={"port": self.port})
        await asyncio.shield(self._serving)

    async def close(self) -> None:
        """Refuses new requests and waits for those in flight as long as gRPC does.

        If `run` was never called because another part of the server could not start, only frees the port.
        """
        if self._serving is None:
            self._socket.close()
            return
        self._server.should_exit = True
        await asyncio.wait([self._serving])


class _Server(uvicorn.Server):
    """Leaves the signals to `serve()`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield
