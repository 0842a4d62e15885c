"""Prompts are read before they are answered: bounded, and turned into tokens, without delaying other tenants.

What cannot fit into the model's window is refused by its characters, or after as many pieces as the window can take. A
tenant reads one prompt at a time, and the tenants take turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from luthierd.inference.domain.errors import PromptTooLongError
from luthierd.inference.engine.engine import Engine

READERS = 2
"""Threads that read prompts at a time. The engine and the event loop need the other cores."""
PIECE_CHARACTERS = 8192
"""A long prompt is counted in pieces of this size; a tokenizer takes some milliseconds for one."""
PIECE_SLACK_TOKENS = 8
"""A cut between two pieces adds at most so many tokens to their count."""
REFUSED_PER_S = 20_000_000
"""Characters of prompts that are too long, of one tenant; what they cost is to receive them."""
REFUSAL_PAUSES = 4
"""How many times as long as it was read a refused prompt holds its tenant's turn."""
MAX_TEXTS_PER_TOKEN = 8
"""Texts may be empty, and a chat template may leave some out; but it adds some tokens for each message."""
CHARACTERS_PER_TOKEN = 4
"""Of English text, roughly (OpenAI's rule of thumb); used only to charge a request until its tokens are known."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a request asks of an application that reads its prompts itself.

    `prompts`: the texts of each prompt. `prompt_token_count` and `answer_token_count`: estimates of all prompts and
    answers together. `choice_count`: answers to each prompt.
    """

    prompts: tuple[tuple[str, ...], ...]
    prompt_token_count: int
    answer_token_count: int
    choice_count: int = 1


@dataclass
class _Own:
    """A tenant's place. `user_count`: prompts that wait for it or have it."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    user_count: int = 0


class Turns:
    """One turn of each tenant at a time, `count` in all; tenants that wait are served one after the other."""

    def __init__(self, count: int = READERS) -> None:
        self._all, self._own = asyncio.Semaphore(count), dict[str, _Own]()

    @contextlib.asynccontextmanager
    async def turn(self, tenant: str) -> AsyncIterator[None]:
        """Waits for a turn and holds it during the block."""
        own = self._own.setdefault(tenant, _Own())
        own.user_count += 1
        try:
            async with own.lock, self._all:
                yield
        finally:
            own.user_count -= 1
            if not own.user_count:
                del self._own[tenant]


def estimated_tokens(texts: Sequence[str]) -> int:
    """The tokens of a prompt, guessed from its length."""
    return 1 + sum(map(len, texts)) // CHARACTERS_PER_TOKEN


async def check_fits(engine: Engine, texts: Sequence[str]) -> None:
    """PromptTooLongError if the texts of one prompt cannot fit into the window. Call it within a turn.

    Texts that pass can still be too long by a few tokens. A refusal takes time, but no work, so that a tenant that asks
    again and again takes little from the others.
    """
    began_s = time.monotonic()
    try:
        await _check_fits(engine, texts)
    except PromptTooLongError:
        await asyncio.sleep(sum(map(len, texts)) / REFUSED_PER_S + REFUSAL_PAUSES * (time.monotonic() - began_s))
        raise


async def _check_fits(engine: Engine, texts: Sequence[str]) -> None:
    window, character_count = engine.window, sum(map(len, texts))
    if len(texts) > MAX_TEXTS_PER_TOKEN * window or character_count > window * engine.max_characters_per_token:
        raise PromptTooLongError(window + 1, window, is_at_least=True)
    if character_count <= max(window, PIECE_CHARACTERS):
        return
    whole, token_count = "\n".join(texts), -len(texts)
    for start in range(0, len(whole), PIECE_CHARACTERS):
        piece = whole[start : start + PIECE_CHARACTERS]
        token_count += len(await asyncio.to_thread(engine.tokenize, piece, is_prompt=False)) - PIECE_SLACK_TOKENS
        if token_count > window:
            raise PromptTooLongError(token_count, window, is_at_least=True)
