"""Embeddings: vectors of texts, from engines that make them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from luthierd.inference import metrics
from luthierd.inference.completions.completions import Answers, tokens_of
from luthierd.inference.domain.completion import Finish, Origin, Target
from luthierd.inference.domain.errors import PromptTooLongError


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """A vector of length 1 for each text, in their order."""

    vectors: tuple[tuple[float, ...], ...]
    prompt_token_count: int
    origin: Origin
    response_id: str


class Embeddings:
    """The use case of embedding."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    async def embed(self, target: Target, texts: Sequence[str], *, tenant: str, session_id: str = "") -> Embedded:
        """Embeds texts. EmbedUnsupportedError, PromptTooLongError."""
        async with self._answers.leased(target, tenant=tenant, session_id=session_id) as leased:
            engine = leased.engine
            tokens = [await asyncio.to_thread(tokens_of, engine, text) for text in texts]
            longest = max(len(ids) for ids in tokens)
            if longest > engine.window:
                raise PromptTooLongError(longest, engine.window)
            token_count = sum(len(ids) for ids in tokens)
            with self._answers.recording(leased, None) as recording:
                async with leased.seat(prompt_token_count=token_count):
                    vectors = await engine.embed(tokens, leased.adapter)
                recording.finish(Finish.without_times(token_count, 0))
        metrics.observe_tokens(target.kind, prompt=token_count)
        return Embedded(
            vectors=vectors, prompt_token_count=token_count, origin=leased.origin, response_id=leased.response_id
        )
