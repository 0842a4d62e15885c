"""The Prometheus metrics that every server has. Labels are bounded: no ids, no names of resources."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

rpc_seconds = Histogram(
    "luthier_rpc_seconds",
    "Time from the arrival of a call to its end.",
    ["service", "method", "kind", "code"],
    buckets=BUCKETS_S,
)
rpc_in_flight = Gauge("luthier_rpc_in_flight", "Calls being served.", ["service"])
stream_messages = Counter("luthier_rpc_stream_messages", "Messages sent in streams.", ["service", "method"])
