"""Shapes of a flood: the requests that one tenant sends by the dozen while another continues as before."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httpx
import luthier

FLOOD_FACTOR = 10
"""A flood of single answers has so many times the callers of a tenant's share."""
CALLERS = 16
"""Of a flood whose requests are large themselves."""
TIMEOUT_S = 120.0
LONG_ANSWER_TOKENS = 512
LONG_PROMPT_WORDS = 150
"""Of ten characters: fits into a window of 2,048 even if every character is a token. Too long ones are a flood, too."""
HUGE_PROMPT = "forty thousand words " * 150_000
"""3 MB, more than a window holds."""
HUGE_CALLERS = 6
INPUTS, CHOICES = 64, 8
"""The most that one request may ask for."""
LONG_ANSWER = {"max_tokens": LONG_ANSWER_TOKENS, "ignore_eos": True}


@dataclass(frozen=True, kw_only=True)
class Flooding:
    """A tenant that floods: its clients, and what it asks."""

    client: luthier.AsyncClient
    http: httpx.AsyncClient
    target: str


class RefusedError(Exception):
    """Refused over HTTP. `retry_after_s`: when to ask again; 0: the request is wrong."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"retry after {retry_after_s} s")
        self.retry_after_s = retry_after_s


Send = Callable[[Flooding, int], Awaitable[int]]
"""Sends the request of this number. The tokens that it got; LuthierError, RefusedError, httpx.HTTPError."""


@dataclass(frozen=True)
class Shape:
    """One kind of flood. `caller_count` by the share of a tenant; None: `FLOOD_FACTOR` times the share."""

    send: Send
    caller_count: int | None = CALLERS

    def callers(self, share: int) -> int:
        return self.caller_count or FLOOD_FACTOR * share


async def _streamed(flooding: Flooding, number: int, *, prompt: str = "", max_tokens: int = 0) -> int:
    prompt = prompt or f"Write about request number {number} in one line."
    stream = flooding.client.inference.generate_stream(
        flooding.target, prompt, max_tokens=max_tokens or 8 + 5 * number % 25, timeout_s=TIMEOUT_S
    )
    token_count = 0
    async with contextlib.aclosing(stream) as messages:
        async for message in messages:
            token_count += message.finish.completion_token_count
    return token_count


async def _long_answer(flooding: Flooding, number: int) -> int:
    return await _streamed(flooding, number, max_tokens=LONG_ANSWER_TOKENS)


async def _long_prompt(flooding: Flooding, number: int) -> int:
    return await _streamed(flooding, number, prompt=_words(number))


async def _huge_prompt(flooding: Flooding, number: int) -> int:
    return await _streamed(flooding, number, prompt=HUGE_PROMPT)


async def _batch(flooding: Flooding, number: int) -> int:
    inputs = [f"Write about {number} and {index}." for index in range(INPUTS)]
    answer = await flooding.client.inference.batch_generate(flooding.target, inputs, max_tokens=32, timeout_s=TIMEOUT_S)
    return sum(one.answer.finish.completion_token_count for one in answer.results)


async def _score(flooding: Flooding, number: int) -> int:
    await flooding.client.inference.score(flooding.target, _words(number), " yes", timeout_s=TIMEOUT_S)
    return 0


async def _posted(flooding: Flooding, path: str, body: dict[str, object]) -> int:
    """One request over HTTP."""
    response = await flooding.http.post(path, json={"model": flooding.target, **body}, timeout=TIMEOUT_S)
    if response.status_code != 200:
        raise RefusedError(float(response.headers.get("retry-after", 0)))
    return int(response.json()["usage"]["completion_tokens"])


async def _many_prompts(flooding: Flooding, number: int) -> int:
    prompts = [f"Write about {number} and {index}." for index in range(INPUTS)]
    return await _posted(flooding, "/v1/completions", {"prompt": prompts, "max_tokens": 32})


async def _many_choices(flooding: Flooding, number: int) -> int:
    prompts = [f"Write about {number} and {index}." for index in range(INPUTS)]
    body = {"prompt": prompts, "n": CHOICES, "temperature": 1, **LONG_ANSWER}
    return await _posted(flooding, "/v1/completions", body)


async def _many_choices_as_text(flooding: Flooding, number: int) -> int:
    body = {"prompt": f"Write about {number}.", "n": "1500", "temperature": 1, **LONG_ANSWER}
    return await _posted(flooding, "/v1/completions", body)


async def _chat_of_huge_messages(flooding: Flooding, number: int) -> int:
    messages = [{"role": "user", "content": HUGE_PROMPT[: 1024 * 1024]}] * 3
    return await _posted(flooding, "/v1/chat/completions", {"messages": messages})


async def _http_long_prompt(flooding: Flooding, number: int) -> int:
    messages = [{"role": "user", "content": _words(number)}]
    return await _posted(flooding, "/v1/chat/completions", {"messages": messages, "max_tokens": 16})


def _words(number: int) -> str:
    """A long text that no other request begins with, so that no cache has it."""
    return " ".join(f"word{number * LONG_PROMPT_WORDS + index:06}" for index in range(LONG_PROMPT_WORDS))


SHAPES = {
    "answers": Shape(_streamed, None),
    "long-answers": Shape(_long_answer, None),
    "long-prompts": Shape(_long_prompt),
    "huge-prompts": Shape(_huge_prompt, HUGE_CALLERS),
    "batches": Shape(_batch),
    "scores": Shape(_score),
    "http-prompts": Shape(_many_prompts),
    "http-choices": Shape(_many_choices),
    "http-choices-as-text": Shape(_many_choices_as_text),
    "http-long-prompts": Shape(_http_long_prompt),
    "http-huge-messages": Shape(_chat_of_huge_messages, HUGE_CALLERS),
}
"""By the name on the command line."""
