"""Prometheus metrics of every server. Labels have few values: no ids, no resource names."""

from __future__ import annotations

import threading
from http.server import ThreadingHTTPServer
from typing import Any

from prometheus_client import Counter, Gauge, Histogram, MetricsHandler

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

rpc_seconds = Histogram(
    "luthier_rpc_seconds",
    "Time from the arrival of a call to its end.",
    ["service", "method", "kind", "code"],
    buckets=BUCKETS_S,
)
rpc_in_flight = Gauge("luthier_rpc_in_flight", "Calls being served.", ["service"])
stream_messages = Counter("luthier_rpc_stream_messages", "Messages sent in streams.", ["service", "method"])

STOP_POLL_S = 0.05
"""How often the thread checks whether to stop; the 0.5 s of `start_http_server` would delay every stop."""


READ_LIMIT_S = 5.0
MAX_READERS = 16
"""Connections to the page, each with a thread; more are closed at once."""


class _Handler(MetricsHandler):
    timeout = READ_LIMIT_S
    """For each read from the connection."""


class _Server(ThreadingHTTPServer):
    def __init__(self, host: str, port: int) -> None:
        self._free = threading.BoundedSemaphore(MAX_READERS)
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()


class MetricsPage:
    """`GET /metrics`, served by a separate thread. OSError if the address is not available."""

    def __init__(self, host: str, port: int) -> None:
        self._server = _Server(host, port)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(STOP_POLL_S,), daemon=True).start()

    def close(self) -> None:
        """Ends the thread and releases the port."""
        self._server.shutdown()
        self._server.server_close()
