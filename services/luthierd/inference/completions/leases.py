"""Leases: a target is resolved to an engine and weights that stay there until the call ends."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

from luthierd.errors import InvalidArgumentError
from luthierd.inference.adapters.loaded_adapters import LoadedAdapters
from luthierd.inference.admission.admission import Admission, Slot, Ticket
from luthierd.inference.completions.recording import Recorder, Recording
from luthierd.inference.domain.completion import (
    BASE_LOADED_ADAPTER,
    Origin,
    Prompt,
    Target,
    TokenIds,
    cache_salt,
)
from luthierd.inference.domain.deployment import AdapterRevision, BaseModel
from luthierd.inference.engine.engine import Engine, EngineAdapter
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
    response_id: str = field(default_factory=lambda: f"r-{uuid.uuid4().hex}")

    @property
    def tenant(self) -> str:
        return self.ticket.tenant

    @property
    def cache_salt(self) -> str:
        return cache_salt(self.tenant, self.origin.loaded_adapter if self.adapter else self.origin.base_model)

    def slot(self, **counts: int) -> contextlib.AbstractAsyncContextManager[Slot]:
        """A slot in the engine's batch for a request with these weights; see `Ticket.slot`."""
        return self.ticket.slot(adapter=self.adapter.engine_name if self.adapter else "", **counts)

    async def tokens(self, prompt: Prompt, *, is_prompt: bool = True) -> tuple[int, ...]:
        """A prompt's tokens, or, unless `is_prompt`, those of a text within one. InvalidArgumentError for no tokens."""
        if isinstance(prompt, TokenIds):
            return prompt.ids
        if isinstance(prompt, str):
            tokens = await asyncio.to_thread(self.engine.tokenize, prompt, is_prompt=is_prompt)
        else:
            tokens = await asyncio.to_thread(self.engine.render_chat, prompt)
        if not tokens:
            raise InvalidArgumentError.of_field("prompt" if is_prompt else "completion_text", "it has no tokens")
        return tokens


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
        self._recorder, self._admission = recorder, admission

    @contextlib.asynccontextmanager
    async def leased(self, target: Target, *, tenant: str, session_id: str = "") -> AsyncIterator[Leased]:
        """The target's weights for one call. NotFoundError, EngineUnavailableError, and those of `Admission.admit`.

        Requests to the engine need a `slot`. `session_id`: keeps a conversation on one loaded adapter; empty: none.
        """
        with self._admission.admit(tenant) as ticket:
            async with self._resolved(target, session_id) as (engine, origin, adapter):
                yield Leased(target=target, engine=engine, origin=origin, adapter=adapter, ticket=ticket)

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
