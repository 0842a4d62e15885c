"""Asking the inference service: bounded concurrency, each answer kept as it arrives, nothing asked again that was
answered. All arms share one window, so that none waits for another one's last answers; an endpoint, which is no load of
ours, has its own window.

After a `kill -9` at most the queries in flight are repeated. A query that the service refuses is a failed row; a
service that is away for longer than `patience_s` fails the evaluation, which resumes where it was, instead of scoring
its absence.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from luthierd.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    RetryableError,
    UnavailableError,
)
from luthierd.evaluator.domain.arm import Arm
from luthierd.evaluator.domain.rows import Answer, AnswerError, Message
from luthierd.evaluator.models.arms import Query


class InferenceAwayError(UnavailableError):
    """The inference service did not answer for longer than the evaluation waits."""

    reason = "INFERENCE_AWAY"


ROW_ERRORS = (InvalidArgumentError, DeadlineExceededError, InternalError)
"""Errors that one prompt can have by itself. Any other one (no such adapter, no permission) would fail every row
alike: it fails the evaluation instead.
"""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the inference service said. `ttft_s` is measured by the service from the arrival of the call."""

    text: str
    ttft_s: float
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    loaded_adapter: str


class ChatModel(Protocol):
    """The inference service. Raises RetryableError when it may succeed later, another LuthierError when it
    will not.
    """

    async def generate(
        self, arm: Arm, messages: Sequence[Message], *, max_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> Reply: ...


class Chooser(Protocol):
    """Log-probabilities of the inference service; see `multiple_choice.LikelihoodChooser`. Raises as `ChatModel`."""

    async def choose(self, arm: Arm, messages: Sequence[Message], choices: Sequence[str]) -> Reply: ...


class SampleStore(Protocol):
    """Where answers are kept. The first answer to a (arm, row) stays; adding another one changes nothing."""

    async def answers(self) -> Sequence[Answer]: ...

    async def add(self, answer: Answer, *, content_key: str | None = None) -> None: ...


class Cache(Protocol):
    """Answers of other evaluations; see `sample_store.SampleCache`."""

    async def reused(self, queries: Sequence[Query]) -> Sequence[Answer]: ...

    async def key(self, query: Query) -> str | None: ...


class Clock(Protocol):
    """Time, so that tests need none."""

    def now(self) -> float:
        """Unix time in seconds."""

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's time."""

    def now(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


# Called after each answer with (answers present, answers needed, the arm that answered); first with no arm.
Progress = Callable[[int, int, Arm | None], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Generator:
    """Asks queries, `concurrency` at a time, plus `endpoint_concurrency` of the endpoint's. `patience_s`: how
    long a query waits for a service that is away or full.
    """

    chat_model: ChatModel
    samples: SampleStore
    clock: Clock
    concurrency: int = 16
    endpoint_concurrency: int = 4
    max_tokens: int = 96
    patience_s: float = 120.0
    chooser: Chooser | None = None
    cache: Cache | None = None

    async def generate_all(
        self, queries: Sequence[Query], *, progress: Progress, done: Collection[tuple[Arm, str]] | None = None
    ) -> list[Answer]:
        """Asks what the journal lacks (`done`: what it holds, where the caller knows); returns the answers that are new
        in it. The first error that is not a row's own stops the others and is raised.
        """
        if done is None:
            done = {(answer.arm, answer.row_id) for answer in await self.samples.answers()}
        missing = unanswered(queries, done)
        new: list[Answer] = []
        if self.cache is not None and missing:
            for answer in await self.cache.reused(missing):
                await self.samples.add(answer)
                new.append(answer)
            missing = unanswered(missing, {(answer.arm, answer.row_id) for answer in new})
        count = len(queries) - len(missing)

        async def work(waiting: Iterator[Query]) -> None:
            nonlocal count
            for query in waiting:
                answer = await self._ask(query)
                await self.samples.add(answer, content_key=await self._content_key(query, answer))
                new.append(answer)
                count += 1
                await progress(count, len(queries), query.arm)

        await progress(count, len(queries), None)
        try:
            async with asyncio.TaskGroup() as group:
                for own, width in self._windows(missing):
                    waiting = iter(own)
                    for _ in range(min(width, len(own))):
                        group.create_task(work(waiting))
        except* Exception as failures:
            raise _first(failures) from failures
        return new

    def _windows(self, queries: Sequence[Query]) -> tuple[tuple[list[Query], int], ...]:
        """The queries of each window, in order, and how many of them may be in flight."""
        ours = [query for query in queries if query.arm is not Arm.ENDPOINT]
        theirs = [query for query in queries if query.arm is Arm.ENDPOINT]
        return (ours, self.concurrency), (theirs, min(self.concurrency, self.endpoint_concurrency))

    async def _content_key(self, query: Query, answer: Answer) -> str | None:
        return await self.cache.key(query) if self.cache is not None and answer.error is None else None

    async def _ask(self, query: Query) -> Answer:
        """One answer, or one failed row. Waits out RetryableError up to `patience_s`."""
        started = self.clock.now()
        while True:
            asked = self.clock.now()
            try:
                reply = await self._reply(query)
            except RetryableError as error:
                if self.clock.now() - started >= self.patience_s:
                    raise InferenceAwayError(
                        f"inference did not answer for {self.patience_s:.0f} s ({error}); start it, then evaluate "
                        "again: the answers so far are kept",
                        metadata={"patience_s": str(self.patience_s), "cause": error.reason},
                    ) from error
                await self.clock.sleep(min(10.0, max(0.1, error.retry_after_s)))
            except ROW_ERRORS as error:
                return self._failed(query, asked, AnswerError(error.reason, str(error)))
            else:
                return self._answered(query, asked, reply)

    async def _reply(self, query: Query) -> Reply:
        if query.choices:
            assert self.chooser is not None
            return await self.chooser.choose(query.arm, query.messages, query.choices)
        return await self.chat_model.generate(
            query.arm, query.messages, max_tokens=self.max_tokens, temperature=query.temperature, seed=query.seed
        )

    def _answered(self, query: Query, asked: float, reply: Reply) -> Answer:
        return Answer(
            arm=query.arm,
            row_id=query.row.id,
            text=reply.text,
            start_s=asked,
            ttft_s=reply.ttft_s,
            total_s=self.clock.now() - asked,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            finish_reason=reply.finish_reason,
            loaded_adapter=reply.loaded_adapter,
            shown_row_ids=query.shown_row_ids,
        )

    def _failed(self, query: Query, asked: float, error: AnswerError) -> Answer:
        return Answer(
            arm=query.arm,
            row_id=query.row.id,
            text="",
            start_s=asked,
            ttft_s=0.0,
            total_s=self.clock.now() - asked,
            prompt_tokens=0,
            completion_tokens=0,
            finish_reason="",
            loaded_adapter="",
            shown_row_ids=query.shown_row_ids,
            error=error,
        )


def unanswered(queries: Sequence[Query], done: Collection[tuple[Arm, str]]) -> list[Query]:
    """The queries without an answer, in order."""
    return [query for query in queries if (query.arm, query.row.id) not in done]


def _first(failures: ExceptionGroup[Exception]) -> Exception:
    error: Exception = failures
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
