"""Shadow traffic: a copy of a request is answered by another loaded adapter after its caller got the answer.

Copies yield to everybody: there is one at a time, it starts only while nobody waits for a seat, it ends as soon as
somebody does, and what finds the queue full is dropped. Each way a copy can end is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

from luthierd.errors import LuthierError
from luthierd.inference import metrics
from luthierd.inference.adapters.loaded_adapters import LoadedAdapters
from luthierd.inference.admission.fair_queue import Request
from luthierd.inference.domain.completion import Finish, Origin, Sampling, cache_salt
from luthierd.inference.domain.deployment import AdapterRevision
from luthierd.inference.engine.engine import EngineRequest
from luthierd.inference.engine.host import EngineHost
from luthierd.inference.feedback.capture import Prompt, Recording

log = logging.getLogger(__name__)

MAX_WAITING = 32
"""Copies that wait. Each holds a prompt and an answer."""
SHADOW_TENANT = ":mirror"
"""In whose name copies take their seats: nobody pays for them. No tenant's id has a colon."""


class Recorder(Protocol):
    """Remembers answers; see `capture.ResponseLog`."""

    def recording(
        self, response_id: str, *, tenant: str, target: str, origin: Origin, prompt: Prompt, mirror_of: str = ""
    ) -> AbstractContextManager[Recording]:
        """Remembers the answer that is made in the block, as the mirror of another."""


class Seats(Protocol):
    """Places in the engine's batch; see `admission.Admission`."""

    @property
    def waiting_count(self) -> int:
        """Requests that wait for one."""

    def seated(self, request: Request) -> contextlib.AbstractAsyncContextManager[object]:
        """A place, waited for."""


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A request that was answered. `answer`: its first choice. `revision`: who answers the copy."""

    revision: AdapterRevision
    tenant: str
    target: str
    deployment_revision: int
    response_id: str
    prompt: Prompt
    prompt_ids: tuple[int, ...]
    sampling: Sampling
    answer: str


class Mirror:
    """Answers copies. `run` is a background task of the server."""

    def __init__(
        self,
        *,
        loaded_adapters: LoadedAdapters,
        host: EngineHost,
        seats: Seats,
        recorder: Recorder,
        clock: Callable[[], float],
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._loaded_adapters, self._host, self._seats, self._recorder = loaded_adapters, host, seats, recorder
        self._clock = clock
        self._waiting: asyncio.Queue[Copy] = asyncio.Queue(max_waiting)

    def offer(self, copy: Copy) -> None:
        """Takes the copy, or drops it; awaits nothing."""
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
                if self._seats.waiting_count == 0:
                    outcome = await self._answer(copy)
            except LuthierError as error:
                outcome = "failed"
                log.info("a copy could not be answered", extra={"reason": error.reason, "target": copy.target})
            except Exception:  # an engine's defect must not end the task
                outcome = "failed"
                log.exception("a copy broke", extra={"target": copy.target})
            finally:
                metrics.mirrored.labels(outcome).inc()
                self._waiting.task_done()

    async def answered(self) -> None:
        """Returns when no copy waits or runs."""
        await self._waiting.join()

    async def _answer(self, copy: Copy) -> str:
        """How it ended: `same` or `different` from the caller's answer, or `dropped`."""
        began_s, revision = self._clock(), copy.revision
        origin = Origin(
            loaded_adapter=revision.loaded_adapter,
            deployment_revision=copy.deployment_revision,
            adapter_revision=revision.name,
            base_model=revision.base_model.name,
        )
        response_id = f"r-{uuid.uuid4().hex}"
        sampling = replace(copy.sampling, choice_count=1, top_logprob_count=None)
        async with self._loaded_adapters.lease_on_demand(revision) as adapter:
            request = EngineRequest(
                request_id=response_id,
                prompt_ids=copy.prompt_ids,
                sampling=sampling,
                adapter=adapter,
                cache_salt=cache_salt(copy.tenant, revision.loaded_adapter),
            )
            seat = self._seats.seated(
                Request(
                    tenant=SHADOW_TENANT,
                    adapter=adapter.engine_name,
                    prompt_token_count=len(copy.prompt_ids),
                    max_answer_token_count=sampling.max_tokens,
                )
            )
            async with seat, contextlib.aclosing(self._host.ready_engine().generate(request)) as pieces:
                recording = self._recorder.recording(
                    response_id,
                    tenant=copy.tenant,
                    target=copy.target,
                    origin=origin,
                    prompt=copy.prompt,
                    mirror_of=copy.response_id,
                )
                with recording as record:
                    text, token_count, ttft_s, reason = "", 0, 0.0, ""
                    async for piece in pieces:
                        if self._seats.waiting_count:
                            record.is_discarded = True
                            return "dropped"
                        ttft_s = ttft_s or self._clock() - began_s
                        text, token_count = text + piece.text, token_count + piece.token_count
                        reason = piece.finish_reason or reason
                        record.add(piece.text)
                    record.finish(
                        Finish(
                            reason=reason,
                            prompt_token_count=len(copy.prompt_ids),
                            completion_token_count=token_count,
                            ttft_ms=ttft_s * 1000,
                            latency_ms=(self._clock() - began_s) * 1000,
                        )
                    )
        return "same" if text == copy.answer else "different"
