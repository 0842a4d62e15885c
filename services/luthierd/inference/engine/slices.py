"""How much of a proof a step may hold while others decode. No vLLM here."""

from __future__ import annotations

BACKGROUND = "luthier_background"
"""Key of a request's `extra_args`, which vLLM carries to its scheduler as they are."""

SLICE_TOKENS = 8
"""Processor time of the 135M model's layers (float32, AVX2, one thread) for 8 rows, a step of eight answers: 102 ms;
with 8 more 124 (1.21 times), 16 more 147 (1.43), 32 more 192 (1.88), 128 more 454 (4.4). Asked for: at most 1.25.
"""

_SCHEDULERS = "luthierd.inference.engine.vllm_scheduler"


def scheduler_name(*, is_async: bool) -> str:
    """The scheduler in place of vLLM's own of the same kind, by the name that vLLM's engine process imports it by."""
    return f"{_SCHEDULERS}.{'AsyncSlicingScheduler' if is_async else 'SlicingScheduler'}"


def slice_tokens(background_count: int, *, other_count: int) -> int:
    """Most tokens of each background request in the next step; 0: no limit, as nobody else is there.

    They share `SLICE_TOKENS`, with one at least: vLLM takes an adapter for out of the batch if its request gets none.
    """
    return max(SLICE_TOKENS // background_count, 1) if other_count else 0
