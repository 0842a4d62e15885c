"""How much of a prompt a step may compute while other requests decode. Does not import vLLM."""

from __future__ import annotations

from collections.abc import Mapping

BACKGROUND = "luthier_background"
SCORED_FROM = "luthier_scored_from"
TENANT = "luthier_tenant"
EMBEDDED_AS = "luthier_embedded_as"
"""Keys of a request's `extra_args`, which vLLM passes to its scheduler and workers unchanged: whether other requests go
first, the first token of its prompt whose log-probability will be read, whose request it is, and the key under which
the workers keep its prompt's embedding.
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


PROMPT_TOKENS_PER_SEQUENCE = 4 / 3
"""Prompt tokens in a step, for each sequence that the batch can have, while several tenants have requests. With 32 + 16
sequences that is 64, twice the ordinary ones: a prompt of 2,000 takes 32 steps, each about as long as with a full batch
of short prompts and answers, instead of one step that is 20 times as long.
"""
PROMPT_TOKENS_GPU = 512
"""At least so many on a GPU, whose step costs about the same with some hundred tokens as with one."""
ALONE_TOKENS = 256
"""The same for a tenant that is alone. Its prompts take 10 % longer, but one that comes meanwhile waits .8 s, not 6."""
SAVED_STEPS = 8
"""A tenant that asks now and then saves its share of so many steps, and its prompt is computed at once."""


class PromptShares:
    """How much of each tenant's prompts goes into the next step: equal shares, and what others leave."""

    def __init__(self, tokens_per_step: int, *, alone_tokens: int = ALONE_TOKENS) -> None:
        self._tokens_per_step, self._alone_tokens = tokens_per_step, alone_tokens
        self._saved, self._left, self._used = dict[str, int](), dict[str, int](), dict[str, int]()

    def begin_step(self, wanted: Mapping[str, int]) -> None:
        """`wanted`: the prompt tokens of every tenant that has requests in the engine, 0 if it only decodes."""
        if len(wanted) < 2:
            self._saved, self._left = {}, dict.fromkeys(wanted, self._alone_tokens)
        else:
            share = self._tokens_per_step // len(wanted)
            most = SAVED_STEPS * share
            self._saved = {
                tenant: max(0, min(most, self._saved.get(tenant, most) + share - self._used.get(tenant, 0)))
                for tenant in wanted
            }
            granted = _divided(wanted, self._tokens_per_step)
            self._left = {tenant: granted[tenant] + self._saved[tenant] for tenant in wanted}
        self._used = dict.fromkeys(wanted, 0)

    def take(self, tenant: str, wanted: int, *, at_least: int) -> int:
        """How many of `wanted` prompt tokens the step computes."""
        given = max(at_least, min(wanted, self._left[tenant]))
        self._left[tenant] -= given
        self._used[tenant] += given
        return given


def _divided(wanted: Mapping[str, int], total: int) -> dict[str, int]:
    """Max-min fair: nobody gets more than wanted, and who wants more than the others gets no more than they could."""
    granted = {}
    for index, tenant in enumerate(sorted(wanted, key=lambda name: wanted[name])):
        granted[tenant] = min(wanted[tenant], total // (len(wanted) - index))
        total -= granted[tenant]
    return granted
