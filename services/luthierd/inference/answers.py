"""Answers: a target is resolved and leased, the engine makes tokens, the lease goes back after the last one."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Protocol

from luthierd.errors import InvalidArgumentError
from luthierd.inference import metrics
from luthierd.inference.deployments import Catalog, Deployments
from luthierd.inference.domain import (
    BASE_GENERATION,
    Answer,
    BaseModel,
    Finish,
    Origin,
    Piece,
    Sampling,
    Target,
    Turn,
    cache_salt,
)
from luthierd.inference.engine_host import Engine, EngineAdapter, EngineHost, EngineRequest
from luthierd.inference.errors import PromptTooLongError, QueueFullError
from luthierd.inference.generations import Generations

Prompt = str | Sequence[Turn]
"""A text to continue as it is, or a conversation to answer through the chat template."""


class Models(Catalog, Protocol):
    """What the trainer knows, with base models."""

    async def base_model(self, name: str) -> BaseModel:
        """NotFoundError; UnavailableError if the trainer does not answer."""


class Leased:
    """A target resolved: who answers, with which weights, for which tenant's cache. Valid while its lease lasts."""

    def __init__(self, engine: Engine, origin: Origin, adapter: EngineAdapter | None, tenant: str) -> None:
        self.engine, self.origin, self.adapter = engine, origin, adapter
        self.cache_salt = cache_salt(tenant, origin.generation if adapter else origin.base_model)


class Answers:
    """Use cases of generation, for gRPC and for the OpenAI protocol. At most `max_in_flight` answers at a time."""

    def __init__(
        self, *, deployments: Deployments, generations: Generations, host: EngineHost, models: Models,
        max_in_flight: int, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._deployments, self._generations, self._host, self._models = deployments, generations, host, models
        self._max_in_flight, self._clock = max_in_flight, clock
        self._in_flight = 0

    @contextlib.asynccontextmanager
    async def leased(self, target: Target, *, tenant: str) -> AsyncIterator[Leased]:
        """The target's weights for one answer. NotFoundError, EngineUnavailableError, QueueFullError."""
        if self._in_flight >= self._max_in_flight:
            raise QueueFullError(self._max_in_flight)
        self._in_flight += 1
        metrics.answers_in_flight.set(self._in_flight)
        try:
            async with self._resolved(target, tenant) as leased:
                yield leased
        finally:
            self._in_flight -= 1
            metrics.answers_in_flight.set(self._in_flight)

    @contextlib.asynccontextmanager
    async def _resolved(self, target: Target, tenant: str) -> AsyncIterator[Leased]:
        if target.kind == Target.DEPLOYMENT:
            with self._deployments.leased(target.name) as (origin, adapter):
                yield Leased(self._host.ready_engine(), origin, adapter, tenant)
        elif target.kind == Target.BASE_MODEL:
            engine = await self._host.engine_for(await self._base_model(target.name))
            origin = Origin(
                generation=BASE_GENERATION, deployment_revision=0, adapter_revision="", base_model=target.name
            )
            yield Leased(engine, origin, None, tenant)
        else:
            revision = await self._models.adapter_revision(target.name)
            await self._host.engine_for(revision.base_model)
            async with self._generations.lease_on_demand(revision) as adapter:
                origin = Origin(
                    generation=revision.generation, deployment_revision=0,
                    adapter_revision=revision.name, base_model=revision.base_model.name,
                )  # fmt: skip
                yield Leased(self._host.ready_engine(), origin, adapter, tenant)

    async def _base_model(self, name: str) -> BaseModel:
        """The engine's own base model needs no question to the trainer: its content is fixed by the choice."""
        held = self._host.status.base_model
        if held is not None and held.name == name:
            return held
        wanted = await self._models.base_model(name)
        if held is not None:
            await self._host.want(wanted)  # refuses it, unless the other one could not start
        return wanted

    async def answer(self, target: Target, prompt: Prompt, sampling: Sampling, *, tenant: str) -> Answer:
        """The whole answer."""
        parts, last = [], None
        async with contextlib.aclosing(self.stream(target, prompt, sampling, tenant=tenant)) as pieces:
            async for piece in pieces:
                parts.append(piece.delta)
                last = piece
        assert last is not None
        assert last.finish is not None
        return Answer(text="".join(parts), finish=last.finish, origin=last.origin)

    async def stream(
        self, target: Target, prompt: Prompt, sampling: Sampling, *, tenant: str
    ) -> AsyncGenerator[Piece, None]:
        """The answer, piece by piece; the last piece has `finish`. Closing the iterator stops the computation."""
        began = self._clock()
        async with self.leased(target, tenant=tenant) as leased:
            engine = leased.engine
            prompt_ids = await asyncio.to_thread(_tokens, engine, prompt)
            request = EngineRequest(
                request_id=uuid.uuid4().hex,
                prompt_ids=prompt_ids,
                sampling=_bounded(sampling, len(prompt_ids), engine.window),
                adapter=leased.adapter,
                cache_salt=leased.cache_salt,
            )
            token_count, ttft_s, reason = 0, 0.0, ""
            async with contextlib.aclosing(engine.generate(request)) as pieces:
                async for piece in pieces:
                    if token_count == 0:
                        ttft_s = self._clock() - began
                    token_count += piece.token_count
                    reason = piece.finish_reason
                    if not reason:
                        yield Piece(delta=piece.text, origin=leased.origin)
                        continue
                    latency_s = self._clock() - began
                    metrics.observe(target.kind, len(prompt_ids), token_count, ttft_s=ttft_s, latency_s=latency_s)
                    finish = Finish(
                        reason=reason, prompt_token_count=len(prompt_ids), completion_token_count=token_count,
                        ttft_ms=ttft_s * 1000, latency_ms=latency_s * 1000,
                    )  # fmt: skip
                    yield Piece(delta=piece.text, origin=leased.origin, finish=finish)


def _tokens(engine: Engine, prompt: Prompt) -> tuple[int, ...]:
    tokens = engine.tokenize(prompt) if isinstance(prompt, str) else engine.render_chat(prompt)
    if not tokens:
        raise InvalidArgumentError.of_field("prompt", "it is empty")
    return tokens


def _bounded(sampling: Sampling, prompt_token_count: int, window: int) -> Sampling:
    """The sampling, cut to the room that the prompt leaves. PromptTooLongError if that is none."""
    room = window - prompt_token_count
    if room < 1:
        raise PromptTooLongError(prompt_token_count, window)
    return replace(sampling, max_tokens=min(sampling.max_tokens, room))
