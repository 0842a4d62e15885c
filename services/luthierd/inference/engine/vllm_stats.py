"""The statistics of vLLM's scheduler as our own metrics. Imported when an engine starts.

Without a statistics logger vLLM does not record the times of requests; its own logger labels metrics with the names of
adapters, whose number is unbounded.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.metrics.loggers import PrometheusStatLogger

from luthierd.inference import metrics


class SchedulerGauges(PrometheusStatLogger):
    """Replaces vLLM's own logger, which is added only if there is none of its kind."""

    def __init__(self, vllm_config: Any, engine_indexes: list[int] | None = None) -> None:
        pass  # the parent would register its metrics

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        if scheduler_stats is not None:
            metrics.engine_steps.inc()
            metrics.engine_running.set(scheduler_stats.num_running_reqs)
            metrics.engine_waiting.set(scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs)
            if (details := scheduler_stats.iteration_details) and details.num_generation_requests:
                metrics.engine_prefill_beside_tokens.observe(details.num_ctx_tokens)
            metrics.engine_cache_usage.set(scheduler_stats.kv_cache_usage)

    def log_engine_initialized(self) -> None:
        pass

    def record_sleep_state(self, sleep: int = 0, level: int = 0) -> None:
        pass

    def record_admission_rejection(self, reason: str) -> None:
        pass
