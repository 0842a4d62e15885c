"""Answers: a target is resolved and leased, the engine makes tokens, the lease goes back after the last one."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from luthierd.errors import InvalidArgumentError, LuthierError
from luthierd.inference import metrics
from luthierd.inference.adapters.loaded_adapters import LoadedAdapters
from luthierd.inference.admission.admission import Admission, Seat, Visit
from luthierd.inference.completions.mirror import Copy, Mirror
from luthierd.inference.deployments.deployments import Catalog, Deployments
from luthierd.inference.domain.completion import (
    BASE_LOADED_ADAPTER,
    Answer,
    Choice,
    Finish,
    Origin,
    Piece,
    Sampling,
    Target,
    TokenIds,
    TokenLogprob,
    Turn,
    cache_salt,
)
from luthierd.inference.domain.deployment import BaseModel
from luthierd.inference.domain.errors import PromptTooLongError
from luthierd.inference.engine.engine import Engine, EngineAdapter, EnginePiece, EngineRequest
from luthierd.inference.engine.host import EngineHost
from luthierd.inference.feedback.capture import Recording, ResponseLog

Prompt = str | Sequence[Turn] | TokenIds
"""A text to continue as it is, a conversation to answer through the chat template, or tokens."""


class Models(Catalog, Protocol):
    """What the trainer knows, with base models."""

    async def base_model(self, name: str) -> BaseModel:
        """NotFoundError; UnavailableError if the trainer does not answer."""


class Leased:
    """A target resolved: who answers, with which weights, for which tenant's cache. Valid while its lease lasts."""

    def __init__(
        self, target: Target, engine: Engine, origin: Origin, adapter: EngineAdapter | None, *, visit: Visit
    ) -> None:
        self.target, self.engine, self.origin, self.adapter, self._visit = target, engine, origin, adapter, visit
        self.tenant = visit.tenant
        self.cache_salt = cache_salt(visit.tenant, origin.loaded_adapter if adapter else origin.base_model)
        self.response_id = f"r-{uuid.uuid4().hex}"
        """Names what is answered under this lease."""

    def seat(
        self, *, prompt_token_count: int, max_answer_token_count: int = 0, seat_count: int = 1
    ) -> contextlib.AbstractAsyncContextManager[Seat]:
        """A place in the engine's batch for a request with these weights; see `Visit.seat`."""
        return self._visit.seat(
            adapter=self.adapter.engine_name if self.adapter else "",
            prompt_token_count=prompt_token_count,
            max_answer_token_count=max_answer_token_count,
            seat_count=seat_count,
        )


class Answers:
    """Use cases of loaded adapter, for gRPC and for the OpenAI protocol."""

    def __init__(
        self,
        *,
        deployments: Deployments,
        loaded_adapters: LoadedAdapters,
        host: EngineHost,
        models: Models,
        responses: ResponseLog,
        admission: Admission,
        mirror: Mirror,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._deployments, self._loaded_adapters, self._host, self._models = deployments, loaded_adapters, host, models
        self._responses, self._mirror = responses, mirror
        self._admission, self.clock = admission, clock

    @contextlib.asynccontextmanager
    async def leased(self, target: Target, *, tenant: str, session_id: str = "") -> AsyncIterator[Leased]:
        """The target's weights for one call. NotFoundError, EngineUnavailableError, and those of `Admission.entered`.

        What is computed under the lease needs a `seat`. `session_id`: what keeps a conversation on one loaded_adapter;
        empty: none.
        """
        with self._admission.entered(tenant) as visit:
            async with self._resolved(target, visit, session_id) as leased:
                yield leased

    def recording(
        self, leased: Leased, prompt: Prompt | None, *, response_id: str = ""
    ) -> contextlib.AbstractContextManager[Recording]:
        """Remembers the answer that is made in the block, for feedback. `response_id`: else the lease's."""
        return self._responses.recording(
            response_id or leased.response_id,
            tenant=leased.tenant,
            target=leased.target.name,
            origin=leased.origin,
            prompt=prompt,
        )

    @contextlib.asynccontextmanager
    async def _resolved(self, target: Target, visit: Visit, session_id: str) -> AsyncIterator[Leased]:
        if target.kind == Target.DEPLOYMENT:
            async with self._deployments.leased(target.name, session_id=session_id) as (origin, adapter):
                yield Leased(target, self._host.ready_engine(), origin, adapter, visit=visit)
        elif target.kind == Target.BASE_MODEL:
            engine = await self._host.engine_for(await self._base_model(target.name))
            origin = Origin(
                loaded_adapter=BASE_LOADED_ADAPTER, deployment_revision=0, adapter_revision="", base_model=target.name
            )
            yield Leased(target, engine, origin, None, visit=visit)
        else:
            revision = await self._models.adapter_revision(target.name)
            await self._host.engine_for(revision.base_model)
            async with self._loaded_adapters.lease_on_demand(revision) as adapter:
                origin = Origin(
                    loaded_adapter=revision.loaded_adapter,
                    deployment_revision=0,
                    adapter_revision=revision.name,
                    base_model=revision.base_model.name,
                )
                yield Leased(target, self._host.ready_engine(), origin, adapter, visit=visit)

    async def _base_model(self, name: str) -> BaseModel:
        """The engine's own base model needs no question to the trainer: its content is fixed by the choice."""
        held = self._host.status.base_model
        if held is not None and held.name == name:
            return held
        wanted = await self._models.base_model(name)
        if held is not None:
            await self._host.want(wanted)  # refuses it, unless the other one could not start
        return wanted

    async def answer(
        self, target: Target, prompt: Prompt, sampling: Sampling, *, tenant: str, session_id: str = ""
    ) -> Answer:
        """The whole answer."""
        return await whole(self.stream(target, prompt, sampling, tenant=tenant, session_id=session_id))

    async def stream(
        self, target: Target, prompt: Prompt, sampling: Sampling, *, tenant: str, session_id: str = ""
    ) -> AsyncGenerator[Piece, None]:
        """The answer, piece by piece; the last piece has `finish`. Closing the iterator stops the computation."""
        began = self.clock()
        async with self.leased(target, tenant=tenant, session_id=session_id) as leased:
            await check_structure(leased.engine, sampling)
            async with contextlib.aclosing(self.pieces(leased, prompt, sampling, began=began)) as pieces:
                async for piece in pieces:
                    yield piece

    async def pieces(
        self, leased: Leased, prompt: Prompt, sampling: Sampling, *, began: float, response_id: str = ""
    ) -> AsyncGenerator[Piece, None]:
        """The answer to one prompt under a lease. `began`: the call's arrival; `response_id`: else the lease's."""
        engine, response_id = leased.engine, response_id or leased.response_id
        prompt_ids = await asyncio.to_thread(tokens_of, engine, prompt)
        request = EngineRequest(
            request_id=response_id,
            prompt_ids=prompt_ids,
            sampling=_bounded(sampling, len(prompt_ids), engine.window),
            adapter=leased.adapter,
            cache_salt=leased.cache_salt,
        )
        async with contextlib.AsyncExitStack() as stack:
            seat = await stack.enter_async_context(
                leased.seat(
                    prompt_token_count=len(prompt_ids),
                    seat_count=sampling.choice_count,
                    max_answer_token_count=sampling.choice_count * request.sampling.max_tokens,
                )
            )
            first = list[str]()
            progress = _Progress(open_choices=sampling.choice_count, waited_s=self.clock() - began)
            pieces = await stack.enter_async_context(contextlib.aclosing(engine.generate(request)))
            recording = stack.enter_context(self.recording(leased, prompt, response_id=response_id))
            async for piece in pieces:
                elapsed_s = self.clock() - began
                progress.add(piece, elapsed_s)
                seat.answer_token_count = progress.token_count
                finish = None if progress.open_choices else progress.finish(len(prompt_ids), elapsed_s)
                if piece.choice == 0:
                    recording.add(piece.text)
                    first.append(piece.text)
                if finish is not None:
                    metrics.observe(leased.target.kind, finish)
                    recording.finish(finish)
                    self._copy(
                        leased, prompt, prompt_ids, request.sampling, response_id=response_id, answer="".join(first)
                    )
                yield Piece(
                    delta=piece.text,
                    origin=leased.origin,
                    response_id=response_id,
                    token_count=piece.token_count,
                    logprobs=piece.logprobs,
                    choice=piece.choice,
                    reason=piece.finish_reason,
                    finish=finish,
                )

    def is_mirrored(self, leased: Leased) -> bool:
        """Whether a copy of what is answered under this lease is wanted."""
        return self._deployments.mirror_of(leased.target.name, leased.origin.loaded_adapter) is not None

    async def copy(self, leased: Leased, prompt: Prompt, sampling: Sampling, *, answer: str) -> None:
        """Offers what the OpenAI application answered to the deployment's mirror. Fails nobody."""
        with contextlib.suppress(LuthierError):
            prompt_ids = await asyncio.to_thread(tokens_of, leased.engine, prompt)
            bounded = _bounded(sampling, len(prompt_ids), leased.engine.window)
            self._copy(leased, prompt, prompt_ids, bounded, response_id=leased.response_id, answer=answer)

    def _copy(
        self,
        leased: Leased,
        prompt: Prompt,
        prompt_ids: tuple[int, ...],
        sampling: Sampling,
        *,
        response_id: str,
        answer: str,
    ) -> None:
        mirror = self._deployments.mirror_of(leased.target.name, leased.origin.loaded_adapter)
        if mirror is not None:
            self._mirror.offer(
                Copy(
                    revision=mirror,
                    tenant=leased.tenant,
                    target=leased.target.name,
                    prompt=prompt,
                    answer=answer,
                    deployment_revision=leased.origin.deployment_revision,
                    response_id=response_id,
                    prompt_ids=prompt_ids,
                    sampling=sampling,
                )
            )


@dataclass
class _Progress:
    """What is known of an answer that is being made. `waited_s`: from the call's arrival until the engine had it."""

    open_choices: int
    waited_s: float
    ttft_s: float = 0.0
    queue_s: float = 0.0
    token_count: int = 0
    cached_prompt_token_count: int = 0
    reason: str = ""

    def add(self, piece: EnginePiece, elapsed_s: float) -> None:
        if self.token_count == 0:
            self.ttft_s = elapsed_s
        self.token_count += piece.token_count
        self.cached_prompt_token_count = max(self.cached_prompt_token_count, piece.cached_prompt_token_count)
        self.queue_s = self.queue_s or piece.queue_s
        if piece.finish_reason:
            self.open_choices -= 1
            self.reason = piece.finish_reason if piece.choice == 0 else self.reason

    def finish(self, prompt_token_count: int, elapsed_s: float) -> Finish:
        return Finish(
            reason=self.reason,
            prompt_token_count=prompt_token_count,
            completion_token_count=self.token_count,
            ttft_ms=self.ttft_s * 1000,
            latency_ms=elapsed_s * 1000,
            cached_prompt_token_count=self.cached_prompt_token_count,
            queue_ms=(self.waited_s + self.queue_s) * 1000,
        )


@dataclass
class _Choice:
    """What is known of one choice."""

    parts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    token_count: int = 0
    reason: str = ""


async def whole(pieces: AsyncGenerator[Piece, None]) -> Answer:
    """The answer that the pieces make."""
    choices: dict[int, _Choice] = {}
    last: Piece | None = None
    async with contextlib.aclosing(pieces):
        async for last in pieces:
            choice = choices.setdefault(last.choice, _Choice())
            choice.parts.append(last.delta)
            choice.logprobs += last.logprobs
            choice.token_count += last.token_count
            choice.reason = last.reason or choice.reason
    assert last is not None
    assert last.finish is not None
    return Answer(
        choices=tuple(
            Choice(
                text="".join(one.parts),
                reason=one.reason,
                completion_token_count=one.token_count,
                logprobs=tuple(one.logprobs),
            )
            for _, one in sorted(choices.items())
        ),
        finish=last.finish,
        origin=last.origin,
        response_id=last.response_id,
    )


async def check_structure(engine: Engine, sampling: Sampling) -> None:
    """InvalidArgumentError if the engine cannot hold an answer to what the sampling asks for."""
    if sampling.structure is not None:
        await asyncio.to_thread(engine.check_structure, sampling.structure)


def tokens_of(engine: Engine, prompt: Prompt) -> tuple[int, ...]:
    """A prompt's tokens. Blocks. InvalidArgumentError for none."""
    if isinstance(prompt, TokenIds):
        return prompt.ids
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
