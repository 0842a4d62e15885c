"""How much of a proof a step may hold while others decode. No vLLM here."""

from __future__ import annotations

BACKGROUND = "luthier_background"
SCORED_FROM = "luthier_scored_from"
"""Keys of a request's `extra_args`, which vLLM carries to its scheduler and workers as they are: whether others go
first, and the first token of its prompt whose log-probability will be read.
"""

STEP_TOKENS = 29
"""A step costs as much as its tokens and so many more. Processor time of the 135M model's layers (float32, AVX2, one
thread): 102 ms for 8 tokens, 124 for 16, 147 for 24, 192 for 40, 454 for 136, which is 2.8 ms times 29 and the tokens.
"""
DECODING_SHARE, PROMPT_SHARE = 4, 16
"""A slice makes a step longer by one part in so many: one of decoding alone, and one with prompts, which are the long
ones already. Asked for: 99th percentile of gaps at most 1.25 times as long.
"""

_SCHEDULERS = "luthierd.inference.engine.vllm_scheduler"
WORKER_EXTENSION = "luthierd.inference.engine.vllm_worker.WorkerExtension"


def scheduler_name(*, is_async: bool) -> str:
    """The scheduler in place of vLLM's own of the same kind, by the name that vLLM's engine process imports it by."""
    return f"{_SCHEDULERS}.{'AsyncSlicingScheduler' if is_async else 'SlicingScheduler'}"


def slice_tokens(background_count: int, *, other_count: int, other_tokens: int) -> int:
    """Most tokens of each background request in the next step; 0: no limit, as nobody else is there.

    `other_tokens`: what the `other_count` others have in it, prompts included. At least one token: vLLM takes an
    adapter for out of the batch if its request gets none.
    """
    if not other_count:
        return 0
    share = PROMPT_SHARE if other_tokens > other_count else DECODING_SHARE
    return max((STEP_TOKENS + other_tokens) // share // background_count, 1)
