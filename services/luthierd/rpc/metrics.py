"""Prometheus metrics of every server. Labels have few values: no ids, no resource names."""

from __future__ import annotations

import threading
from http.server import ThreadingHTTPServer

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


class MetricsPage:
    """`GET /metrics`, served by a separate thread. OSError if the address is not available."""

    def __init__(self, host: str, port: int) -> None:
        self._server = ThreadingHTTPServer((host, port), MetricsHandler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(STOP_POLL_S,), daemon=True).start()

    def close(self) -> None:
        """Ends the thread and releases the port."""
        self._server.shutdown()
        self._server.server_close()
