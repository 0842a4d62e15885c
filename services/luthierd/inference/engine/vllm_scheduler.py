"""VLLM's scheduler, with long prompts computed in slices and a limit for grammars. vLLM's engine process imports it.

A step computes one token of every answer and the prompts that arrived; the answers wait for all of it. One tenant's
prompts of 2,000 tokens would delay each token of the others' answers by some seconds on two cores, and a parity check's
of some hundred by 200 to 400 ms.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from vllm.platforms import current_platform
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request, RequestStatus

from luthierd.inference.engine.slices import (
    BACKGROUND,
    PROMPT_TOKENS_GPU,
    PROMPT_TOKENS_PER_SEQUENCE,
    TENANT,
    PromptShares,
    slice_tokens,
)

GRAMMAR_S, GRAMMAR_TOKEN_S = 0.25, 0.001
"""Processor time that a request's grammar may take in all, and for each token; usual are 10 microseconds for one."""


class SlicingScheduler(Scheduler):
    """Limits the prompt tokens in a step: of background requests while there are others, and of each tenant.

    When memory runs out, vLLM stops the last of `running`, which is a request of the tenant that holds the most.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        tokens = int(PROMPT_TOKENS_PER_SEQUENCE * self.max_num_running_reqs)
        if current_platform.is_cpu():
            self._shares = PromptShares(tokens)
        else:
            alone_tokens = self.max_num_scheduled_tokens
            self._shares = PromptShares(max(tokens, PROMPT_TOKENS_GPU), alone_tokens=alone_tokens)
        self._background_tokens = 0
        self._adapters_in_step: set[int] = set()
        _limit_grammars(self.structured_output_manager)

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """Divides the next step."""
        held, wanted, background_count = Counter[str](), dict[str, int](), 0
        for request in self.requests.values():
            tenant, count = _tenant(request), _next_tokens(request)
            held[tenant] += request.num_computed_tokens
            background_count += _is_background(request)
            if tenant:
                wanted[tenant] = wanted.get(tenant, 0) + (count if count > 1 else 0)
        if background_count:
            self._background_tokens = slice_tokens(
                background_count,
                other_count=len(self.requests) - background_count,
                other_tokens=sum(_next_tokens(one) for one in self.requests.values() if not _is_background(one)),
            )
        self._shares.begin_step(wanted)
        if len(held) > 1:
            self.running.sort(key=lambda request: held[_tenant(request)])
            waiting = sorted(self.waiting, key=lambda request: held[_tenant(request)])
            self.waiting.clear()
            self.waiting.extend(waiting)
        self._adapters_in_step.clear()
        return super().schedule(*args, **kwargs)

    def _reserve_prefill_lookahead(self, request: Request, num_computed_tokens: int, num_new_tokens: int) -> int:
        """Called by `schedule` with the tokens of each request, once those in the cache are known."""
        wanted = int(super()._reserve_prefill_lookahead(request, num_computed_tokens, num_new_tokens))
        adapter = request.lora_request.lora_int_id if request.lora_request else 0
        # With no token in a step, an adapter is out of the batch; with none for the first of the waiting, all wait.
        is_needed = adapter and adapter not in self._adapters_in_step
        at_least = 1 if is_needed or request.status is not RequestStatus.RUNNING else 0
        given, tenant = wanted, _tenant(request)
        if wanted > 1 and _is_background(request):
            given = min(wanted, self._background_tokens or wanted)
        elif wanted > 1 and tenant:
            given = self._shares.take(tenant, wanted, at_least=at_least)
        if given:
            self._adapters_in_step.add(adapter)
        return given


def _limit_grammars(manager: Any) -> None:
    """Ends a request, as vLLM ends one whose tokens do not fit, when its grammar has held up the steps of all others.

    Ambiguous ones take longer with every token, of which their check before (`grammar_worker`) sees only the first.
    """
    accept = manager.accept_tokens

    def accept_in_time(request: Request, token_ids: list[int]) -> bool:
        began_s = time.thread_time()
        is_accepted: bool = accept(request, token_ids)
        taken_s = getattr(request, "grammar_s", 0.0) + time.thread_time() - began_s
        request.grammar_s = taken_s
        return is_accepted and taken_s <= GRAMMAR_S + GRAMMAR_TOKEN_S * request.num_output_tokens

    manager.accept_tokens = accept_in_time


class AsyncSlicingScheduler(SlicingScheduler, AsyncScheduler):
    """The same for vLLM's scheduler that prepares a step while the previous one is computed."""


def _next_tokens(request: Request) -> int:
    """Tokens that a step could compute of it; an overestimate if its prompt is in the prefix cache."""
    return int(max(request.num_tokens_with_spec + request.num_output_placeholders - request.num_computed_tokens, 1))


def _marks(request: Request) -> dict[str, Any]:
    return (request.sampling_params and request.sampling_params.extra_args) or {}


def _tenant(request: Request) -> str:
    """Empty for the server's own requests."""
    return str(_marks(request).get(TENANT, ""))


def _is_background(request: Request) -> bool:
    return bool(_marks(request).get(BACKGROUND))
