"""Completions: the engine generates tokens under a lease, which ends after the last one."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace

from luthierd.errors import LuthierError
from luthierd.inference import metrics
from luthierd.inference.completions.leases import Leased, Leases
from luthierd.inference.completions.mirror import Copy, Mirror
from luthierd.inference.completions.progress import Delta, Progress, whole
from luthierd.inference.domain.completion import Completion, Origin, Prompt, Sampling, Target
from luthierd.inference.domain.errors import EngineUnavailableError, PromptTooLongError
from luthierd.inference.engine.engine import EngineRequest

MAX_PARALLEL = 8
"""Prompts of one batch in the engine at a time. A batch counts as one call in flight; it must not fill the engine."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The result of each prompt, in order. The response id of a result is the batch's and its index, `r-....0`."""

    results: tuple[Completion | LuthierError, ...]
    origin: Origin
    response_id: str


class Completions:
    """Use cases of completions, for gRPC and for the OpenAI protocol."""

    def __init__(self, leases: Leases, mirror: Mirror, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.leases, self._mirror, self._clock = leases, mirror, clock

    async def complete(
        self, target: Target, prompt: Prompt, sampling: Sampling, *, tenant: str, session_id: str = ""
    ) -> Completion:
        return await whole(self.stream(target, prompt, sampling, tenant=tenant, session_id=session_id))

    async def stream(
        self, target: Target, prompt: Prompt, sampling: Sampling, *, tenant: str, session_id: str = ""
    ) -> AsyncGenerator[Delta, None]:
        """The answer as deltas; the last one has `finish`. Closing the iterator stops the computation."""
        began_s = self._clock()
        async with self.leases.leased(target, tenant=tenant, session_id=session_id) as leased:
            await _check_structure(leased, sampling)
            deltas = self._deltas(leased, prompt, sampling, began_s=began_s, response_id=leased.response_id)
            async with contextlib.aclosing(deltas):
                async for delta in deltas:
                    yield delta

    async def batch(
        self, target: Target, prompts: Sequence[Prompt], sampling: Sampling, *, tenant: str, session_id: str = ""
    ) -> Batch:
        """Answers all prompts under one lease. EngineUnavailableError if the engine was lost for all of them."""
        began_s = self._clock()
        parallel = asyncio.Semaphore(MAX_PARALLEL)

        async def one(leased: Leased, index: int, prompt: Prompt) -> Completion | LuthierError:
            response_id = f"{leased.response_id}.{index}"
            async with parallel:
                try:
                    deltas = self._deltas(leased, prompt, sampling, began_s=began_s, response_id=response_id)
                    return await whole(deltas)
                except LuthierError as error:
                    return error

        async with self.leases.leased(target, tenant=tenant, session_id=session_id) as leased:
            await _check_structure(leased, sampling)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(leased, index, prompt)) for index, prompt in enumerate(prompts)]
        results = tuple(task.result() for task in tasks)
        lost = [result for result in results if isinstance(result, EngineUnavailableError)]
        if len(lost) == len(results):
            raise lost[0]
        return Batch(results=results, origin=leased.origin, response_id=leased.response_id)

    async def _deltas(
        self, leased: Leased, prompt: Prompt, sampling: Sampling, *, began_s: float, response_id: str
    ) -> AsyncGenerator[Delta, None]:
        """The answer to one prompt under a lease. `began_s`: the call's arrival."""
        leased.check_choices(sampling.choice_count, field="sampling.choice_count")
        async with contextlib.AsyncExitStack() as stack:
            answer_token_count = sampling.choice_count * min(sampling.max_tokens, leased.engine.window)
            charge = stack.enter_context(leased.charged(prompt, answer_token_count=answer_token_count))
            prompt_ids = await leased.tokens(prompt)
            request = _request(leased, prompt_ids, sampling, response_id)
            answer_token_count = sampling.choice_count * request.sampling.max_tokens
            charge.estimate(len(prompt_ids) + answer_token_count)
            slot = await stack.enter_async_context(
                leased.slot(
                    charge,
                    prompt_token_count=len(prompt_ids),
                    slot_count=sampling.choice_count,
                    max_answer_token_count=answer_token_count,
                )
            )
            progress = Progress(open_choices=sampling.choice_count, waited_s=self._clock() - began_s)
            deltas = await stack.enter_async_context(contextlib.aclosing(leased.engine.generate(request)))
            recording = stack.enter_context(self.leases.recording(leased, prompt, response_id=response_id))
            async for delta in deltas:
                elapsed_s = self._clock() - began_s
                progress.add(delta, elapsed_s)
                slot.answer_token_count = progress.token_count
                finish = None if progress.open_choices else progress.finish(len(prompt_ids), elapsed_s)
                if delta.choice == 0:
                    recording.add(delta.text)
                if finish is not None:
                    metrics.observe_tokens(leased.target.kind, prompt=len(prompt_ids), completion=progress.token_count)
                    metrics.observe_times(leased.target.kind, ttft_s=progress.ttft_s, latency_s=elapsed_s)
                    recording.finish(finish)
                    self._copy(leased, prompt, request, answer=progress.text)
                yield Delta(delta, leased.origin, response_id, finish)

    async def copy(self, leased: Leased, prompt: Prompt, sampling: Sampling, *, answer: str) -> None:
        """Offers the mirror what the OpenAI application answered. Raises no LuthierError."""
        with contextlib.suppress(LuthierError):
            request = _request(leased, await leased.tokens(prompt), sampling, leased.response_id)
            self._copy(leased, prompt, request, answer=answer)

    def _copy(self, leased: Leased, prompt: Prompt, request: EngineRequest, *, answer: str) -> None:
        revision = self.leases.mirror_of(leased)
        if revision is not None:
            copy = Copy(
                revision=revision,
                tenant=leased.tenant,
                target=leased.target.name,
                deployment_revision=leased.origin.deployment_revision,
                prompt=prompt,
                request=request,
                answer=answer,
            )
            self._mirror.offer(copy)


async def _check_structure(leased: Leased, sampling: Sampling) -> None:
    """InvalidArgumentError if the engine cannot constrain an answer to the required structure."""
    if sampling.structure is not None:
        await leased.engine.check_structure(sampling.structure, tenant=leased.tenant)


def _request(leased: Leased, prompt_ids: tuple[int, ...], sampling: Sampling, response_id: str) -> EngineRequest:
    """PromptTooLongError if the prompt leaves no room for an answer."""
    return EngineRequest(
        request_id=response_id,
        prompt_ids=prompt_ids,
        sampling=_bounded(sampling, len(prompt_ids), leased.engine.window),
        adapter=leased.adapter,
        cache_salt=leased.cache_salt,
        tenant=leased.tenant,
    )


def _bounded(sampling: Sampling, prompt_token_count: int, window: int) -> Sampling:
    """The sampling, cut to the room that the prompt leaves. PromptTooLongError if there is none."""
    room = window - prompt_token_count
    if room < 1:
        raise PromptTooLongError(prompt_token_count, window)
    return replace(sampling, max_tokens=min(sampling.max_tokens, room))
