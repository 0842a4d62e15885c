"""How much of a parity check a step may compute while other requests decode. Does not import vLLM."""

from __future__ import annotations

BACKGROUND = "luthier_background"
SCORED_FROM = "luthier_scored_from"
"""Keys of a request's `extra_args`, which vLLM passes to its scheduler and workers unchanged: whether other requests go
first, and the first token of its prompt whose log-probability will be read.
"""

STEP_TOKENS = 29
"""A step costs as much as this many additional tokens. Processor time of the 135M model's layers (float32, AVX2, one
thread): 102 ms for 8 tokens, 124 for 16, 147 for 24, 192 for 40, 454 for 136, which is 2.8 ms times (29 + tokens).
"""
DECODING_SHARE, PROMPT_SHARE = 4, 16
"""A slice lengthens a step by 1/4 if it only decodes, by 1/16 if it has prompts and so is long already. The goal: the
99th percentile of the gaps between tokens is at most 1.25 times as long.
"""

_SCHEDULERS = "luthierd.inference.engine.vllm_scheduler"
WORKER_EXTENSION = "luthierd.inference.engine.vllm_worker.WorkerExtension"


def scheduler_name(*, is_async: bool) -> str:
    """The import path of the scheduler that replaces vLLM's own of the same kind."""
    return f"{_SCHEDULERS}.{'AsyncSlicingScheduler' if is_async else 'SlicingScheduler'}"


def slice_tokens(background_count: int, *, other_count: int, other_tokens: int) -> int:
    """Maximum tokens of each background request in the next step; 0: no limit, because there are no other requests.

    `other_tokens`: tokens of the `other_count` other requests in the step, prompts included. The result is at least 1:
    with 0 tokens, vLLM would consider the request's adapter to be out of the batch.
    """
    if not other_count:
        return 0
    share = PROMPT_SHARE if other_tokens > other_count else DECODING_SHARE
    return max((STEP_TOKENS + other_tokens) // share // background_count, 1)
