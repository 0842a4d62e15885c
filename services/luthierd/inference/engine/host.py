"""The life of the one engine: its base model, its start, its death and its restart.

An operator chooses the base model, durably, and may change it: calls in flight get time to end, then another engine
starts. An engine whose process dies is restarted with everything that should be loaded; calls in flight fail with
UNAVAILABLE.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pathlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from luthierd.errors import LuthierError, UnavailableError
from luthierd.inference.domain.deployment import BaseModel
from luthierd.inference.domain.engine import EngineState, StageClock
from luthierd.inference.domain.errors import (
    ENGINE_RETRY_AFTER_S,
    EngineDiedError,
    EngineUnavailableError,
    NoBaseModelError,
    OtherBaseModelError,
)
from luthierd.inference.engine.engine import Engine, StartEngine

log = logging.getLogger(__name__)

MAX_STARTS_IN_A_ROW = 3
"""A third death within `STABLE_S` of a start is not an accident: FAILED, for an operator to investigate."""
STABLE_S = 60.0
START_RETRY_S = 5.0
"""Between two attempts to start while the store with the base model's files is away."""
DRAIN_S = 30.0
"""How long calls in flight may run on when the base model changes, unless the operator names a time."""


class BaseModelFiles(Protocol):
    """Where base models' files come from."""

    async def base_model_folder(self, base_model: BaseModel) -> pathlib.Path:
        """A local folder with the model's files, verified."""


class ChoiceStore(Protocol):
    """Remembers the base model of this server."""

    async def chosen_base_model(self) -> BaseModel | None:
        """The choice, if any."""

    async def choose_base_model(self, base_model: BaseModel) -> None:
        """Makes the choice, in place of an earlier one."""


@dataclass(frozen=True, kw_only=True)
class EngineStatus:
    """What is known of the engine. `error` is set only in FAILED."""

    state: EngineState = EngineState.STOPPED
    base_model: BaseModel | None = None
    version: str = ""
    start_s: float = 0.0
    """Duration of the last start."""
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
        self._users: Counter[Engine] = Counter()
        self._drain_s = DRAIN_S
        self.status = EngineStatus()
        self.on_started: Callable[[Engine, BaseModel], Awaitable[None]] | None = None
        self.on_lost: Callable[[], None] | None = None

    async def use(self, base_model: BaseModel, *, drain_s: float = DRAIN_S) -> None:
        """Chooses the base model, durably, and has the engine started. A FAILED engine is started again.

        An engine with another base model takes no new calls; it ends after its last call, or after `drain_s`.
        """
        await self._store.choose_base_model(base_model)
        await self.follow(base_model, drain_s=drain_s)

    async def follow(self, base_model: BaseModel, *, drain_s: float = DRAIN_S) -> None:
        """Like `use`, for a choice that was made elsewhere."""
        status = self.status
        if status.base_model == base_model and status.state not in (EngineState.STOPPED, EngineState.FAILED):
            return
        self._drain_s = drain_s
        if self._engine is None:
            self._awaiting_restart = False
            starting = EngineStatus(state=EngineState.STARTING, base_model=base_model, start_count=status.start_count)
            self._become(starting)
        else:
            self._engine = None
            self._become(replace(status, state=EngineState.DRAINING, base_model=base_model))
            if self.on_lost is not None:
                self.on_lost()
        self._wanted.set()
        await self._set_serving(False)

    def check_serves(self, base_model: BaseModel) -> None:
        """NoBaseModelError, OtherBaseModelError."""
        held = self.status.base_model
        if held is None:
            raise NoBaseModelError(wanted=base_model.name)
        if held != base_model:
            raise OtherBaseModelError(
                wanted=base_model.name, wanted_sha256=base_model.sha256, held=held.name, held_sha256=held.sha256
            )

    async def engine_for(self, base_model: BaseModel) -> Engine:
        """The engine once it is ready. NoBaseModelError, OtherBaseModelError, EngineUnavailableError."""
        self.check_serves(base_model)
        if self._awaiting_restart:
            raise EngineDiedError
        while self.status.state in (EngineState.STARTING, EngineState.DRAINING):
            await self._changed.wait()
            self.check_serves(base_model)
        return self.ready_engine()

    @contextlib.contextmanager
    def in_use(self) -> Iterator[Engine]:
        """The engine, if it can answer now; a change of the base model waits for the end of the block."""
        engine = self.ready_engine()
        self._users[engine] += 1
        try:
            yield engine
        finally:
            self._users[engine] -= 1
            if not self._users[engine]:
                del self._users[engine]
                self._changed.set()
                self._changed = asyncio.Event()

    def ready_engine(self) -> Engine:
        """The engine, if it can answer now. EngineUnavailableError says why it cannot."""
        if self._engine is not None:
            return self._engine
        if self.status.state in (EngineState.STARTING, EngineState.DRAINING):
            raise EngineUnavailableError(
                "the engine is starting; try again in some seconds", retry_after_s=ENGINE_RETRY_AFTER_S
            )
        if self.status.error is not None:
            raise EngineUnavailableError(
                f"the engine could not start: {self.status.error}",
                metadata={"cause": self.status.error.reason},
                retry_after_s=ENGINE_RETRY_AFTER_S,
            )
        raise NoBaseModelError(wanted="nothing")

    async def read(self) -> None:
        """Reads the choice of the base model. Once, before the first request."""
        chosen = await self._store.chosen_base_model()
        if chosen is not None:
            self._become(EngineStatus(state=EngineState.STARTING, base_model=chosen))
            self._wanted.set()

    async def run(self) -> None:
        """Keeps the engine running until cancelled. A background task of the server."""
        if not self._wanted.is_set():
            await self._set_serving(True)
        quick_deaths = 0
        while True:
            await self._wanted.wait()
            engine, started = await self._start(), self._clock()
            if engine is None:
                continue
            if await self._lives_until_replaced(engine):
                await self._drain(engine)
                quick_deaths = 0
                continue
            quick_deaths = quick_deaths + 1 if self._clock() - started < STABLE_S else 1
            await self._on_engine_death(engine, give_up=quick_deaths >= MAX_STARTS_IN_A_ROW)

    async def _lives_until_replaced(self, engine: Engine) -> bool:
        """Returns True once another base model was chosen, False if the engine's process ended before."""
        death = asyncio.create_task(engine.wait_dead())
        try:
            while not death.done():
                if self._engine is not engine:
                    return True
                change = asyncio.create_task(self._changed.wait())
                await asyncio.wait([death, change], return_when=asyncio.FIRST_COMPLETED)
                change.cancel()
            return False
        finally:
            death.cancel()

    async def _drain(self, engine: Engine) -> None:
        """Closes a replaced engine after its last call."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._drain_s):
                while self._users[engine]:
                    await self._changed.wait()
        log.info("the engine makes way for another base model", extra={"calls_ended": self._users[engine]})
        await engine.close()
        self._become(replace(self.status, state=EngineState.STARTING))

    async def _start(self) -> Engine | None:
        """Starts the engine and loads what should be loaded. None on an error, or if another model was chosen since."""
        base_model, start_count = self.status.base_model, self.status.start_count + 1
        assert base_model is not None
        began, engine, stages = self._clock(), None, StageClock(self._clock)
        try:
            stages.reach("fetch")
            folder = await self._files.base_model_folder(base_model)
            stages.end()
            engine = await self._start_engine(folder)
            stages.reach("replay")
            if self.on_started is not None and self.status.base_model == base_model:
                await self.on_started(engine, base_model)
        except LuthierError as error:
            if engine is not None:
                await engine.close()
            await self._on_start_failed(base_model, error, start_count)
            return None
        if self.status.base_model != base_model:
            if self.on_lost is not None:
                self.on_lost()
            await engine.close()
            return None
        self._engine, self._awaiting_restart = engine, False
        self._become(
            EngineStatus(
                state=EngineState.READY,
                base_model=base_model,
                version=engine.version,
                start_s=self._clock() - began,
                start_count=start_count,
            )
        )
        await self._set_serving(True)
        fetched, replayed = stages.end()
        durations = {one.name: round(one.duration_s, 2) for one in (fetched, *engine.start_stages, replayed)}
        log.info(
            "engine ready",
            extra={"version": engine.version, "start_duration_s": self.status.start_s, "stages_s": durations},
        )
        return engine

    async def _on_start_failed(self, base_model: BaseModel, error: LuthierError, start_count: int) -> None:
        """FAILED, for the operator; or, if the store with the model's files is away, a pause."""
        log.error("the engine could not start", extra={"base_model": base_model.name, "reason": error.reason})
        if self.status.base_model != base_model:
            return
        if isinstance(error, UnavailableError):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), START_RETRY_S)
            return
        self._awaiting_restart = False
        self._wanted.clear()  # `use` sets it again
        self._become(replace(self.status, state=EngineState.FAILED, error=error, start_count=start_count))
        await self._set_serving(False)

    async def _on_engine_death(self, engine: Engine, *, give_up: bool) -> None:
        self._engine, self._awaiting_restart = None, not give_up
        error = EngineDiedError() if give_up else None
        self._become(replace(self.status, state=EngineState.FAILED if give_up else EngineState.STARTING, error=error))
        log.error("the engine's process died", extra={"start_count": self.status.start_count, "give_up": give_up})
        if self.on_lost is not None:
            self.on_lost()
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
