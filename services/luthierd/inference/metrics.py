"""Prometheus metrics of answers. Tenants, deployments and adapters are no labels: their number is unbounded."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120)

ttft_seconds = Histogram(
    "luthier_answer_ttft_seconds",
    "Arrival of a call to its first token, waiting included",
    ["target"],
    buckets=_SECONDS,
)
latency_seconds = Histogram(
    "luthier_answer_seconds", "Arrival of a call to its last token", ["target"], buckets=_SECONDS
)
prompt_tokens = Counter("luthier_prompt_tokens_total", "Tokens of prompts", ["target"])
completion_tokens = Counter("luthier_completion_tokens_total", "Tokens of answers", ["target"])
engine_steps = Counter("luthier_engine_steps_total", "Steps of the engine, each a token for every running answer")
engine_prefill_beside_tokens = Histogram(
    "luthier_engine_prefill_beside_tokens",
    "Tokens of prompts in a step of the engine that also computes tokens of running answers, which wait for it",
    buckets=(0, 8, 16, 32, 64, 128, 256, 512, 1024, 2048),
)
engine_running = Gauge("luthier_engine_running", "Completions that the engine computes, as of its last step")
engine_waiting = Gauge("luthier_engine_waiting", "Completions that wait inside the engine, as of its last step")
engine_cache_usage = Gauge("luthier_engine_cache_usage", "Share of the key-value cache in use, 0 to 1")
responses_dropped = Counter(
    "luthier_responses_dropped_total", "Answers that were not recorded: feedback on them is NOT_FOUND"
)
captures_written = Counter("luthier_captures_written_total", "Prompts with answers that were captured")
captures_dropped = Counter("luthier_captures_dropped_total", "Prompts with answers that were not captured", ["cause"])
capture_files_deleted = Counter(
    "luthier_capture_files_deleted_total", "Capture files past their time, or after an opt-out"
)
queue_seconds = Histogram(
    "luthier_answer_queue_seconds",
    "Wait of a request for a slot in the engine's batch",
    buckets=(0.001, 0.005, *_SECONDS),
)
mirrored = Counter(
    "luthier_mirrored_total",
    "Copies of requests for a mirror, by how they ended: same, different, dropped, failed",
    ["outcome"],
)
mirror_skipped = Counter(
    "luthier_mirror_skipped_total",
    "HTTP requests that a mirror gets no copy of: tools, format, sampling (fields that a copy lacks), prompt "
    "(not a single text), answer (refused, cut off or too long)",
    ["reason"],
)
adapter_load_seconds = Histogram(
    "luthier_adapter_load_seconds",
    "Fetch, verification and load of an adapter, without waiting for a place",
    buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)
adapter_evictions = Counter("luthier_adapter_evictions_total", "Adapters that left memory to make room")
answers_in_flight = Gauge("luthier_answers_in_flight", "Completions being made, over gRPC and HTTP")


def observe_tokens(target: str, *, prompt: int, completion: int = 0) -> None:
    """Records the tokens of one answer; `target` is the kind of target."""
    prompt_tokens.labels(target).inc(prompt)
    completion_tokens.labels(target).inc(completion)


def observe_times(target: str, *, ttft_s: float, latency_s: float) -> None:
    """Records the times of one finished answer."""
    ttft_seconds.labels(target).observe(ttft_s)
    latency_seconds.labels(target).observe(latency_s)


http_closed = Counter(
    "luthier_http_connections_closed_total",
    "HTTP connections that the server ended, by cause: too_slow (a request that did not arrive in time), idle, "
    "replaced (a newcomer took the place)",
    ["cause"],
)
