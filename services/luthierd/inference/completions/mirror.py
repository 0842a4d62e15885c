"""Shadow traffic: a copy of a request is answered by another loaded adapter after the caller got its answer.

Copies give way to all requests: one runs at a time, it starts only while no request waits for a slot, it stops as soon
as one does, and copies that find the queue full are dropped. Every outcome is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace

from luthierd.errors import LuthierError
from luthierd.inference import metrics
from luthierd.inference.adapters.loaded_adapters import LoadedAdapters
from luthierd.inference.admission.admission import Admission
from luthierd.inference.admission.fair_queue import Request
from luthierd.inference.completions.progress import Progress
from luthierd.inference.completions.recording import Recorder
from luthierd.inference.domain.completion import Origin, Prompt, cache_salt
from luthierd.inference.domain.deployment import AdapterRevision
from luthierd.inference.engine.engine import EngineRequest
from luthierd.inference.engine.host import EngineHost

log = logging.getLogger(__name__)

MAX_WAITING = 32
"""Copies that wait. Each holds a prompt and an answer."""
SHADOW_TENANT = ":mirror"
"""The tenant of copies, which nobody is charged for. No tenant's id has a colon."""


@dataclass(frozen=True, kw_only=True)
class Copy:
    """An answered `request`. `answer`: its first choice. `revision`: answers the copy."""

    revision: AdapterRevision
    tenant: str
    target: str
    deployment_revision: int
    prompt: Prompt
    request: EngineRequest
    answer: str


class Mirror:
    """Answers copies. `run` is a background task of the server."""

    def __init__(
        self,
        *,
        loaded_adapters: LoadedAdapters,
        host: EngineHost,
        admission: Admission,
        recorder: Recorder,
        clock: Callable[[], float],
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._loaded_adapters, self._host, self._admission = loaded_adapters, host, admission
        self._recorder, self._clock = recorder, clock
        self._waiting: asyncio.Queue[Copy] = asyncio.Queue(max_waiting)

    def offer(self, copy: Copy) -> None:
        """Queues the copy or drops it; awaits nothing."""
        try:
            self._waiting.put_nowait(copy)
        except asyncio.QueueFull:
            metrics.mirrored.labels("dropped").inc()

    async def run(self) -> None:
        """Answers one copy after the other, until cancelled."""
        while True:
            copy = await self._waiting.get()
            outcome = "dropped"
            try:
                if self._admission.waiting_count == 0:
                    outcome = await self._answer(copy)
            except LuthierError as error:
                outcome = "failed"
                log.info("a copy could not be answered", extra={"reason": error.reason, "target": copy.target})
            except Exception:  # a defect of the engine must not end the task
                outcome = "failed"
                log.exception("a copy failed", extra={"target": copy.target})
            finally:
                metrics.mirrored.labels(outcome).inc()
                self._waiting.task_done()

    async def answered(self) -> None:
        """Returns when no copy waits or runs."""
        await self._waiting.join()

    async def _answer(self, copy: Copy) -> str:
        """The outcome: `same` or `different` from the caller's answer, or `dropped`."""
        began_s, revision = self._clock(), copy.revision
        response_id, progress = f"r-{uuid.uuid4().hex}", Progress()
        async with contextlib.AsyncExitStack() as stack:
            adapter = await stack.enter_async_context(self._loaded_adapters.lease_on_demand(revision))
            request = replace(
                copy.request,
                request_id=response_id,
                sampling=replace(copy.request.sampling, choice_count=1, top_logprob_count=None),
                adapter=adapter,
                cache_salt=cache_salt(copy.tenant, revision.loaded_adapter),
            )
            place = Request(
                tenant=SHADOW_TENANT,
                adapter=adapter.engine_name,
                prompt_token_count=len(request.prompt_ids),
                max_answer_token_count=request.sampling.max_tokens,
            )
            await stack.enter_async_context(self._admission.slot_for(place))
            engine = self._host.ready_engine()
            deltas = await stack.enter_async_context(contextlib.aclosing(engine.generate(request)))
            recording = stack.enter_context(
                self._recorder.recording(
                    response_id,
                    tenant=copy.tenant,
                    target=copy.target,
                    origin=Origin.of_revision(revision, deployment_revision=copy.deployment_revision),
                    prompt=copy.prompt,
                    mirror_of=copy.request.request_id,
                )
            )
            async for delta in deltas:
                if self._admission.waiting_count:
                    recording.is_discarded = True
                    return "dropped"
                progress.add(delta, self._clock() - began_s)
                recording.add(delta.text)
            recording.finish(progress.finish(len(request.prompt_ids), self._clock() - began_s))
        return "same" if progress.text == copy.answer else "different"
