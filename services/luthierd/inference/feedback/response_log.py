"""The log of answers: the metadata of each, and the texts of tenants that opted in. It never delays an answer.

When an answer ends, a record goes into a bounded queue; if the queue is full the record is dropped and counted. A
background task redacts and writes the records in batches, at most a second after their answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

from luthierd.inference import metrics
from luthierd.inference.completions.recording import MAX_TEXT_CHARACTERS, Recording
from luthierd.inference.domain.completion import ABORTED, Finish, Origin, Prompt, TokenIds, ToolCall, Turn
from luthierd.inference.domain.feedback import Captured, Response, Text
from luthierd.inference.feedback.capture_policies import CapturePolicies
from luthierd.inference.feedback.redaction import redact
from luthierd.inference.feedback.store import SqlCaptureStore

log = logging.getLogger(__name__)

MAX_WAITING = 8192
"""Records that wait to be written: at 1,000 answers a second, eight seconds of an unreachable database."""
MAX_WAITING_CHARACTERS = 32 * 1024 * 1024
BATCH = 256
WRITE_INTERVAL_S = 0.5
RETRY_INTERVAL_S = 2.0
MAX_ATTEMPTS = 30
"""A batch that cannot be written for a minute is given up, so that it does not block the others."""

NO_OUTCOME = Finish(finish_reason=ABORTED, prompt_token_count=0)


class ResponseLog:
    """Records answers. `run` writes them; `flush` waits until what was recorded is written."""

    def __init__(
        self,
        store: SqlCaptureStore,
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
        self, response_id: str, *, tenant: str, target: str, origin: Origin, prompt: Prompt | None, mirror_of: str = ""
    ) -> Iterator[Recording]:
        """Records the answer made in the block, also an aborted one.

        `mirror_of`: the id of the live answer that it copies; both are captured or neither.
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
                    **vars(origin),
                    create_time=self._clock(),
                    finish_reason=outcome.finish_reason,
                    prompt_token_count=outcome.prompt_token_count,
                    completion_token_count=outcome.completion_token_count,
                    ttft_ms=outcome.ttft_ms,
                    latency_ms=outcome.latency_ms,
                    mirror_of=mirror_of,
                )
                completion = recording.completion
                text = None if messages is None or completion is None else Text(messages, completion)
                self._put(Captured(response, text))

    def _put(self, answer: Captured) -> None:
        """Queues an answer or drops it; awaits nothing."""
        size = _size(answer)
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
        """Whether the answer ended but is not written yet."""
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
            except Exception:  # an unreachable database must end neither the answers nor this task
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
                metrics.captures_written.inc(await self._store.add(redacted))
                left -= self._forget(batch)

    def _forget(self, answers: Sequence[Captured]) -> int:
        """Removes answers from the queue; how many."""
        for answer in answers:
            self._waiting_characters -= _size(answer)
            del self._waiting[answer.response.response_id]
        return len(answers)


def _size(answer: Captured) -> int:
    return answer.text.character_count if answer.text else 0


def _turns(prompt: Prompt | None) -> tuple[Turn, ...] | None:
    """None for token ids, too: they are not captured, as they are only text once they are decoded."""
    if prompt is None or isinstance(prompt, TokenIds):
        return None
    return (Turn("user", prompt),) if isinstance(prompt, str) else tuple(prompt)


def _redacted(answers: Sequence[Captured]) -> list[Captured]:
    return [Captured(one.response, redacted_text(one.text) if one.text else None) for one in answers]


def redacted_text(text: Text) -> Text:
    return Text(tuple(map(_redacted_turn, text.messages)), _clean(text.completion))


def _redacted_turn(turn: Turn) -> Turn:
    calls = tuple(ToolCall(*map(_clean, call)) for call in turn.tool_calls)
    texts = {name: _clean(value) for name, value in vars(turn).items() if isinstance(value, str)}
    return Turn(**texts, tool_calls=calls)


def _clean(text: str) -> str:
    """Redacted, and without lone surrogates, which JSON allows but no file can store."""
    return redact(text.encode("utf-8", "replace").decode())
