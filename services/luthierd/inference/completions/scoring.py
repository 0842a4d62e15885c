"""Scores of given tokens, and embeddings of texts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from luthierd.errors import InvalidArgumentError
from luthierd.inference import metrics
from luthierd.inference.completions.leases import Leases
from luthierd.inference.domain.completion import Finish, Origin, Prompt, Target, TokenIds, TokenLogprob
from luthierd.inference.domain.errors import PromptTooLongError


@dataclass(frozen=True, kw_only=True)
class Score:
    """A completion's tokens with their log-probabilities."""

    tokens: tuple[TokenLogprob, ...]
    prompt_token_count: int
    origin: Origin
    response_id: str


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """A vector of length 1 for each text, in order."""

    vectors: tuple[tuple[float, ...], ...]
    prompt_token_count: int
    origin: Origin
    response_id: str


class Scoring:
    """Use cases that generate no tokens."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases

    async def score(
        self, target: Target, prompt: Prompt, completion: str | TokenIds, *, tenant: str, session_id: str = ""
    ) -> Score:
        """Scores a completion. InvalidArgumentError for tokens outside of the vocabulary, PromptTooLongError."""
        async with self._leases.leased(target, tenant=tenant, session_id=session_id) as leased:
            engine = leased.engine
            with self._leases.recording(leased, None) as recording, leased.charged(prompt, completion) as charge:
                prompt_ids = await leased.tokens(prompt)
                completion_ids = await leased.tokens(completion, is_prompt=False)
                for field, ids in (("prompt_token_ids", prompt_ids), ("completion_token_ids", completion_ids)):
                    _check_known(ids, engine.vocabulary_size, field)
                token_count = len(prompt_ids) + len(completion_ids)
                if token_count >= engine.window:
                    raise PromptTooLongError(token_count, engine.window)
                charge.estimate(token_count)
                async with leased.slot(charge, prompt_token_count=token_count):
                    logprobs = await engine.score(prompt_ids, completion_ids, leased.adapter, tenant=tenant)
                texts = await asyncio.to_thread(engine.token_texts, completion_ids)
                recording.finish(
                    Finish(
                        finish_reason="stop",
                        prompt_token_count=len(prompt_ids),
                        completion_token_count=len(completion_ids),
                    )
                )
        metrics.observe_tokens(target.kind, prompt=token_count)
        tokens = tuple(
            TokenLogprob(token_id=token_id, text=text, logprob=logprob)
            for token_id, text, logprob in zip(completion_ids, texts, logprobs, strict=True)
        )
        return Score(
            tokens=tokens, prompt_token_count=len(prompt_ids), origin=leased.origin, response_id=leased.response_id
        )

    async def embed(
        self,
        target: Target,
        texts: Sequence[str | TokenIds],
        *,
        tenant: str,
        session_id: str = "",
        field: str = "texts",
    ) -> Embedded:
        """Embeds texts. EmbedUnsupportedError, PromptTooLongError, InvalidArgumentError for an unknown token."""
        async with self._leases.leased(target, tenant=tenant, session_id=session_id) as leased:
            engine, vectors = leased.engine, list[tuple[float, ...]]()
            with leased.charged(*texts) as charge:
                tokens = [await leased.tokens(text) for text in texts]
                for ids in tokens:
                    _check_known(ids, engine.vocabulary_size, field)
                longest, token_count = max(map(len, tokens)), sum(map(len, tokens))
                if longest >= engine.window:
                    raise PromptTooLongError(longest, engine.window, field=field)
                charge.estimate(token_count)
                with self._leases.recording(leased, None) as recording:
                    for ids in tokens:  # one after the other, so that others have their turns between
                        async with leased.slot(charge, prompt_token_count=len(ids)):
                            vectors += await engine.embed([ids], leased.adapter)
                    recording.finish(Finish(finish_reason="stop", prompt_token_count=token_count))
        metrics.observe_tokens(target.kind, prompt=token_count)
        return Embedded(
            vectors=tuple(vectors), prompt_token_count=token_count, origin=leased.origin, response_id=leased.response_id
        )


def _check_known(token_ids: Sequence[int], vocabulary_size: int, field: str) -> None:
    if (highest := max(token_ids)) >= vocabulary_size:
        raise InvalidArgumentError.of_field(
            field, f"there is no token {highest}; the model's vocabulary has {vocabulary_size}"
        )
