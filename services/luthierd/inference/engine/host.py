"""The life of the one engine: its base model, its start, its death and its restart.

The choice of the base model is durable. An engine whose process dies is restarted with everything that should be
loaded; calls in flight fail with UNAVAILABLE.
"""

from __future__ import annotations

import asyncio
import logging
import pathlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Protocol

from luthierd.errors import LuthierError
from luthierd.inference.domain.deployment import BaseModel
from luthierd.inference.domain.engine import EngineState, StageClock
from luthierd.inference.domain.errors import (
    ENGINE_RETRY_AFTER_S,
    EngineDiedError,
    EngineUnavailableError,
    OtherBaseModelError,
)
from luthierd.inference.engine.engine import Engine, StartEngine

log = logging.getLogger(__name__)

MAX_STARTS_IN_A_ROW = 3
"""A third death within `STABLE_S` of a start is not an accident: FAILED, for an operator to investigate."""
STABLE_S = 60.0


class BaseModelFiles(Protocol):
    """Where base models' files come from."""

    async def base_model_folder(self, base_model: BaseModel) -> pathlib.Path:
        """A local folder with the model's files, verified."""


class ChoiceStore(Protocol):
    """Remembers the base model of this server."""

    async def chosen_base_model(self) -> BaseModel | None:
        """The choice, if any."""

    async def choose_base_model(self, base_model: BaseModel) -> BaseModel:
        """Makes the choice unless there is one; returns the stored choice."""

    async def forget_base_model(self, base_model: BaseModel) -> None:
        """Takes this choice back."""


@dataclass(frozen=True, kw_only=True)
class EngineStatus:
    """What is known of the engine. `error` is set only in FAILED."""

    state: EngineState = EngineState.STOPPED
    base_model: BaseModel | None = None
    version: str = ""
    start_duration_s: float = 0.0
    start_count: int = 0
    error: LuthierError | None = None


class EngineHost:
    """Owns the engine. `on_started` loads what should be loaded before the engine is READY."""

    def __init__(
        self,
        *,
        start: StartEngine,
        files: BaseModelFiles,
        store: ChoiceStore,
        set_serving: Callable[[bool], Awaitable[None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._start_engine, self._files, self._store = start, files, store
        self._set_serving, self._clock = set_serving, clock
        self._engine: Engine | None = None
        self._awaiting_restart = False
        self._changed = asyncio.Event()
        self._wanted = asyncio.Event()
        self.status = EngineStatus()
        self.on_started: Callable[[Engine], Awaitable[None]] | None = None
        self.on_died: Callable[[], None] | None = None

    async def want(self, base_model: BaseModel) -> None:
        """Chooses the base model, durably, and has the engine started. OtherBaseModelError if it holds another."""
        chosen = await self._store.choose_base_model(base_model)
        if chosen != base_model and self.status.state is EngineState.FAILED:
            await self._store.forget_base_model(chosen)  # a model that never started must not block another
            chosen = await self._store.choose_base_model(base_model)
        if chosen != base_model:
            raise OtherBaseModelError(
                wanted=base_model.name, wanted_sha256=base_model.sha256, held=chosen.name, held_sha256=chosen.sha256
            )
        if self.status.state in (EngineState.STOPPED, EngineState.FAILED):
            start_count = self.status.start_count
            self._become(EngineStatus(state=EngineState.STARTING, base_model=chosen, start_count=start_count))
            self._wanted.set()

    async def engine_for(self, base_model: BaseModel) -> Engine:
        """The engine once it is ready, started if necessary. OtherBaseModelError, EngineUnavailableError."""
        if self.status.base_model == base_model and self._engine is not None:
            return self._engine
        await self.want(base_model)
        if self._awaiting_restart:
            raise EngineDiedError
        while self.status.state is EngineState.STARTING:
            await self._changed.wait()
        return self.ready_engine()

    def ready_engine(self) -> Engine:
        """The engine, if it can answer now. EngineUnavailableError says why it cannot."""
        if self._engine is not None:
            return self._engine
        if self.status.state is EngineState.STARTING:
            raise EngineUnavailableError(
                "the engine is starting; try again in some seconds", retry_after_s=ENGINE_RETRY_AFTER_S
            )
        if self.status.error is not None:
            raise EngineUnavailableError(
                f"the engine could not start: {self.status.error}",
                metadata={"cause": self.status.error.reason},
                retry_after_s=ENGINE_RETRY_AFTER_S,
            )
        raise EngineUnavailableError("no base model was chosen yet; deploy an adapter or start the engine")

    async def run(self) -> None:
        """Keeps the engine running until cancelled. A background task of the server."""
        chosen = await self._store.chosen_base_model()
        if chosen is not None:
            self._become(EngineStatus(state=EngineState.STARTING, base_model=chosen))
            self._wanted.set()
        else:
            await self._set_serving(True)
        quick_deaths = 0
        while True:
            await self._wanted.wait()
            engine, started = await self._start(), self._clock()
            if engine is None:
                self._wanted.clear()  # `want` sets it again
                continue
            await engine.wait_dead()
            quick_deaths = quick_deaths + 1 if self._clock() - started < STABLE_S else 1
            await self._on_engine_death(engine, give_up=quick_deaths >= MAX_STARTS_IN_A_ROW)

    async def _start(self) -> Engine | None:
        """Starts the engine and loads what should be loaded. On an error: None, and FAILED."""
        base_model, start_count = self.status.base_model, self.status.start_count + 1
        assert base_model is not None
        began, engine, stages = self._clock(), None, StageClock(self._clock)
        try:
            stages.reach("fetch")
            folder = await self._files.base_model_folder(base_model)
            stages.end()
            engine = await self._start_engine(folder)
            stages.reach("replay")
            if self.on_started is not None:
                await self.on_started(engine)
        except LuthierError as error:
            log.error("the engine could not start", extra={"base_model": base_model.name, "reason": error.reason})
            if engine is not None:
                await engine.close()
            self._awaiting_restart = False
            self._become(replace(self.status, state=EngineState.FAILED, error=error, start_count=start_count))
            await self._set_serving(False)
            return None
        self._engine, self._awaiting_restart = engine, False
        self._become(
            EngineStatus(
                state=EngineState.READY,
                base_model=base_model,
                version=engine.version,
                start_duration_s=self._clock() - began,
                start_count=start_count,
            )
        )
        await self._set_serving(True)
        fetched, replayed = stages.end()
        durations = {one.name: round(one.duration_s, 2) for one in (fetched, *engine.start_stages, replayed)}
        log.info(
            "engine ready",
            extra={"version": engine.version, "start_duration_s": self.status.start_duration_s, "stages_s": durations},
        )
        return engine

    async def _on_engine_death(self, engine: Engine, *, give_up: bool) -> None:
        self._engine, self._awaiting_restart = None, not give_up
        error = EngineDiedError() if give_up else None
        self._become(replace(self.status, state=EngineState.FAILED if give_up else EngineState.STARTING, error=error))
        log.error("the engine's process died", extra={"start_count": self.status.start_count, "give_up": give_up})
        if self.on_died is not None:
            self.on_died()
        await self._set_serving(False)
        await engine.close()
        if give_up:
            self._wanted.clear()

    def _become(self, status: EngineStatus) -> None:
        self.status = status
        self._changed.set()
        self._changed = asyncio.Event()

    async def close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.close()
