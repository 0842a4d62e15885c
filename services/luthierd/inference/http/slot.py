"""The seat of an HTTP request in the engine's batch: what it may take before, what it took after."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from luthierd.inference.completions.completions import Leased
from luthierd.inference.http.exchange import Usage

CHARACTERS_PER_TOKEN = 4
"""Of English text, about (OpenAI's own rule of thumb); only for what a request counts as until its tokens are known."""
DEFAULT_COMPLETION_TOKENS = 16
"""`max_tokens` of /v1/completions where a request does not say it (OpenAI's API, and vLLM's)."""


@contextlib.asynccontextmanager
async def http_seat(leased: Leased, body: Mapping[str, Any], usage: Usage) -> AsyncIterator[None]:
    """A seat for the block, in which the engine's application counts tokens at `usage`. See `Leased.seat`."""
    async with leased.seat(**estimate(body, leased.engine.window)) as seat:
        try:
            yield
        finally:
            seat.prompt_token_count, seat.answer_token_count = usage.prompt_token_count, usage.completion_token_count


def estimate(body: Mapping[str, Any], window: int) -> dict[str, int]:
    """What a request may take, in the words of `Leased.seat`. Its prompt's tokens are guessed from its length.

    The engine's application refuses what is not well formed; here it just counts as little.
    """
    prompt = body.get("prompt") or body.get("messages") or ""
    prompt_token_count = min(window, 1 + len(json.dumps(prompt)) // CHARACTERS_PER_TOKEN)
    several = "prompt" in body and isinstance(prompt, list) and not isinstance(prompt[0], int)
    choice_count = max((body[name] for name in ("n", "best_of") if isinstance(body.get(name), int)), default=1)
    seat_count = max(1, choice_count) * (len(prompt) if several else 1)
    limits = (body.get(name) for name in ("max_completion_tokens", "max_tokens"))
    room = DEFAULT_COMPLETION_TOKENS if "prompt" in body else window
    max_tokens = next((limit for limit in limits if isinstance(limit, int)), room)
    return {
        "prompt_token_count": prompt_token_count,
        "max_answer_token_count": seat_count * max(1, min(max_tokens, window - prompt_token_count)),
        "seat_count": seat_count,
    }
