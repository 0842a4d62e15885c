"""How much of a proof a step may hold while others decode. No vLLM here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

BACKGROUND = "luthier_background"
"""Key of a request's `extra_args`, which vLLM carries to its scheduler as they are."""

STEP_TOKENS = 29
"""A step costs as much as its tokens and so many more. Processor time of the 135M model's layers (float32, AVX2, one
thread): 102 ms for 8 tokens, 124 for 16, 147 for 24, 192 for 40, 454 for 136, which is 2.8 ms times 29 and the tokens.
"""
DECODING_SHARE, PROMPT_SHARE = 4, 16
"""A slice makes a step longer by one part in so many, even if no step of late was longer: a step of decoding alone, and
one with prompts, which are the long ones already. Asked for: 99th percentile of gaps at most 1.25 times as long.
"""
STEPS_OF_LATE, FELT_SHARE = 100, 0.02
"""A step's length is felt by the answers that have a token before it: what this share of them felt in steps of late is
about the 99th percentile of their gaps.
"""

_SCHEDULERS = "luthierd.inference.engine.vllm_scheduler"


def scheduler_name(*, is_async: bool) -> str:
    """The scheduler in place of vLLM's own of the same kind, by the name that vLLM's engine process imports it by."""
    return f"{_SCHEDULERS}.{'AsyncSlicingScheduler' if is_async else 'SlicingScheduler'}"


class Step(NamedTuple):
    """A step without its background: how many tokens it computed, and how many answers waited for it."""

    token_count: int
    waiting_count: int


def usual_longest(steps: Iterable[Step]) -> int:
    """Tokens of a step that answers are used to wait for: `FELT_SHARE` of their gaps were so long, or longer."""
    longest_first = sorted(steps, reverse=True)
    left = FELT_SHARE * sum(step.waiting_count for step in longest_first)
    for step in longest_first:
        left -= step.waiting_count
        if left <= 0:
            return step.token_count if step.waiting_count else 0
    return 0


def slice_tokens(background_count: int, *, other_count: int, other_tokens: int, longest_tokens: int) -> int:
    """Most tokens of each background request in the next step; 0: no limit, as nobody else is there.

    The step is filled up to `longest_tokens`, which others are used to. `other_tokens`: what the `other_count` others
    have in this one, prompts included. At least one token: vLLM takes an adapter for out of the
    batch if its request gets none.
    """
    if not other_count:
        return 0
    share = PROMPT_SHARE if other_tokens > other_count else DECODING_SHARE
    together = max(longest_tokens - other_tokens, (STEP_TOKENS + other_tokens) // share)
    return max(together // background_count, 1)
