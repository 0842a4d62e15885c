"""From the engine's deltas to the times and counts of an answer, and to a whole answer."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from luthierd.inference.domain.completion import Choice, Completion, Finish, Origin, TokenLogprob
from luthierd.inference.engine.engine import EngineDelta


@dataclass(kw_only=True)
class Progress:
    """What is known of an answer while it is made. `waited_s`: from the call's arrival until the engine had it."""

    open_choices: int = 1
    waited_s: float = 0.0
    ttft_s: float = 0.0
    queue_s: float = 0.0
    token_count: int = 0
    cached_prompt_token_count: int = 0
    finish_reason: str = ""
    parts: list[str] = field(default_factory=list)
    """Texts of the first choice."""

    def add(self, delta: EngineDelta, elapsed_s: float) -> None:
        """Counts a delta, `elapsed_s` after the call's arrival."""
        if self.token_count == 0:
            self.ttft_s = elapsed_s
        self.token_count += delta.token_count
        self.cached_prompt_token_count = max(self.cached_prompt_token_count, delta.cached_prompt_token_count)
        self.queue_s = self.queue_s or delta.queue_s
        self.open_choices -= bool(delta.finish_reason)
        if delta.choice == 0:
            self.parts.append(delta.text)
            self.finish_reason = delta.finish_reason or self.finish_reason

    @property
    def text(self) -> str:
        return "".join(self.parts)

    def finish(self, prompt_token_count: int, elapsed_s: float) -> Finish:
        """The end of the answer, `elapsed_s` after the call's arrival."""
        return Finish(
            finish_reason=self.finish_reason,
            prompt_token_count=prompt_token_count,
            completion_token_count=self.token_count,
            ttft_ms=self.ttft_s * 1000,
            latency_ms=elapsed_s * 1000,
            cached_prompt_token_count=self.cached_prompt_token_count,
            queue_ms=(self.waited_s + self.queue_s) * 1000,
        )


@dataclass(frozen=True)
class Delta:
    """A part of an answer, and who gives it. The last one has `finish`."""

    engine: EngineDelta
    origin: Origin
    response_id: str
    finish: Finish | None


@dataclass
class _Choice:
    parts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    token_count: int = 0
    finish_reason: str = ""


async def whole(deltas: AsyncGenerator[Delta, None]) -> Completion:
    """The answer that consists of these deltas."""
    choices: dict[int, _Choice] = {}
    last: Delta | None = None
    async with contextlib.aclosing(deltas):
        async for last in deltas:
            choice = choices.setdefault(last.engine.choice, _Choice())
            choice.parts.append(last.engine.text)
            choice.logprobs += last.engine.logprobs
            choice.token_count += last.engine.token_count
            choice.finish_reason = last.engine.finish_reason or choice.finish_reason
    assert last is not None
    assert last.finish is not None
    return Completion(
        choices=tuple(
            Choice(
                text="".join(one.parts),
                finish_reason=one.finish_reason,
                completion_token_count=one.token_count,
                logprobs=tuple(one.logprobs),
            )
            for _, one in sorted(choices.items())
        ),
        finish=last.finish,
        origin=last.origin,
        response_id=last.response_id,
    )
