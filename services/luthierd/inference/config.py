"""Settings of the inference service."""

from __future__ import annotations

from dataclasses import dataclass

from luthierd.config import ServerConfig
from luthierd.inference.domain.quota import Limits


@dataclass(frozen=True, kw_only=True)
class InferenceConfig(ServerConfig):
    """Read from `LUTHIER_INFERENCE_*`; see `ServerConfig` for what all services share."""

    http_port: int = 0
    """Port of the OpenAI-compatible endpoint; 0 takes a free one."""
    max_http_body_bytes: int = 4 * 1024 * 1024
    """Largest body of an HTTP request."""
    max_answer_s: float = 600.0
    """Longest that an answer may take, from the arrival of the call, the wait for the engine's start included."""
    reader_limit_s: float = 30.0
    """A stream whose caller reads nothing for so long, while more waits than is kept for it, is given up."""
    engine: str = "vllm"
    """Which engine answers: vllm, or transformers (PEFT; runs anywhere, slower; answers gRPC only)."""
    max_in_flight: int = 256
    """Calls at a time, running and waiting; more are refused with RESOURCE_EXHAUSTED."""
    max_in_flight_per_tenant: int = 128
    """Of them, calls of one tenant."""
    max_num_seqs: int = 32
    """Answers that the engine computes at a time; the others wait, and tenants take turns."""
    spare_batch: int = 16
    """Extra sequences, only for tenants below their share of `max_num_seqs`: they start at once despite a flood."""
    max_loras: int = 8
    """Different adapters in one batch. Each costs memory for the largest rank."""
    adapter_patience: int = 4
    """Times that a request may be passed over because its adapter is not in the batch, before a place is cleared."""
    quota_requests_per_minute: int = 0
    """Of a tenant for which nothing else was set; 0: no limit. The same for the next three."""
    quota_tokens_per_minute: int = 0
    """Tokens of prompts and answers."""
    quota_concurrent_requests: int = 0
    """Running and waiting."""
    quota_deployed_adapters: int = 0
    """Different adapters that are live or staged."""
    max_cpu_loras: int = 32
    """Adapters in memory; deployments may hold more, the idle ones then wait on disk for their next request."""
    max_unheld_adapters: int = 4
    """Of them, adapters that no deployment holds (those of evaluations)."""
    max_lora_rank: int = 32
    """Largest rank: 8, 16, 32, 64, 128, 256, 320 or 512."""
    max_adapter_bytes: int = 1024 * 1024 * 1024
    """Largest adapter revision, all files."""
    response_retention_s: float = 7 * 86400.0
    """Seconds after its end in which feedback on an answer is taken."""
    capture_part_s: float = 300.0
    """Seconds after which captured texts go into a Parquet file, unless they are many before that."""
    capture_sweep_s: float = 60.0
    """Seconds between two looks at what is to be written into files, or to be deleted as its time is over."""
    max_model_len: int = 2048
    """Most tokens of prompt and answer; at most the base model's own window."""
    kv_cache_gib: int = 1
    """Memory of the key-value cache on a CPU."""
    gpu_memory_utilization: float = 0.0
    """Share of the device's memory for the engine; 0: 0.3 on a CPU, 0.9 on a GPU."""
    dtype: str = "auto"
    """Of weights and activations; auto: bfloat16 on a GPU and on CPUs that compute with it, else float32."""
    tensor_parallel: int = 1
    """Devices that share each layer of the base model."""
    pipeline_parallel: int = 1
    """Groups of devices that share the base model's layers, one group after the other."""
    distributed_executor: str = "auto"
    """What runs the devices' processes: uni (just one), mp (one machine), ray (many machines); auto: vLLM's choice."""
    tool_call_parser: str = "hermes"
    """How the base model writes calls of tools, by vLLM's name (HTTP only); none: requests with tools are refused."""
    replica_name: str = ""
    """How others call this replica, with a random ending; empty: the host's name. Replicas share a PostgreSQL."""
    replica_lease_s: float = 5.0
    """A replica that died holds up a swap so long at most."""
    replica_poll_s: float = 0.2
    """Between two looks at what other replicas publish and intend."""
    replica_proof_s: float = 300.0
    """Longest that a swap waits for the other replicas to load and prove a revision."""
    enforce_eager: bool = True
    """Skip compilation and CUDA graphs: starts sooner; on a GPU, slower."""

    @property
    def default_limits(self) -> Limits:
        """The quota of a tenant for which nothing else was set."""
        return Limits(
            requests_per_minute=self.quota_requests_per_minute,
            tokens_per_minute=self.quota_tokens_per_minute,
            concurrent_requests=self.quota_concurrent_requests,
            deployed_adapters=self.quota_deployed_adapters,
        )
