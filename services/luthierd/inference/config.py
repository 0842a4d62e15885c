"""Settings of the inference service."""

from __future__ import annotations

from dataclasses import dataclass

from luthierd.config import ServerConfig


@dataclass(frozen=True, kw_only=True)
class InferenceConfig(ServerConfig):
    """Read from `LUTHIER_INFERENCE_*`; see `ServerConfig` for what all services share."""

    http_port: int = 0
    """Port of the OpenAI-compatible endpoint; 0 takes a free one."""
    http_allowed_origins: str = ""
    """Origins whose web pages may call the OpenAI-compatible endpoint (CORS), separated by commas; * allows all."""
    max_http_body_bytes: int = 4 * 1024 * 1024
    """Largest body of an HTTP request."""
    max_http_header_bytes: int = 32 * 1024
    """Largest header of an HTTP request."""
    max_http_connections: int = 1024
    """Open HTTP connections. When there are more, the tenant that has most loses the one that was idle longest."""
    max_http_unauthenticated: int = 256
    """Of these, the connections on which no valid token has come yet; the others are reserved for tenants."""
    http_header_limit_s: float = 10.0
    """Seconds for a connection without a token to send the header of its next request."""
    http_body_limit_s: float = 60.0
    """Seconds for the body of a request."""
    http_idle_limit_s: float = 60.0
    """Seconds that a tenant's connection may be idle between two requests."""
    max_answer_s: float = 600.0
    """Longest time for an answer, from the arrival of the call, including the wait for the engine's start."""
    reader_limit_s: float = 30.0
    """A stream is given up if its client reads nothing for so long while the buffer is full."""
    engine: str = "vllm"
    """Which engine answers: vllm, or transformers (PEFT; runs anywhere, slower; serves gRPC only)."""
    max_in_flight: int = 256
    """Calls in flight, running and waiting; more are refused with RESOURCE_EXHAUSTED."""
    max_in_flight_per_tenant: int = 128
    """Calls in flight of one tenant."""
    max_num_seqs: int = 32
    """Answers that the engine computes at a time; the others wait in fair order."""
    spare_batch: int = 16
    """Additional sequences for tenants below their share of `max_num_seqs`: they start at once despite a flood."""
    max_loras: int = 8
    """Different adapters in one batch. Each takes memory for the largest rank."""
    adapter_patience: int = 4
    """How often a request may be passed over because its adapter is not in the batch, before a place is cleared."""
    quota_requests_per_minute: int = 0
    """Default quota of a tenant; 0: no limit. The same for the next three."""
    quota_tokens_per_minute: int = 0
    """Tokens of prompts and answers."""
    quota_concurrent_requests: int = 0
    """Calls in flight, running and waiting."""
    quota_deployed_adapters: int = 0
    """Different adapters that are live or staged."""
    max_cpu_loras: int = 32
    """Adapters in memory; deployments may hold more, of which the idle ones stay on disk until their next request."""
    max_unheld_adapters: int = 4
    """Adapters in memory that no deployment holds (those of evaluations)."""
    max_adapter_bytes: int = 1024 * 1024 * 1024
    """Maximum size of an adapter revision, all files."""
    response_retention_s: float = 7 * 86400.0
    """Seconds after its end in which feedback on an answer is accepted."""
    capture_part_s: float = 300.0
    """Seconds after which captured texts are written to a Parquet file, unless there are enough before."""
    capture_sweep_s: float = 60.0
    """Seconds between two checks for texts to write to files and for expired data to delete."""
    max_model_len: int = 2048
    """Maximum tokens of prompt and answer; at most the base model's own window."""
    kv_cache_gib: int = 1
    """Memory of the key-value cache on a CPU."""
    gpu_memory_utilization: float = 0.0
    """Share of the device's memory for the engine; 0: 0.3 on a CPU, 0.9 on a GPU."""
    dtype: str = "auto"
    """Data type of weights and activations; auto: bfloat16 on a GPU and on CPUs that support it, else float32."""
    tensor_parallel: int = 1
    """Devices that share each layer of the base model."""
    pipeline_parallel: int = 1
    """Groups of devices that share the base model's layers, one group after the other."""
    distributed_executor: str = "auto"
    """What runs the devices' processes: uni (one process), mp (one machine), ray (machines); auto: vLLM chooses."""
    tool_call_parser: str = "hermes"
    """vLLM's parser of the base model's tool calls (HTTP only); none: requests with tools are refused."""
    replica_name: str = ""
    """Name of this replica, plus a random suffix; empty: the host's name. Replicas share a PostgreSQL database."""
    replica_lease_s: float = 5.0
    """A dead replica delays a swap by at most this time."""
    replica_poll_s: float = 0.2
    """Time between two polls for what other replicas publish and intend."""
    replica_check_s: float = 300.0
    """Longest time that a swap waits for the other replicas to load and check a revision."""
    enforce_eager: bool = True
    """Skip compilation and CUDA graphs: starts sooner; slower on a GPU."""
