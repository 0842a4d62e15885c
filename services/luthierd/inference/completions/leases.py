"""Leases: a target is resolved to an engine and weights that stay there until the call ends."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from luthierd.errors import InvalidArgumentError
from luthierd.inference.adapters.loaded_adapters import LoadedAdapters
from luthierd.inference.admission.admission import Admission, Charge, Slot, Ticket
from luthierd.inference.completions.reading import Cost, Turns, check_fits, estimated_tokens
from luthierd.inference.completions.recording import Recorder, Recording
from luthierd.inference.domain.completion import (
    BASE_LOADED_ADAPTER,
    Origin,
    Prompt,
    Target,
    TokenIds,
    Turn,
    cache_salt,
)
from luthierd.inference.domain.deployment import AdapterRevision, BaseModel
from luthierd.inference.engine.engine import Engine, EngineAdapter, TakeSlot
from luthierd.inference.engine.host import EngineHost


class Models(Protocol):
    """The models known to the trainer. NotFoundError; UnavailableError if the trainer does not respond."""

    async def adapter_revision(self, name: str) -> AdapterRevision: ...

    async def base_model(self, name: str) -> BaseModel: ...


class Routes(Protocol):
    """Which adapter answers under a deployment's name."""

    def leased(
        self, name: str, *, session_id: str = ""
    ) -> contextlib.AbstractAsyncContextManager[tuple[Origin, EngineAdapter]]:
        """Leases the adapter of one request. DeploymentNotFoundError, EngineUnavailableError."""

    def mirror_of(self, name: str, loaded_adapter: str) -> AdapterRevision | None:
        """The revision that gets copies of what `loaded_adapter` answers; None: no mirror."""


@dataclass(frozen=True, kw_only=True)
class Leased:
    """Who answers, with which weights. Valid while its lease lasts. `response_id` names what is answered under it."""

    target: Target
    engine: Engine
    origin: Origin
    adapter: EngineAdapter | None
    ticket: Ticket
    turns: Turns
    response_id: str = field(default_factory=lambda: f"r-{uuid.uuid4().hex}")

    @property
    def tenant(self) -> str:
        return self.ticket.tenant

    @property
    def cache_salt(self) -> str:
        return cache_salt(self.tenant, self.origin.loaded_adapter if self.adapter else self.origin.base_model)

    def charged(self, *prompts: Prompt, answer_token_count: int = 0) -> contextlib.AbstractContextManager[Charge]:
        """Takes the tokens of prompts and answers from the quota, by estimate; see `Ticket.charged`."""
        token_count = sum(
            len(prompt.ids) if isinstance(prompt, TokenIds) else estimated_tokens(_texts(prompt)) for prompt in prompts
        )
        return self.ticket.charged(prompt_token_count=token_count, answer_token_count=answer_token_count)

    def slot(self, charge: Charge, **counts: int) -> contextlib.AbstractAsyncContextManager[Slot]:
        """A slot in the engine's batch for a request with these weights; see `Ticket.slot`."""
        return self.ticket.slot(charge, adapter=self.adapter.engine_name if self.adapter else "", **counts)

    def check_choices(self, count: int, *, field: str) -> None:
        """InvalidArgumentError for more choices of one prompt than there are slots."""
        if count > self.ticket.max_slot_count:
            raise InvalidArgumentError.of_field(field, f"at most {self.ticket.max_slot_count} on this server")

    async def tokens(self, prompt: Prompt, *, is_prompt: bool = True) -> tuple[int, ...]:
        """A prompt's tokens, or, unless `is_prompt`, those of a text within one.

        InvalidArgumentError for no tokens, PromptTooLongError for more text than the window can hold.
        """
        if isinstance(prompt, TokenIds):
            return prompt.ids
        async with self.turns.turn(self.tenant):
            await check_fits(self.engine, _texts(prompt))
            if isinstance(prompt, str):
                tokens = await asyncio.to_thread(self.engine.tokenize, prompt, is_prompt=is_prompt)
            else:
                tokens = await asyncio.to_thread(self.engine.render_chat, prompt)
        if not tokens:
            raise InvalidArgumentError.of_field("prompt" if is_prompt else "completion_text", "it has no tokens")
        return tokens

    @contextlib.asynccontextmanager
    async def forwarded(self, cost: Cost) -> AsyncIterator[TakeSlot]:
        """For an application that reads the prompts itself: their bounds and charge, and slots for its requests.

        The tenant's turn to read lasts until the application wants the first slot. InvalidArgumentError for more
        choices than slots, QuotaExceededError, PromptTooLongError.
        """
        self.check_choices(cost.choice_count, field="n")
        async with contextlib.AsyncExitStack() as stack:
            charge = stack.enter_context(
                self.ticket.charged(
                    prompt_token_count=cost.prompt_token_count, answer_token_count=cost.answer_token_count
                )
            )
            reading = await stack.enter_async_context(contextlib.AsyncExitStack())
            await reading.enter_async_context(self.turns.turn(self.tenant))
            for texts in cost.prompts:
                await check_fits(self.engine, texts)
            charge.used = 0

            @contextlib.asynccontextmanager
            async def take_slot(**counts: int) -> AsyncIterator[Slot]:
                await reading.aclose()
                self.check_choices(counts["slot_count"], field="n")
                async with self.slot(charge, **counts) as slot:
                    yield slot

            yield take_slot


def _texts(prompt: str | Sequence[Turn]) -> Sequence[str]:
    return (prompt,) if isinstance(prompt, str) else [text for turn in prompt for text in turn.texts]


class Leases:
    """Admits calls and resolves their targets, for gRPC and for the OpenAI protocol."""

    def __init__(
        self,
        *,
        routes: Routes,
        loaded_adapters: LoadedAdapters,
        host: EngineHost,
        models: Models,
        recorder: Recorder,
        admission: Admission,
    ) -> None:
        self._routes, self._loaded_adapters, self._host, self._models = routes, loaded_adapters, host, models
        self._recorder, self._admission, self._turns = recorder, admission, Turns()

    @contextlib.asynccontextmanager
    async def leased(self, target: Target, *, tenant: str, session_id: str = "") -> AsyncIterator[Leased]:
        """The target's weights for one call. NotFoundError, EngineUnavailableError, and those of `Admission.admit`.

        Requests to the engine need a `slot`. `session_id`: keeps a conversation on one loaded adapter; empty: none.
        """
        with self._admission.admit(tenant) as ticket:
            async with self._resolved(target, session_id) as (engine, origin, adapter):
                self._admission.set_capacity(engine.cache_token_count)
                yield Leased(
                    target=target, engine=engine, origin=origin, adapter=adapter, ticket=ticket, turns=self._turns
                )

    def recording(
        self, leased: Leased, prompt: Prompt | None, *, response_id: str = ""
    ) -> contextlib.AbstractContextManager[Recording]:
        """Records the answer made in the block. `response_id`: by default the lease's."""
        return self._recorder.recording(
            response_id or leased.response_id,
            tenant=leased.tenant,
            target=leased.target.name,
            origin=leased.origin,
            prompt=prompt,
        )

    def mirror_of(self, leased: Leased) -> AdapterRevision | None:
        """The revision that gets copies of what is answered under this lease; None: no mirror."""
        return self._routes.mirror_of(leased.target.name, leased.origin.loaded_adapter)

    @contextlib.asynccontextmanager
    async def _resolved(
        self, target: Target, session_id: str
    ) -> AsyncIterator[tuple[Engine, Origin, EngineAdapter | None]]:
        if target.kind == Target.DEPLOYMENT:
            async with self._routes.leased(target.name, session_id=session_id) as (origin, adapter):
                with self._host.in_use() as engine:
                    yield engine, origin, adapter
        elif target.kind == Target.BASE_MODEL:
            await self._host.engine_for(await self._base_model(target.name))
            origin = Origin(
                loaded_adapter=BASE_LOADED_ADAPTER, deployment_revision=0, adapter_revision="", base_model=target.name
            )
            with self._host.in_use() as engine:
                yield engine, origin, None
        else:
            revision = await self._models.adapter_revision(target.name)
            await self._host.engine_for(revision.base_model)
            async with self._loaded_adapters.lease_on_demand(revision) as adapter:
                with self._host.in_use() as engine:
                    yield engine, Origin.of_revision(revision), adapter

    async def _base_model(self, name: str) -> BaseModel:
        """The engine's own base model is known here: the choice fixes its content."""
        held = self._host.status.base_model
        if held is not None and held.name == name:
            return held
        return await self._models.base_model(name)
