"""Scores: how likely a target finds given tokens after a prompt."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from luthierd.errors import InvalidArgumentError
from luthierd.inference import metrics
from luthierd.inference.completions.completions import Answers, Prompt, tokens_of
from luthierd.inference.domain.completion import Finish, Origin, Target, TokenIds, TokenLogprob
from luthierd.inference.domain.errors import PromptTooLongError
from luthierd.inference.engine.engine import Engine


@dataclass(frozen=True, kw_only=True)
class Score:
    """A completion's tokens with their log-probabilities."""

    tokens: tuple[TokenLogprob, ...]
    prompt_token_count: int
    origin: Origin
    response_id: str


class Scores:
    """The use case of scoring."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    async def score(
        self, target: Target, prompt: Prompt, completion: str | TokenIds, *, tenant: str, session_id: str = ""
    ) -> Score:
        """Scores a completion. InvalidArgumentError for tokens that the model does not have, PromptTooLongError."""
        async with self._answers.leased(target, tenant=tenant, session_id=session_id) as leased:
            engine = leased.engine
            with self._answers.recording(leased, None) as recording:
                prompt_ids, completion_ids = await asyncio.to_thread(_both, engine, prompt, completion)
                async with leased.seat(prompt_token_count=len(prompt_ids) + len(completion_ids)):
                    logprobs = await engine.score(prompt_ids, completion_ids, leased.adapter)
                texts = await asyncio.to_thread(engine.token_texts, completion_ids)
                recording.finish(Finish.without_times(len(prompt_ids), len(completion_ids)))
        metrics.observe_tokens(target.kind, prompt=len(prompt_ids) + len(completion_ids))
        tokens = tuple(
            TokenLogprob(token_id=token_id, text=text, logprob=logprob)
            for token_id, text, logprob in zip(completion_ids, texts, logprobs, strict=True)
        )
        return Score(
            tokens=tokens, prompt_token_count=len(prompt_ids), origin=leased.origin, response_id=leased.response_id
        )


def _both(engine: Engine, prompt: Prompt, completion: str | TokenIds) -> tuple[tuple[int, ...], tuple[int, ...]]:
    prompt_ids = tokens_of(engine, prompt)
    if isinstance(completion, TokenIds):
        completion_ids = completion.ids
    else:
        completion_ids = engine.tokenize(completion, is_prompt=False)
    for field, ids in (("prompt_token_ids", prompt_ids), ("completion_token_ids", completion_ids)):
        if unknown := next((token_id for token_id in ids if token_id >= engine.vocabulary_size), None):
            raise InvalidArgumentError.of_field(
                field, f"there is no token {unknown}; the model's vocabulary has {engine.vocabulary_size}"
            )
    if not completion_ids:
        raise InvalidArgumentError.of_field("completion_text", "it has no tokens")
    if len(prompt_ids) + len(completion_ids) >= engine.window:
        raise PromptTooLongError(len(prompt_ids) + len(completion_ids), engine.window)
    return prompt_ids, completion_ids
