"""The log of answers: every answer's metadata, and the texts of tenants that opted in. It never holds an answer up.

An answer's end puts a record into a bounded queue; when that is full the record is dropped and counted. A background
task redacts and writes the records in batches, a second after their answer at the latest.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from luthierd.inference import metrics
from luthierd.inference.domain.completion import Finish, Origin, TokenIds, Turn
from luthierd.inference.domain.feedback import ABORTED, Captured, Response, Text
from luthierd.inference.feedback.capture_policies import CapturePolicies
from luthierd.inference.feedback.redaction import redact

log = logging.getLogger(__name__)

MAX_WAITING = 8192
"""Records that wait to be written: at 1,000 answers a second, eight seconds of a database that does not answer."""
MAX_WAITING_CHARACTERS = 32 * 1024 * 1024
MAX_TEXT_CHARACTERS = 256 * 1024
"""Longer prompts with their answers are not captured: a row of the files stays a row that can be read."""
BATCH = 256
WRITE_INTERVAL_S = 0.5
RETRY_INTERVAL_S = 2.0
MAX_ATTEMPTS = 30
"""After a minute of refusals a batch is given up, lest it stand in the way of all others."""

NO_OUTCOME = Finish(reason=ABORTED, prompt_token_count=0, completion_token_count=0, ttft_ms=0.0, latency_ms=0.0)

Prompt = str | Sequence[Turn] | TokenIds | None
"""Tokens are not captured: they are text of nobody until they are decoded. None: there is no text."""


class ResponseStore(Protocol):
    """Where answers are kept."""

    async def add(self, answers: Sequence[Captured]) -> int:
        """Keeps answers, and the texts of those tenants that still allow it; how many texts were kept."""


class Recording:
    """One answer while it is made. `add` its pieces, then `finish` it."""

    def __init__(self, *, wants_text: bool) -> None:
        self._pieces: list[str] | None = [] if wants_text else None
        self._character_count = 0
        self.outcome: Finish | None = None
        self.is_discarded = False
        """There was no answer: the request was refused."""

    def add(self, text: str) -> None:
        """A piece of the answer."""
        if self._pieces is not None:
            self._character_count += len(text)
            if self._character_count > MAX_TEXT_CHARACTERS:
                self.drop_text()
            else:
                self._pieces.append(text)

    def drop_text(self) -> None:
        """The answer is too long to be captured."""
        if self._pieces is not None:
            self._pieces = None
            metrics.captures_dropped.labels("too_long").inc()

    def finish(self, outcome: Finish) -> None:
        """How it ended. Without it, it was aborted."""
        self.outcome = outcome

    @property
    def completion(self) -> str | None:
        """The answer; None if it is not wanted, or too long."""
        return None if self._pieces is None else "".join(self._pieces)


class ResponseLog:
    """Records answers. `run` writes them; `flush` waits until what was recorded is written."""

    def __init__(
        self,
        store: ResponseStore,
        policies: CapturePolicies,
        *,
        max_waiting: int = MAX_WAITING,
        write_interval_s: float = WRITE_INTERVAL_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._policies, self._clock = store, policies, clock
        self._max_waiting, self._write_interval_s = max_waiting, write_interval_s
        self._waiting: OrderedDict[str, Captured] = OrderedDict()
        self._waiting_characters = 0
        self._wanted = asyncio.Event()
        self._writing = asyncio.Lock()

    @contextlib.contextmanager
    def recording(
        self, response_id: str, *, tenant: str, target: str, origin: Origin, prompt: Prompt, mirror_of: str = ""
    ) -> Iterator[Recording]:
        """Records the answer that is made in the block, also one that is aborted.

        `mirror_of`: the live answer's id, if this one is shadow traffic's; both are captured or neither.
        """
        messages = _turns(prompt)
        recording = Recording(
            wants_text=messages is not None and self._policies.of(tenant).takes(mirror_of or response_id)
        )
        try:
            yield recording
        finally:
            if not recording.is_discarded:
                outcome = recording.outcome or NO_OUTCOME
                response = Response(
                    response_id=response_id,
                    tenant=tenant,
                    target=target,
                    loaded_adapter=origin.loaded_adapter,
                    deployment_revision=origin.deployment_revision,
                    adapter_revision=origin.adapter_revision,
                    base_model=origin.base_model,
                    create_time=self._clock(),
                    finish_reason=outcome.reason,
                    prompt_token_count=outcome.prompt_token_count,
                    mirror_of=mirror_of,
                    ttft_ms=outcome.ttft_ms,
                    completion_token_count=outcome.completion_token_count,
                    latency_ms=outcome.latency_ms,
                )
                completion = recording.completion if recording.outcome is not None else None
                text = None if messages is None or completion is None else Text(messages, completion)
                self._put(Captured(response, text))

    def _put(self, answer: Captured) -> None:
        """Takes an answer into the queue, or drops it; awaits nothing."""
        size = answer.text.character_count if answer.text else 0
        if size > MAX_TEXT_CHARACTERS or self._waiting_characters + size > MAX_WAITING_CHARACTERS:
            metrics.captures_dropped.labels("too_long" if size > MAX_TEXT_CHARACTERS else "queue_full").inc()
            answer, size = Captured(answer.response), 0
        if len(self._waiting) >= self._max_waiting:
            metrics.responses_dropped.inc()
            return
        self._waiting[answer.response.response_id] = answer
        self._waiting_characters += size
        if len(self._waiting) >= BATCH:
            self._wanted.set()

    def is_waiting(self, response_id: str) -> bool:
        """Whether the answer ended, and is not written yet."""
        return response_id in self._waiting

    async def run(self) -> None:
        """Writes what was recorded, until cancelled. A background task of the server."""
        attempt_count = 0
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), self._write_interval_s)
            self._wanted.clear()
            try:
                await self.flush()
                attempt_count = 0
            except Exception:  # a database that is away must end neither the answers nor this task
                log.exception("answers could not be recorded", extra={"waiting_count": len(self._waiting)})
                attempt_count += 1
                if attempt_count >= MAX_ATTEMPTS:
                    metrics.responses_dropped.inc(self._forget(list(self._waiting.values())[:BATCH]))
                    attempt_count = 0
                await asyncio.sleep(RETRY_INTERVAL_S)

    async def flush(self) -> None:
        """Writes what is waiting now, and returns when it is written."""
        async with self._writing:
            left = len(self._waiting)
            while left > 0:
                batch = list(self._waiting.values())[: min(BATCH, left)]
                redacted = await asyncio.to_thread(_redacted, batch)
                kept = await self._store.add(redacted)
                metrics.captures_written.inc(kept)
                left -= self._forget(batch)

    def _forget(self, answers: Sequence[Captured]) -> int:
        """Takes answers out of the queue; how many."""
        for answer in answers:
            self._waiting_characters -= answer.text.character_count if answer.text else 0
            del self._waiting[answer.response.response_id]
        return len(answers)


def _turns(prompt: Prompt) -> tuple[Turn, ...] | None:
    if prompt is None or isinstance(prompt, TokenIds):
        return None
    return (Turn("user", prompt),) if isinstance(prompt, str) else tuple(prompt)


def _redacted(answers: Sequence[Captured]) -> list[Captured]:
    return [Captured(one.response, redacted_text(one.text) if one.text else None) for one in answers]


def redacted_text(text: Text) -> Text:
    """The text as it may be written."""
    return Text(tuple(Turn(turn.role, _clean(turn.content)) for turn in text.messages), _clean(text.completion))


def _clean(text: str) -> str:
    """Redacted, and without the halves of surrogate pairs that JSON lets through and no file takes."""
    return redact(text.encode("utf-8", "replace").decode())
