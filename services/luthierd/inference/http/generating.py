"""Requests that the engine's application answers: leased, admitted, recorded, and offered to a mirror."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from luthierd.errors import InvalidArgumentError
from luthierd.inference import metrics
from luthierd.inference.completions.completions import Completions
from luthierd.inference.completions.leases import Leased
from luthierd.inference.domain.completion import TokenUsage
from luthierd.inference.engine.engine import Engine, OpenAIApplication, OpenAICall, TakeSlot
from luthierd.inference.http.body import NotCopiedError, cost_of, prompt_of, sampling_of
from luthierd.inference.http.exchange import Asked, Reply, origin_headers
from luthierd.inference.http.recording import AnswerTap
from luthierd.inference.http.structures import check_structures

log = logging.getLogger(__name__)


class Generating:
    """Answers through the application of the engine that is leased."""

    def __init__(self, completions: Completions) -> None:
        self._completions, self._leases = completions, completions.leases
        self._built: tuple[Engine, OpenAIApplication] | None = None
        self._building = asyncio.Lock()

    async def answer(self, asked: Asked, reply: Reply) -> None:
        """Chat, completions and responses."""
        usage = TokenUsage()
        try:
            async with self._leases.leased(asked.target, tenant=asked.tenant, session_id=asked.session_id) as leased:
                await check_structures(leased, asked.body)
                application = await self._application(leased.engine)
                reply.headers = origin_headers(leased.origin, leased.response_id)
                async with leased.forwarded(cost_of(asked.body, leased.engine.window)) as take_slot:
                    with self._leases.recording(leased, prompt_of(as_chat(asked))) as recording:
                        tap = AnswerTap(reply, recording, keeps_text=self._leases.mirror_of(leased) is not None)
                        await application(_call(asked, leased, usage, take_slot), tap)
                        tap.finish(usage, ttft_s=reply.ttft_s, latency_s=reply.elapsed_s)
                await self._copy(leased, asked.body, tap.answer)
        finally:
            reply.observe(asked.target.kind, usage)

    async def tokenize(self, asked: Asked, reply: Reply) -> None:
        """Tokens of a prompt, or the text of tokens. A prompt is read in its tenant's turn."""
        if asked.route == "/tokenize":
            _check_tokenized(asked.body)
        async with self._leases.leased(asked.target, tenant=asked.tenant, session_id=asked.session_id) as leased:
            application = await self._application(leased.engine)
            async with leased.forwarded(cost_of(asked.body, leased.engine.window)) as take_slot:
                await application(_call(asked, leased, TokenUsage(), take_slot), reply)

    async def _copy(self, leased: Leased, body: Mapping[str, Any], answer: str | None) -> None:
        """Offers the deployment's mirror, if any, the same request; logs the reason if it cannot be copied."""
        if self._leases.mirror_of(leased) is None:
            return
        try:
            if answer is None:
                raise NotCopiedError("answer")
            prompt = prompt_of(body)
            if prompt is None:
                raise NotCopiedError("prompt")
            sampling = sampling_of(body, window=leased.engine.window)
        except NotCopiedError as error:
            metrics.mirror_skipped.labels(error.reason).inc()
            log.info("not mirrored", extra={"reason": error.reason, "target": leased.target.name})
        else:
            await self._completions.copy(leased, prompt, sampling, answer=answer)

    async def _application(self, engine: Engine) -> OpenAIApplication:
        """The engine's application, built for its first request."""
        async with self._building:
            if self._built is None or self._built[0] is not engine:
                self._built = (engine, await engine.openai_application())
            return self._built[1]


def _check_tokenized(body: Mapping[str, Any]) -> None:
    """InvalidArgumentError for both or none of prompt and messages."""
    if ("prompt" in body) == ("messages" in body):
        raise InvalidArgumentError.of_field("prompt", "give either a prompt or messages")


def as_chat(asked: Asked) -> Mapping[str, Any]:
    """The body with its conversation as chats spell it, for the record."""
    if asked.route != "/v1/responses":
        return asked.body
    given, instructions = asked.body["input"], asked.body.get("instructions")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    return {"messages": [{"role": "system", "content": instructions}, *items] if instructions else items}


def _call(asked: Asked, leased: Leased, usage: TokenUsage, take_slot: TakeSlot) -> OpenAICall:
    return OpenAICall(
        route=asked.route,
        body=asked.body,
        model=asked.model,
        adapter=leased.adapter,
        cache_salt=leased.cache_salt,
        response_id=leased.response_id,
        usage=usage,
        tenant=asked.tenant,
        take_slot=take_slot,
    )
